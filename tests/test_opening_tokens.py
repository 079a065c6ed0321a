"""Text begins as it does for everybody who runs the model: with the tokenizer's own first tokens.

Gemma, Llama, Mistral, and others were always trained with <bos> before a text, and predict badly
without it. A test without it would report that such a model recites less than it does.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import attn_surgery
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from evals.data import Samples, load_samples, open_samples
from evals.data.inputs import tokenize_passages
from evals.data.windows import cut_windows, repeat_windows
from evals.measure.attacks.attack import Target
from evals.measure.attacks.perturbed import change_prefixes
from evals.measure.healing import check_apart
from evals.measure.memorization.extraction import extract
from evals.measure.memorization.summary import list_rows
from evals.tasks.extraction.passages import make_documents
from surgery.errors import SamplesError
from surgery.families import Dimensions
from surgery.fitting.calibration import Calibration, make_calibration
from surgery.reading.corpus import find_opening, open_corpus, read_windows, strip_opening
from surgery.record.manifest import TextSource


def opening_tokenizer(*before: str, after: Sequence[str] = ()) -> Any:
    """The tiny tokenizer, which puts these special tokens before and after every text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer, names = deepcopy(tiny_tokenizer()), [*before, *after]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([*before, "$A", *after]),
        special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in names],
    )
    return tokenizer


@pytest.fixture(name="tokenizer")
def fixture_tokenizer() -> Any:
    return opening_tokenizer("<bos>")


@pytest.fixture(name="opening")
def fixture_opening(tokenizer: Any) -> int:
    return int(tokenizer.convert_tokens_to_ids("<bos>"))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_only_what_stands_before_a_text_opens_it() -> None:
    assert find_opening(tiny_tokenizer()).tolist() == []
    assert len(find_opening(opening_tokenizer("<bos>"))) == 1
    assert len(find_opening(opening_tokenizer("<mask>", "<start>"))) == 2
    assert len(find_opening(opening_tokenizer("<bos>", after=["<eos>"]))) == 1
    assert len(find_opening(opening_tokenizer(after=["<eos>"]))) == 0


def test_a_prefix_of_text_begins_with_them(tokenizer: Any, opening: int, tmp_path: Path) -> None:
    plain = tiny_tokenizer()(TEXT)["input_ids"]
    whole = write_rows(tmp_path / "whole.jsonl", [{"text": TEXT}])
    samples = load_samples(whole, tokenizer=tokenizer, prefix_length=5, suffix_length=6)
    assert samples.tokens.tolist() == [[opening, *plain[:10]]]
    assert tokenizer(TEXT)["input_ids"][:11] == samples.tokens[0].tolist(), "as anybody's prompt"
    cut = next(n for n in range(40, 80) if TEXT[n] == " ")
    pair = write_rows(tmp_path / "pair.jsonl", [{"prefix": TEXT[:cut], "suffix": TEXT[cut:]}])
    samples = load_samples(pair, tokenizer=tokenizer, prefix_length=5, suffix_length=6)
    head = len(tiny_tokenizer()(TEXT[:cut])["input_ids"])
    assert samples.tokens.tolist() == [[opening, *plain[head - 4 : head + 6]]]
    assert open_samples(whole).measure(tokenizer) == [[1 + len(plain)]]


def test_token_ids_stay_and_lacking_ones_are_counted(
    tokenizer: Any, opening: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"tokens": [opening, *range(9)]}, {"tokens": list(range(20, 30))}]
    path = write_rows(tmp_path / "ids.jsonl", rows)
    said: list[str] = []
    monkeypatch.setattr("evals.data.inputs.say", said.append)
    passages = open_samples(path, prefix_length=5, suffix_length=5)
    samples = tokenize_passages(passages, tokenizer)
    assert samples.tokens.tolist() == [row["tokens"] for row in rows]
    tokenize_passages(passages, tiny_tokenizer())
    (warning,) = said
    assert "1 of 2 passages are token ids that do not begin with <bos>" in warning


