"""Repeating a recorded edit.

- What an export made is repeated bit for bit, for every variant and layout, from its recorded
  source, sharding included.
- Any file that differs is named, and so are versions that do; a fitted tensor may differ within
  the tolerance, an untouched one may not.
- A source or a text that is not there, or is another one by its content, is one line that says
  what to give.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery, run_card, snapshot
from decoders import HEADS, SIZE, D, write_decoder
from fits import export_with_any, random_fits, record_of
from forging import edit_json, edit_weights, seal
from safetensors.numpy import load_file, save_file
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from evals.jobs.reproducing import Inputs, reproduce_history
from surgery.card.text import render_card
from surgery.checkpoint.content import hash_content
from surgery.editing.preparing import Fitting
from surgery.errors import CheckpointError
from surgery.exporting import Export
from surgery.proof.distance import TOLERANCE
from surgery.record.manifest import Manifest
from surgery.reproduction import open_original, reproduce


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    config = neox_config(
        max_position_embeddings=64, num_hidden_layers=3, vocab_size=400, torch_dtype="float32"
    )
    write_checkpoint(folder, config, num_shards=2)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT * 20)
    return file


@pytest.fixture
def edited(source: Path, tmp_path: Path) -> Path:
    return surgery.export(source, "1,2.0", output=tmp_path / "edited").output


@pytest.mark.parametrize("layout", ["stock", "compact"])
@pytest.mark.parametrize("shard_size", [pytest.param(None, marks=pytest.mark.slow), 200_000])
def test_identity_and_zero_repeat_bit_for_bit(
    source: Path, tmp_path: Path, layout: str, shard_size: int | None
) -> None:
    options: dict[str, Any] = {"layout": layout, "max_shard_size": shard_size}
    spec = "1" if layout == "compact" else "1,2.0"
    once = surgery.export(source, spec, output=tmp_path / "once", **options).output
    twice = surgery.export(once, "0", variant="zero", output=tmp_path / "twice").output
    before = snapshot(tmp_path)
    done = attn_surgery("reproduce", once, "--source", source, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert (done.json["reproduced"], done.json["exact"]) == (True, True)
    recorded = json.loads((once / "surgery.json").read_text())["files"]
    assert {f["name"]: f["repeated"] for f in done.json["files"]} == {
        name: record["sha256"] for name, record in recorded.items()
    }
    assert done.json["source"]["model"] == "model"
    assert not done.json["source_is_edited"]
    said = "The source, once, is itself an edited model. Without --source, it is made, too.\n"
    for first, name, told in ((source, "model", ""), (once, "once", said)):
        again = attn_surgery("reproduce", twice, "--source", first)
        assert (again.code, again.stderr) == (0, told)
        assert again.stdout.endswith(f"files reproduced bit for bit from {name}\n")
    assert snapshot(tmp_path) == before


def test_the_repeated_export_can_be_kept(edited: Path, source: Path, tmp_path: Path) -> None:
    assert (
        attn_surgery("reproduce", edited, "--source", source, "--output", tmp_path / "kept").code
        == 0
    )
    kept, original = snapshot(tmp_path / "kept"), snapshot(edited)
    for name in json.loads((edited / "surgery.json").read_text())["files"]:
        assert kept[name] == original[name]
    attn_surgery(
        "reproduce", edited, "--source", source, "--output", tmp_path / "kept"
    ).assert_error("already exists")


def test_the_repeated_export_can_replace_the_folder_one_is_in(
    edited: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(edited, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    call = ("reproduce", edited, "--source", source, "--output", ".")
    attn_surgery(*call).assert_error("already exists")
    done = attn_surgery(*call, "--overwrite")
    assert done.code == 0, done
    kept, original = snapshot(tmp_path / "here"), snapshot(edited)
    for name in json.loads((edited / "surgery.json").read_text())["files"]:
        assert kept[name] == original[name]


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("--heal", "was not healed"),
        ("--text", "was not erased"),
        ("--samples", "was made without passages"),
        ("--id-column", "was made without passages"),
    ],
)
def test_what_it_was_not_made_with_is_refused(
    edited: Path, source: Path, text: Path, option: str, what: str
) -> None:
    """Nobody takes it for proven that it was."""
    outcome = attn_surgery("reproduce", edited, "--source", source, option, text)
    outcome.assert_error(f"{edited}: {what}; leave {option} out")


def test_a_file_that_differs_is_named(edited: Path, source: Path) -> None:
    with (edited / "tokenizer.json").open("a") as file:
        file.write(" ")
    done = attn_surgery("reproduce", edited, "--source", source)
    assert done.code == 1
    assert "DIFFERS tokenizer.json\n" in done.stdout
    assert done.stderr == f"error: {edited}: not reproduced: tokenizer.json differs\n"
    as_json = attn_surgery("reproduce", edited, "--source", source, "--json")
    assert as_json.code == 1
    assert as_json.json["first_difference"] == "tokenizer.json"
    assert not as_json.json["reproduced"]


@pytest.mark.parametrize("name", ["adapter_config.json", "model.safetensors"])
def test_a_file_that_no_manifest_lists_is_not_passed_over(
    edited: Path, source: Path, name: str
) -> None:
    """A loader would take it for the model's, in place of the files that are compared."""
    (edited / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"{name} is not in the manifest"):
        reproduce_history(str(edited), source=str(source))


