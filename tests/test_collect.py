"""`collect` finds what a model recites, wherever it is, and nothing else.

What it keeps equals a plain loop over all windows; recited passages hidden in a corpus of every
form are found at their place; its output is samples on which `extract` finds every row exact; a
run that is killed at any batch, or in the middle of a write, ends with the same file as one that
is not.
"""

from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import command_line
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from reciting import generate
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from benchmarks.settling import settle
from evals.data import load_samples
from evals.jobs.collecting import CollectRequest, Windows, collect
from evals.measure.memorization.extraction import extract
from evals.measure.memorization.measures import token_accuracy
from evals.run.console import Console, use_console
from evals.run.keep import find_cache
from evals.run.models import open_model
from evals.run.request import describe_mistakes
from surgery.errors import SamplesError
from surgery.reading.corpus import Corpus, open_corpus, read_windows


def cut_at(stride: int, prefix: int = 6, score: float = 1.0) -> Windows:
    return Windows(prefix_length=prefix, suffix_length=5, stride=stride, min_score=score)


CUT = cut_at(3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model, whose name is its folder."""
    return open_model(str(save_tiny(tmp_path_factory.mktemp("tiny"))), device="cpu").model


@pytest.fixture(scope="module")
def planted(model) -> list[str]:
    """Documents; every second ends with what the model says after its first tokens."""
    tokenizer, documents = tiny_tokenizer(), []
    ids = tokenizer(TEXT)["input_ids"]
    for start in range(0, 120, 2):
        prefix = ids[start : start + 6]
        said = generate(model, torch.tensor([prefix]), 5)[0].tolist()
        text = tokenizer.decode(prefix + said)
        if tokenizer.encode(text) == prefix + said:
            documents += [text, tokenizer.decode(ids[start : start + 30])]
        if len(documents) == 14:
            break
    assert len(documents) > 10
    return documents


def write(folder: Path, documents: list[str]) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ask(model, corpus: tuple[Path, ...], cut: Windows = CUT, cache: bool = True) -> CollectRequest:
    given = {"model": model.name_or_path, "batch_size": 4, "device": "cpu"}
    return CollectRequest.of(corpus=corpus, windows=cut, no_cache=not cache, **given)


def run(model, corpus: Path, output: Path, cut: Windows = CUT, advance=None, cache=True, **options):
    console = Console()
    if advance is not None:
        console = Console(show_progress=lambda text, total: nullcontext(advance))
    with use_console(console):
        found = collect(ask(model, (corpus,), cut, cache), output, **options)
    return SimpleNamespace(**found), read(output)


def by_hand(model, documents: list[str], cut: Windows) -> list[tuple[int, int, float]]:
    found = []
    for number, text in enumerate(documents):
        ids = tiny_tokenizer()(text)["input_ids"]
        for start in range(0, len(ids) - cut.length + 1, cut.stride):
            window = torch.tensor([ids[start : start + cut.length]])
            with torch.inference_mode():
                greedy = model(window).logits.argmax(-1)[:, cut.prefix_length - 1 : -1].numpy()
            score = token_accuracy(greedy, window[:, cut.prefix_length :].numpy())[0]
            if score >= cut.min_score:
                found.append((number, start, float(score)))
    return found


@pytest.mark.parametrize("cut", [CUT, cut_at(1), cut_at(1, score=0.4), cut_at(20)])
def test_it_keeps_what_a_plain_loop_keeps(model, planted, tmp_path, cut):
    corpus = write(tmp_path, planted)
    found, rows = run(model, corpus, tmp_path / "out.jsonl", cut)
    slow = by_hand(model, planted, cut)
    assert found.recited == len(slow) == sum(row["seen"] for row in rows)
    firsts = {tuple(place) for place in slow}
    assert {
        (row["document"], row["position"], row["next_token_accuracy"]) for row in rows
    } <= firsts
    assert len({row["hash"] for row in rows}) == len(rows) == found.distinct
    recited = {number for number, start, score in slow if start == 0 and score == 1}
    assert set(range(0, len(planted), 2)) <= recited


def test_its_output_is_samples_that_extract_finds_exact(model, planted, tmp_path):
    _, rows = run(model, write(tmp_path, planted), tmp_path / "out.jsonl")
    samples = load_samples(str(tmp_path / "out.jsonl"), prefix_length=6, suffix_length=5)
    assert extract(model, samples).exact.all()
    assert list(samples.hashes) == [row["hash"] for row in rows]
    assert rows[0]["id"] == f"1:{rows[0]['document']}:{rows[0]['position']}"
    assert "text" not in rows[0]


@pytest.mark.parametrize("together", [False, True])
def test_ids_are_numbers_as_reports_show_them(model, planted, tmp_path, together):
    """The names of files and folders may be people's."""
    places = [tmp_path / "mail" / "alice.smith", tmp_path / "mail" / "bob"]
    for place, document in zip(places, planted[::2], strict=False):
        place.mkdir(parents=True)
        write(place, [document])
    output = tmp_path / "out.jsonl"
    collect(ask(model, (tmp_path / "mail",) if together else tuple(places)), output)
    assert [row["id"] for row in read(output)] == ["1:0:0", "2:0:0"]
    folders = ("alice.smith/", "bob/") if together else ("", "")
    assert [row["file"] for row in read(output)] == [f"{name}corpus.jsonl" for name in folders]
    assert len(load_samples(str(output), prefix_length=6, suffix_length=5)) == 2


def test_text_only_when_asked_for(model, planted, tmp_path):
    _, rows = run(model, write(tmp_path, planted), tmp_path / "out.jsonl", show_text=True)
    assert rows[0]["text"] == tiny_tokenizer().decode(rows[0]["tokens"])


def test_equal_windows_are_kept_once_and_counted(model, planted, tmp_path):
    corpus = write(tmp_path, [planted[0]] * 3)
    found, rows = run(model, corpus, tmp_path / "out.jsonl")
    assert (found.recited, found.distinct) == (3, 1)
    assert (rows[0]["seen"], rows[0]["document"]) == (3, 0)


class KilledError(Exception):
    pass


@settings(max_examples=5, deadline=None)
@given(after=st.integers(1, 8), torn=st.booleans())
def test_a_killed_run_goes_on_to_the_same_file(model, planted, tmp_path_factory, after, torn):
    folder = tmp_path_factory.mktemp("killed")
    corpus, whole, output = write(folder, planted), folder / "whole.jsonl", folder / "out.jsonl"
    expected, _ = run(model, corpus, whole, cache=False)
    left = after

    def stop(tokens: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KilledError

    with pytest.raises(KilledError):
        run(model, corpus, output, advance=stop)
    assert not output.exists()
    if torn and (kept := [*find_cache().rglob("*.json")]):
        kept[0].write_bytes(kept[0].read_bytes()[:-9])
    found, _ = run(model, corpus, output)
    assert output.read_bytes() == whole.read_bytes()
    assert (found.windows, found.recited) == (expected.windows, expected.recited)


def test_a_step_that_is_lost_between_others_is_made_again(model, planted, tmp_path):
    """Those after it are still taken from the store."""
    corpus, whole, output = (
        write(tmp_path, planted),
        tmp_path / "whole.jsonl",
        tmp_path / "out.jsonl",
    )
    expected, _ = run(model, corpus, whole, cache=False)
    run(model, corpus, output)
    for kept in [*find_cache().rglob("*.json")]:
        content = kept.read_bytes()
        kept.unlink()
        found, _ = run(model, corpus, output, overwrite=True)
        assert output.read_bytes() == whole.read_bytes()
        assert (found.windows, found.recited) == (expected.windows, expected.recited)
        kept.write_bytes(content)


def test_resuming_does_not_tokenize_what_was_done(model, planted, tmp_path):
    corpus, output = write(tmp_path, planted), tmp_path / "out.jsonl"
    whole, _ = run(model, corpus, tmp_path / "whole.jsonl", cache=False)
    calls = 0

    def stop(tokens: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KilledError

    with pytest.raises(KilledError):
        run(model, corpus, output, advance=stop)
    found, _ = run(model, corpus, output)
    assert found.resumed
    assert found.tokens < 0.7 * whole.tokens


def test_what_was_done_with_other_settings_is_not_taken_up(model, planted, tmp_path):
    """Nor with another model, text of the same size, or another column."""
    (tmp_path / "other").mkdir()
    corpus, output = write(tmp_path, planted), tmp_path / "out.jsonl"
    assert not run(model, corpus, output)[0].resumed
    assert run(model, corpus, output, overwrite=True)[0].resumed
    changed = write(tmp_path / "other", [text.swapcase() for text in planted])
    assert changed.stat().st_size == corpus.stat().st_size
    other = open_model(str(save_tiny(tmp_path / "model", tiny_model(seed=1))), device="cpu").model
    other.name_or_path = str(tmp_path / "model")
    table = tmp_path / "t.jsonl"
    table.write_text(json.dumps({"question": TEXT * 2, "answer": TEXT.swapcase() * 2}))
    columns = [Path(f"{table}:{name}") for name in ("question", "answer")]
    for asked in (
        (model, corpus, output, cut_at(2)),
        (other, corpus, output),
        *((model, file, output) for file in (changed, *columns)),
    ):
        assert not run(*asked, overwrite=True)[0].resumed, asked


def test_windows_longer_than_the_context_are_refused(model, planted, tmp_path):
    with pytest.raises(SamplesError, match=r"at most 64 tokens, got 65\)"):
        run(model, write(tmp_path, planted), tmp_path / "out.jsonl", cut_at(3, prefix=60))


# ------------------------------------------------------------------------------------ the corpus


def texts(corpus: Corpus, length: int = 4, stride: int = 1, **options) -> list[str]:
    tokenizer = tiny_tokenizer()
    return [
        tokenizer.decode(window.tokens.tolist())
        for window in read_windows(corpus, tokenizer, length, stride, **options)
    ]


def test_held_out_text_is_read_as_a_corpus_is_in_every_form(tmp_path):
    """Of `--control` and `--corpus` alike; rows of a table have an empty line between them."""
    from evals.data.inputs import read_heldout_texts

    rows = [{"text": "one fish\n"}, {"text": "two fish\n"}]
    (tmp_path / "a.txt").write_text("one fish\n\n\ntwo fish\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(pa.compress(raw, "zstd", asbytes=True))
    (tmp_path / "set").mkdir()
    for file in ("a.parquet", "set/train.parquet"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / file)
    named = [tmp_path / name for name in ("a.txt", "a.jsonl", "a.jsonl.zst", "a.parquet")]
    named.append(Path(f"hf:{tmp_path / 'set'}:train:text"))
    assert read_heldout_texts(named) == ["one fish\n\n\ntwo fish\n"] * 5


def test_a_folder_is_read_by_name_and_only_its_texts(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("the lazy dog")
    (tmp_path / "a.md").write_text("the quick brown fox")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    corpus = open_corpus([tmp_path])
    assert [file.name for file in corpus] == ["a.md", "sub/b.txt"]
    assert [window.place.file for window in read_windows(corpus, tiny_tokenizer(), 3, 3)] == [0, 1]


@given(length=st.integers(1, 9), stride=st.integers(1, 14), piece=st.integers(1, 60))
def test_pieces_of_a_text_join_without_a_seam(tmp_path_factory, length, stride, piece):
    from unittest import mock

    folder = tmp_path_factory.mktemp("pieces")
    (folder / "a.txt").write_text(TEXT)
    with mock.patch("surgery.reading.corpus._PIECE", piece):
        found = list(read_windows(open_corpus([folder]), tiny_tokenizer(), length, stride))
        after = found[len(found) // 2].place
        rest = list(
            read_windows(open_corpus([folder]), tiny_tokenizer(), length, stride, after=after)
        )
    places = [window.place.position for window in found]
    assert places == list(range(0, places[-1] + 1, stride))
    total = max(window.place.position + length for window in found)
    stream = np.full(total, -1)
    for window in found:
        stream[window.place.position : window.place.position + length] = window.tokens
    if stride <= length:
        decoded = tiny_tokenizer().decode(stream.tolist())
        assert TEXT.startswith(decoded)
        assert len(TEXT) - len(decoded) < 40 * max(length, stride)
    assert [window.place for window in rest] == [w.place for w in found[len(found) // 2 + 1 :]]
    for again, once in zip(rest, found[len(found) // 2 + 1 :], strict=True):
        assert again.tokens.tolist() == once.tokens.tolist()


def test_mistakes_in_a_corpus(tmp_path):
    def message(*paths: Path) -> str:
        with pytest.raises(SamplesError) as error:
            texts(open_corpus(paths))
        return str(error.value)

    assert message(tmp_path / "none") == f"{tmp_path / 'none'}: no such file or folder"
    assert message(tmp_path) == (
        f"{tmp_path}: holds no text files (expected .txt, .md, .rst, .py, .text, .jsonl, .csv, "
        ".tsv, .parquet)"
    )
    (tmp_path / "a.txt").write_bytes(b"\xff\xff")
    assert message(tmp_path / "a.txt").startswith(f"{tmp_path / 'a.txt'}: not UTF-8 text")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"words": 1}\n')
    assert message(tmp_path / "a.jsonl") == (
        f"{tmp_path / 'a.jsonl'} line 2: no text in column 'text' (got no such column)"
    )
    (tmp_path / "a.jsonl.zst").write_bytes(b"no zstandard at all")
    found = message(tmp_path / "a.jsonl.zst")
    assert "a.jsonl.zst: cannot be read (got ZSTD decompress failed" in found
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": 5}\n')
    assert message(tmp_path / "a.jsonl") == (
        f"{tmp_path / 'a.jsonl'} line 2: no text in column 'text' (got int)"
    )
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "a.parquet")
    assert message(tmp_path / "a.parquet") == (
        f"{tmp_path / 'a.parquet'} row 1: no text in column 'text' (got no such column); columns "
        "found: words; name the one to use: FILE:COLUMN"
    )
    for column, got in (
        (["a", None], "row 2: no text in column 'text' (got NoneType)"),
        ([1], "int"),
    ):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        assert got in message(tmp_path / "a.parquet")


def test_a_run_that_did_nothing_leaves_nothing(model, planted, tmp_path):
    output = tmp_path / "out.jsonl"
    (tmp_path / "bad.jsonl").write_text('{"text": 5}\n')
    with pytest.raises(SamplesError, match=r"line 1: no text in column 'text' \(got int\)"):
        run(model, tmp_path / "bad.jsonl", output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"prefix_length": 0}, "`prefix_length`: Input should be greater than or equal to 1"),
        ({"suffix_length": 0}, "`suffix_length`: Input should be greater than or equal to 1"),
        ({"stride": 0}, "`stride`: Input should be greater than or equal to 1"),
        ({"min_score": 0.0}, "`min_score`: Input should be greater than 0"),
    ],
)
def test_cuts_that_mean_nothing(cut, message):
    with pytest.raises(ValidationError) as error:
        Windows(**cut)
    assert describe_mistakes(CollectRequest, error.value) == message


# ----------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), model)


def arguments(folder: Path, corpus: Path, output: Path) -> list[str]:
    lengths = ["--prefix-length", "6", "--suffix-length", "5", "--stride", "3"]
    files = ["--corpus", str(corpus), "--output", str(output)]
    return [str(folder), *files, *lengths, "--device", "cpu", "--batch-size", "4"]


def test_the_command(folder, model, planted, tmp_path):
    from cli.commands.measure.collect import command

    corpus = write(tmp_path, planted)
    expected, _ = run(model, corpus, tmp_path / "library.jsonl", cache=False)
    output = tmp_path / "out.jsonl"
    result = CliRunner().invoke(
        command, settle("collect", *arguments(folder, corpus, output), "--json")[1:]
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["recited"] == expected.recited
    assert printed["tokens_per_second"] > 0
    assert output.read_bytes() == (tmp_path / "library.jsonl").read_bytes()


KILLED = """
import os, signal
from cli.main import run
from evals.run.keep import Store
write, steps = Store.write, []

def killed(store, file, step):
    write(store, file, step)
    steps.append(step)
    if len(steps) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Store.write = killed
run()
"""


@pytest.mark.slow
def test_the_command_survives_being_killed(folder, planted, tmp_path):
    corpus = write(tmp_path, planted * 4)
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    call = ("collect", *arguments(folder, corpus, output))
    killed = command_line.finish(command_line.start(*call, program=("-c", KILLED)))
    assert killed.code == -signal.SIGKILL, killed
    assert not output.exists()
    for to in (output, whole):
        done = command_line.attn_surgery("collect", *arguments(folder, corpus, to))
        assert done.code == 0, done.stderr
        if to is output:
            assert "continued an earlier run" in done.stderr
    assert output.read_bytes() == whole.read_bytes()