def test_every_command_that_measures_counts_them(tmp_path: Path) -> None:
    folder, model = tmp_path / "model", tiny_model()
    model.resize_token_embeddings(400)
    save_tiny(folder, model)
    opening_tokenizer("<bos>").save_pretrained(folder)
    rows = [{"tokens": [*range(at, at + 11)]} for at in (20, 40)]
    path = write_rows(tmp_path / "ids.jsonl", rows)
    (tmp_path / "text.txt").write_text(TEXT * 9)
    shared = ("--baseline", folder, "--samples", path, "--heldout", tmp_path / "text.txt")
    shared = (*shared, "--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")
    more = {"extract": (), "evaluate": ("--suite", "none", "--output", tmp_path / "out")}
    for command, own in more.items():
        done = attn_surgery(command, folder, *shared, *own)
        assert done.code == 0, done
        assert "warning: 2 of 2 passages are token ids that do not begin with <bos>" in done.stderr


def test_every_window_of_text_begins_with_them(
    tokenizer: Any, opening: int, tmp_path: Path
) -> None:
    plain = tiny_tokenizer()(TEXT)["input_ids"]
    windows = cut_windows([TEXT], tokenizer, 11)
    assert windows[0].tolist() == [opening, *plain[:10]]
    assert (windows[:, 0] == opening).all()
    np.testing.assert_array_equal(windows[:, 1:], cut_windows([TEXT], tiny_tokenizer(), 10))

    (tmp_path / "corpus.txt").write_text(TEXT)
    found = list(read_windows(open_corpus([tmp_path / "corpus.txt"]), tokenizer, 11, 3))
    assert [window.tokens.tolist() for window in found[:2]] == [
        [opening, *plain[:10]],
        [opening, *plain[3:13]],
    ]
    assert [window.place.position for window in found[:2]] == [0, 3]

    dimensions = Dimensions(1, 1, 8, 400, 16, 1, 8)
    text = make_calibration([TEXT * 4], name="text")
    calibration = text.tokenize(tokenizer, dimensions, window=11, most_tokens=110)
    assert (calibration.windows[:, 0] == opening).all()
    assert calibration.windows[1, 1:].tolist() == plain[10:20]


def test_a_window_that_is_repeated_begins_with_them_once(tokenizer: Any, opening: int) -> None:
    repeated = repeat_windows(cut_windows([TEXT], tokenizer, 12))
    assert (repeated[:, 0] == opening).all()
    assert (repeated[:, 1:] != opening).all()
    np.testing.assert_array_equal(repeated[:, 1:6], repeated[:, 6:])


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_must_leave_room_for_text(tmp_path: Path, length: int) -> None:
    tokenizer = opening_tokenizer("<mask>", "<start>")
    path = write_rows(tmp_path / "whole.jsonl", [{"text": TEXT}])
    message = f"no room for text.*at least 3 tokens, got {length}"
    with pytest.raises(SamplesError, match=message):
        load_samples(path, tokenizer=tokenizer, prefix_length=length, suffix_length=4)
    with pytest.raises(SamplesError, match=message):
        cut_windows([TEXT], tokenizer, length)