def test_a_manifest_that_tells_something_else(edited: Path, source: Path) -> None:
    def lie(manifest: dict[str, Any]) -> None:
        manifest["history"][-1]["parts"][0]["variant"] = "zero"

    edit_json(edited / "surgery.json", lie)
    done = attn_surgery("reproduce", edited, "--source", source)
    assert done.code == 1
    assert "not reproduced: model-0000" in done.stderr


def test_versions_that_differ_are_named(edited: Path, source: Path) -> None:
    def old(manifest: dict[str, Any]) -> None:
        manifest["history"][-1]["versions"] |= {"torch": "1.0", "lost": "2"}

    edit_json(edited / "surgery.json", old)
    done = attn_surgery("reproduce", edited, "--source", source, "--json")
    assert done.code == 0
    assert "torch: 1.0 for the original, " in done.stderr
    assert "lost: 2 for the original, none now\n" in done.stderr
    assert done.json["environment"]["lost"] == {"recorded": "2", "now": None}
    assert set(done.json["environment"]) == {"torch", "lost"}


def test_a_source_that_is_not_there(edited: Path, source: Path, tmp_path: Path) -> None:
    attn_surgery("reproduce", edited).assert_error(
        f"{edited}: was made from a folder, model, which is not here; give it, or a copy of it, "
        "as --source"
    )
    copy = shutil.copytree(source, tmp_path / "copy")
    assert attn_surgery("reproduce", edited, "--source", copy).code == 0