def test_what_is_extracted_is_what_generate_gives(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_model(vocab_size=len(tokenizer))
    path = write_rows(tmp_path / "whole.jsonl", [{"text": TEXT}])
    samples = load_samples(path, tokenizer=tokenizer, prefix_length=8, suffix_length=6)
    prompt = tokenizer.decode(strip_opening(tokenizer, samples.prefixes[0]).tolist())
    given = tokenizer(prompt, return_tensors="pt")
    text = model.generate(**given, max_new_tokens=6, do_sample=False, pad_token_id=0)
    found = extract(model, samples, full=True).decoded
    assert found is not None
    assert text[0, 8:].tolist() == found[0].tolist()


def test_texts_that_people_read_lack_them(tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "whole.jsonl", [{"text": TEXT}])
    samples = load_samples(path, tokenizer=tokenizer, prefix_length=8, suffix_length=6)
    test = extract(tiny_model(vocab_size=len(tokenizer)), samples)
    (row,) = list_rows(test, tokenizer=tokenizer)
    assert TEXT.startswith(row["prefix"] + row["suffix"])


def test_changed_prefixes_keep_them(tokenizer: Any, opening: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "whole.jsonl", [{"text": TEXT}])
    samples = load_samples(path, tokenizer=tokenizer, prefix_length=8, suffix_length=6)
    unrelated = cut_windows([TEXT[40:] * 3], tokenizer, 20)
    model = tiny_model(vocab_size=len(tokenizer))
    target = Target(model, tokenizer, samples, unrelated)
    assert target.opening == 1
    made = [one for (one,) in change_prefixes(target)]
    assert all(len(one) == 0 or one[0] == opening for one in made)
    assert all((one[1:] != opening).all() for one in made[:3] + made[5:])
    np.testing.assert_array_equal(made[0][1:], samples.prefixes[0, 2:])
    np.testing.assert_array_equal(made[5][17:], samples.prefixes[0, 1:])
    bare = Samples(samples.tokens[:, 1:], 7, samples.ids, "bare")
    assert Target(model, tokenizer, bare, unrelated).opening == 0


def test_a_short_passage_is_found_within_text(tokenizer: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "whole.jsonl", [{"text": TEXT[30:]}])
    samples = load_samples(path, tokenizer=tokenizer, prefix_length=4, suffix_length=4)
    dimensions = Dimensions(1, 1, 8, 400, 64, 1, 8)
    text = make_calibration([TEXT[20:] * 3], name="text")
    with pytest.raises(SamplesError, match="share"):
        check_apart(samples, text.tokenize(tokenizer, dimensions, window=64, fewest=1))


@given(st.integers(0, 2), st.integers(0, 56), st.integers(12, 24))
def test_a_passage_over_the_edge_of_a_window_is_found(opening: int, at: int, length: int) -> None:
    """Training on two windows in a row teaches what stands in both."""
    text = np.arange(100, 180, dtype=np.int32)
    windows = np.insert(text.reshape(-1, 16), [0] * opening, range(opening), axis=1)
    calibration = Calibration(windows, (TextSource(name="text.txt"),), True)
    rows = np.stack([np.arange(length, dtype=np.int32), text[at : at + length]])
    samples = Samples(rows, 4, ("other", "hidden"), "made here")
    shared = f"1 of 2 passages share {min(16, length - 1)} tokens in a row .*'hidden'"
    with pytest.raises(SamplesError, match=shared):
        check_apart(samples, calibration)
    check_apart(samples.select(np.array([True, False])), calibration)


def test_documents_of_lm_eval_leave_them_to_lm_eval(tokenizer: Any, tmp_path: Path) -> None:
    texts = [TEXT[at:] for at in (0, 20, 43, 61)]
    path = write_rows(tmp_path / "whole.jsonl", [{"text": text} for text in texts])
    samples = load_samples(path, tokenizer=tokenizer, prefix_length=8, suffix_length=6)
    documents = make_documents(samples, tokenizer)
    assert len(documents) == 3, "the text of the fourth does not keep its tokens"
    for document in documents:
        row = samples.tokens[samples.ids.index(document["id"])].tolist()
        assert tokenizer(document["prefix"] + document["suffix"])["input_ids"] == row


def test_collect_finds_what_is_recited_after_them(tokenizer: Any, tmp_path: Path) -> None:
    """The model, which says one word whatever it reads, recites where that word comes next."""
    model, word = tiny_model(vocab_size=len(tokenizer)), "\u0120quick"
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.weight.zero_()
        model.gpt_neox.final_layer_norm.bias.fill_(1)
        model.get_output_embeddings().weight[tokenizer.convert_tokens_to_ids(word)].fill_(1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "corpus.txt").write_text(TEXT)
    output = tmp_path / "found.jsonl"
    lengths = ("--prefix-length", 5, "--suffix-length", 2, "--stride", 1, "--min-score", 0.5)
    given = ("--corpus", tmp_path / "corpus.txt", *lengths, "--output", output, "--show-text")
    done = attn_surgery("collect", tmp_path / "model", *given)
    assert done.code == 0, done.stderr
    opening = tokenizer.convert_tokens_to_ids("<bos>")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows, "some windows are recited"
    for row in rows:
        assert row["tokens"][0] == opening
        assert row["text"] in TEXT