def test_another_source_is_refused_by_its_content(
    edited: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(source, tmp_path / "model")
    path = other / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    tensors["gpt_neox.embed_in.weight"][0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    expected = (
        f"is not the model that was edited (expected model with content {hash_content(source)[:12]}"
        f", got {hash_content(other)[:12]}); give a copy of the one that was edited as --source"
    )
    call = ("reproduce", edited, "--source", other)
    attn_surgery(*call).assert_error(f"{other}: {expected}")
    for out in (tmp_path / "none", shutil.copytree(edited, tmp_path / "old")):
        before = snapshot(out) if out.exists() else None
        attn_surgery(*call, "--output", out, "--overwrite").assert_error(f"{other}: {expected}")
        assert (snapshot(out) if out.exists() else None) == before
    monkeypatch.chdir(tmp_path)  # where a folder of the recorded name is
    attn_surgery("reproduce", edited, "--json").assert_error(f"model: {expected}")


def test_a_source_in_other_files_serves_where_all_comes_out_equal(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model", neox_config(max_position_embeddings=64))
    out = surgery.export(source, "1", output=tmp_path / "out").output
    other = shutil.copytree(source, tmp_path / "other")
    data = (other / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")  # of the header, which may end with blanks
    padded = (end).to_bytes(8, "little") + data[8:end] + b" " * 8 + data[end:]
    (other / "model.safetensors").write_bytes(padded)
    assert hash_content(other) != hash_content(source)
    done = attn_surgery("reproduce", out, "--source", other, "--json")
    assert (done.code, done.json["exact"]) == (0, True), done.stderr


def test_what_is_no_edited_model(source: Path, tmp_path: Path) -> None:
    attn_surgery("reproduce", source).assert_error(
        f"{source}: has no surgery.json; reproduce a model that `attn-surgery export` wrote"
    )
    attn_surgery("reproduce", tmp_path, "--revision", "x").assert_error(
        "--revision goes with a Hub"
    )


@pytest.fixture
def fitted(source: Path, text: Path, tmp_path: Path) -> Path:
    options = {"variant": "linear", "calibration": [text], "output": tmp_path / "fitted"}
    return surgery.export(source, "1", **options).output  # type: ignore[arg-type]


def test_a_fitted_variant_repeats_with_its_text(
    fitted: Path, source: Path, text: Path, tmp_path: Path
) -> None:
    done = attn_surgery("reproduce", fitted, "--source", source, "--calibration", text, "--json")
    assert (done.code, done.json["exact"]) == (0, True), done.stderr
    digest = hashlib.sha256(text.read_bytes()).hexdigest()[:12]
    recorded = f"text.txt ({text.stat().st_size:,} bytes, text read of SHA-256 {digest})"
    attn_surgery("reproduce", fitted, "--source", source).assert_error(
        f"{fitted}: needs the text that it was made with (expected {recorded}); give each file "
        "with --calibration\n"
    )
    other = tmp_path / "other.txt"
    other.write_text(TEXT * 21)
    attn_surgery("reproduce", fitted, "--source", source, "--calibration", other).assert_error(
        f"other.txt: is not the recorded calibration text (expected {recorded}, tokens of SHA-256 "
    )


@pytest.mark.parametrize(
    "form",
    ["table.csv:words", *(pytest.param(f, marks=pytest.mark.slow) for f in ("text.txt", "texts"))],
)
def test_the_commands_of_the_card_run_as_they_stand(
    source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """In the folder that the card names: that of the source and of the texts."""
    place = tmp_path / "texts" if form == "texts" else tmp_path
    place.mkdir(exist_ok=True)
    for name in ("text.txt", "more and more.txt"):
        shutil.copy(text, place / name)
    rows = ["words", *(f'"{line}"' for line in text.read_text().splitlines())]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    shutil.copytree(source, place / "model")
    monkeypatch.chdir(tmp_path)
    edits = [{"drop_attn": "1", "variant": "linear"}, {"drop_attn": "2.0", "variant": "mean"}]
    Path("chosen.json").write_text(json.dumps({"edits": edits}))
    call = ("--plan", "chosen.json", "--calibration", form, "--output", place / "out")
    if form == "text.txt":
        call = (*call, "--calibration", "more and more.txt")
    export = attn_surgery("export", place / "model", *call)
    assert export.code == 0, export.stderr
    again = surgery.export(place / "out", "0", variant="zero", output=place / "twice").output
    monkeypatch.chdir(place)
    reproduce, first = run_card(place / "out" / "README.md")
    assert reproduce[1].stdout.endswith("files reproduced bit for bit from model\n"), reproduce
    made = Path(first[1].stdout.partition(":")[0])
    assert holds_the_same(made, Path("out"))
    shutil.rmtree("out")
    shutil.rmtree(made)
    done = [outcome for name, outcome in run_card(again / "README.md") if name == "export"]
    assert [outcome.code for outcome in done] == [0, 0], done


def holds_the_same(one: Path, other: Path) -> bool:
    files = json.loads((one / "surgery.json").read_text())["files"]
    return bool(files == json.loads((other / "surgery.json").read_text())["files"])


def test_the_text_of_an_embedded_model_need_not_be_named(tmp_path: Path) -> None:
    """Its own text is what `reproduce` and `export` take without an option."""
    record = {"sources": [{"name": "lab calibration text"}], "tokens": 9, "window": 3}
    edit = {
        "source": {"model": "lab:pythia"}, "family": "gpt_neox", "num_blocks": 6, "num_heads": 8,
        "parts": [{"block": 1, "heads": [0], "variant": "mean"}], "layout": "stock", "changed": {},
        "versions": {}, "calibration": {**record, "sha256": "ab" * 32},
        "healing": {**record, "sha256": "ab" * 32, "steps": 80, "rows": 16, "device": "cpu",
                    "learning_rate": 3e-4, "seed": 0, "threads": 2, "losses": [1.0] * 80},
    }  # fmt: skip
    trained = edit | {"source": {"model": "cut"}, "healing": edit.pop("healing"), "parts": []}
    del trained["calibration"]
    steps = {"history": [edit, trained], "files": {}}
    card = render_card(Manifest.model_validate(steps), name="me/x")
    assert "    attn-surgery reproduce me/x\n\n" in card
    assert "--variant mean --layout stock --output cut\n" in card
    assert "attn-surgery heal cut \\\n        --text lab:pythia --steps 80\n" in card
    assert "Run these in the folder" not in card


@pytest.mark.parametrize(
    "change",
    [
        lambda calibration: calibration.update(tokens=9),
        lambda calibration: calibration.update(window=9),
        lambda calibration: calibration["blocks"]["1"].update(r2=0.999),
        lambda calibration: calibration.update(blocks={}),
    ],
)
def test_what_a_manifest_says_of_its_calibration_must_come_out_again(
    fitted: Path, source: Path, text: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit_json(
        fitted / "surgery.json", lambda manifest: change(manifest["history"][-1]["calibration"])
    )
    attn_surgery("reproduce", fitted, "--source", source, "--calibration", text).assert_error(
        "surgery.json: the recorded fit differs from the repeated one"
    )


FUSED = "gpt_neox.layers.1.attention.query_key_value"


@pytest.mark.parametrize(
    ("name", "part", "share", "ok"),
    [
        (f"{FUSED}.weight", "values", TOLERANCE / 2, True),
        (f"{FUSED}.weight", "values", TOLERANCE * 2, False),
        (f"{FUSED}.bias", "values", TOLERANCE / 2, True),
        (f"{FUSED}.bias", "values", TOLERANCE * 2, False),  # queries and keys hold large constants
        (f"{FUSED}.bias", "queries", 1e-6, False),
        ("gpt_neox.embed_in.weight", "all", 1e-6, False),
    ],
)
def test_fitted_numbers_may_differ_within_the_tolerance(
    fitted: Path, source: Path, text: Path, name: str, part: str, share: float, ok: bool
) -> None:
    """As if the export had been made with other versions, where sums end otherwise."""
    index = json.loads((fitted / "model.safetensors.index.json").read_text())["weight_map"]
    path = fitted / index[name]
    tensors = load_file(path)
    heads = json.loads((fitted / "config.json").read_text())["num_attention_heads"]
    chosen = np.zeros(tensors[name].shape, dtype=bool)
    if part == "all":
        chosen[:] = True
    else:  # a view: query, key and value of each head
        chosen.reshape(heads, 3, -1)[:, 2 if part == "values" else 0] = True
    noise = chosen * np.random.default_rng(0).standard_normal(chosen.shape)
    noise *= share * np.linalg.norm(tensors[name][chosen]) / np.linalg.norm(noise)
    tensors[name] = (tensors[name] + noise).astype(np.float32)
    save_file(tensors, path, metadata={"format": "pt"})
    seal(fitted)
    done = attn_surgery("reproduce", fitted, "--source", source, "--calibration", text, "--json")
    assert (done.code, done.json["reproduced"], done.json["exact"]) == (1 - ok, ok, False)
    (file,) = [file for file in done.json["files"] if not file["equal"]]
    assert file["name"] == path.name
    if part == "values":
        assert file["difference"] == pytest.approx(share, rel=1e-2)
        assert done.json["tolerance"] == TOLERANCE
    else:
        assert file["difference"] is None, "bytes must be equal"


def test_a_damaged_file_is_not_within_a_tolerance(fitted: Path, source: Path, text: Path) -> None:
    """It is not what the folder says of itself, however little it differs."""
    name = "gpt_neox.layers.1.attention.query_key_value.weight"
    index = json.loads((fitted / "model.safetensors.index.json").read_text())["weight_map"]
    path = fitted / index[name]
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name] * np.float32(1 + 1e-6)}, path, {"format": "pt"})
    done = attn_surgery("reproduce", fitted, "--source", source, "--calibration", text)
    assert done.code == 1
    assert f"DIFFERS {path.name}\n" in done.stdout
    assert f"not reproduced: {path.name} differs" in done.stderr


@pytest.mark.parametrize(
    ("variant", "layout"),
    [("mean", "stock"), ("linear", "stock"), ("mean", "compact"), ("linear", "compact")],
)
def test_added_tensors_may_differ_within_the_tolerance(
    tmp_path: Path, variant: str, layout: str
) -> None:
    """Fits of Llama are partly in biases and maps that its blocks did not have."""
    source, out = write_decoder(tmp_path / "source", "llama"), tmp_path / "out"
    export = export_with_any(source, "1", out, variant=variant, layout=layout)
    kept = shutil.copytree(out, tmp_path / "kept")

    def repeat(*step: Any, fitting: Fitting | None = None) -> tuple[Export, Fitting | None]:
        fits, up = random_fits([1], HEADS, D, SIZE), np.float32(1 + 1e-6)
        for block, one in fits.items():
            moved = {"mean": one.mean * up, "weight": one.weight * up, "bias": one.bias * up}
            fits[block] = replace(one, **moved)
        return Inputs(str(out)).repeat(*step, fitting=fitting or Fitting(fits, record_of(fits)))

    found = reproduce(open_original(out), repeat, source=source)
    assert found.first_difference is None
    assert not found.exact
    difference = next(file.difference for file in found.files if not file.equal)
    assert difference is not None
    assert 0 < difference < 1e-5
    zeros = [n for n in export.manifest.step.changed.added if ".layers.0." in n]  # -0.0: no fit
    changes = [(name, change) for name in zeros[:1] for change in (0.0, 1e-6)]
    for name, change in [*changes, (export.plan.rewritten[-1], math.nan)]:
        edit_weights(out, lambda tensors, name=name, to=change: tensors[name].fill_(to))
        again = reproduce(open_original(out), repeat, source=source)
        assert again.first_difference == "model.safetensors", (name, change)
        shutil.copytree(kept, out, dirs_exist_ok=True)


@pytest.mark.slow
def test_an_embedded_model_brings_its_own_text(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--drop-attn", "2,4.0", "--variant", "linear", "--output", out)
    assert attn_surgery("export", "lab:pythia", *options).code == 0
    done = attn_surgery("reproduce", out)
    assert done.code == 0, done.stderr
    assert done.stdout.endswith("files reproduced bit for bit from lab:pythia\n")
