"""Contract: a patch holds only what an edit changes, and gives the very folder that the export
gives; of another model, damaged, or forged, it gives nothing, and writes nothing first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import neo_config, neox_config, write_checkpoint
from command_line import Outcome, attn_surgery, finish, snapshot, start
from decoders import write_decoder
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_tokenizer import tiny_tokenizer

from surgery.errors import SurgeryError
from surgery.patching import apply_patch

LINES = "the quick brown fox jumps over the lazy dog\n" * 1000


def sources(kind: str, folder: Path) -> Path:
    """A Pythia in three shards, a pickled GPT-Neo, or a Llama, each with a tokenizer."""
    if kind == "llama":
        write_decoder(folder, kind, vocab_size=400)
    elif kind == "pickled":
        write_checkpoint(folder, neo_config(vocab_size=400), weights="bin")
    else:
        write_checkpoint(folder, neox_config(vocab_size=400), num_shards=3)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("pythia", ("--drop-attn", "1-2"), marks=pytest.mark.slow),
        ("pythia", ("--drop-attn", "3", "--variant", "linear", "--max-shard-size", "200KB")),
        pytest.param(
            *("pickled", ("--drop-attn", "1", "--layout", "compact")), marks=pytest.mark.slow
        ),
        ("llama", ("--drop-attn", "2", "--variant", "mean")),
    ],
)
def test_a_patch_gives_the_export(tmp_path: Path, kind: str, options: tuple[str, ...]) -> None:
    source = sources(kind, tmp_path / "source")
    (tmp_path / "text.txt").write_text(LINES)
    if "linear" in options or "mean" in options:
        options = (*options, "--calibration", str(tmp_path / "text.txt"))
    whole, patch, made = tmp_path / "a" / "OUT", tmp_path / "p.safetensors", tmp_path / "b" / "OUT"
    export = ("export", source, *options, "--json")
    assert attn_surgery(*export, "--output", whole).code == 0
    result = attn_surgery(*export, "--as-patch", "--output", patch).json
    assert result["output"] == str(patch)
    assert result["bytes"] == patch.stat().st_size < snapshot_size(whole) / 2
    with safe_open(patch, "np") as file:
        held = {name for name in file.keys() if ":" not in name}  # noqa: SIM118
    assert held == set(result["rewritten"])
    applied = attn_surgery("apply-patch", source, patch, "--output", made, "--json").json
    assert snapshot(made) == snapshot(whole)
    assert applied["blocks"] == result["blocks"]
    assert attn_surgery("verify", made, "--source", source, "--json").json["ok"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a", "b", "p.safetensors", "source", "text.txt"),
    ]


def snapshot_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def patch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patch") / "p.safetensors"
    attn_surgery("export", "lab:pythia", "--drop-attn", "4", "--as-patch", "--output", path)
    return path


def test_a_patch_does_not_go_into_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is said before anything is fitted."""
    source = sources("pythia", tmp_path / "source")
    before = snapshot(source)
    monkeypatch.chdir(source)
    monkeypatch.setattr("evals.jobs.exporting._write", None)
    command = ("export", ".", "--drop-attn", "1", "--as-patch")
    for more in ((), ("--output", source / "some.patch.safetensors")):
        attn_surgery(*command, *more).assert_error("the output and the source overlap")
    assert snapshot(source) == before


def test_a_patch_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is looked at before any work, beside a folder of the same edit."""
    monkeypatch.chdir(tmp_path)
    command = ("export", "lab:pythia", "--drop-attn", "1")
    assert attn_surgery(*command).code == 0
    (folder,) = tmp_path.iterdir()
    file = tmp_path / f"{folder.name}.patch.safetensors"
    dry = attn_surgery(*command, "--as-patch", "--dry-run", "--json")
    assert dry.json["output"] == file.name
    assert attn_surgery(*command, "--as-patch", "--json").json["output"] == file.name
    assert {*tmp_path.iterdir()} == {folder, file}
    monkeypatch.setattr("evals.jobs.exporting._write", None)
    attn_surgery(*command, "--as-patch").assert_error(f"{file.name}: already exists")


def test_another_model_is_refused(patch: Path, tmp_path: Path) -> None:
    outcome = attn_surgery("apply-patch", "lab:gpt-neo", patch, "--output", tmp_path / "OUT")
    outcome.assert_error("lab:gpt-neo", "not the model that the patch was made for", "lab:pythia")
    assert not any(tmp_path.iterdir())


def test_a_file_that_the_patch_does_not_know_is_told_before_anything_is_written(
    tmp_path: Path,
) -> None:
    source = write_checkpoint(tmp_path / "source", neox_config())
    file = tmp_path / "p.safetensors"
    export = ("export", source, "--drop-attn", "0", "--as-patch", "--output", file)
    assert attn_surgery(*export).code == 0
    (source / "License.txt").write_text("MIT")
    before = snapshot(tmp_path)
    attn_surgery("apply-patch", source, file, "--output", tmp_path / "OUT").assert_error(
        f"{source / 'License.txt'}: was not in the folder that the patch was made of; "
        "move it to another folder"
    )
    assert snapshot(tmp_path) == before


def test_damage_is_refused(patch: Path, tmp_path: Path) -> None:
    tensors = load_file(patch)
    name = next(name for name in tensors if name.endswith("query_key_value.bias"))
    damaged, out = tmp_path / "damaged.safetensors", tmp_path / "OUT"
    for change, texts in (
        ({name: tensors[name] + np.float16(1)}, ("model.safetensors", "recorded hash")),
        ({"file:surgery.json": np.zeros(3, np.uint8)}, ("surgery.json", "not valid")),
        ({"header:model.safetensors": np.zeros(9, np.uint8)}, ("not the header of a weight file",)),
    ):
        save_file({**tensors, **change}, damaged)
        attn_surgery("apply-patch", "lab:pythia", damaged, "--output", out).assert_error(*texts)
        assert not out.exists()
    save_file({"weight": np.zeros(3)}, damaged)
    attn_surgery("apply-patch", "lab:pythia", damaged, "--output", out).assert_error("not a patch")
    damaged.write_bytes(b"nothing")
    attn_surgery("apply-patch", "lab:pythia", damaged, "--output", out).assert_error(
        "damaged.safetensors: is truncated or not valid safetensors"
    )
    assert not out.exists()


def test_code_in_a_patch_is_refused(patch: Path, tmp_path: Path) -> None:
    """Even where the manifest lists it with its hash."""
    tensors, code = load_file(patch), b"import os\n"
    manifest = json.loads(tensors["file:surgery.json"].tobytes())
    manifest["files"]["modeling.py"] = {
        "size": len(code),
        "sha256": hashlib.sha256(code).hexdigest(),
    }
    tensors["file:surgery.json"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    tensors["file:modeling.py"] = np.frombuffer(code, np.uint8)
    save_file(tensors, tmp_path / "code.safetensors")
    outcome = attn_surgery(
        "apply-patch", "lab:pythia", tmp_path / "code.safetensors", "--output", tmp_path / "OUT"
    )
    outcome.assert_error("modeling.py is not part of an edited model")
    assert not (tmp_path / "OUT").exists()


def test_what_is_there_is_kept(patch: Path, tmp_path: Path) -> None:
    export = ("export", "lab:pythia", "--drop-attn", "4", "--as-patch", "--output", patch)
    before = patch.read_bytes()
    attn_surgery(*export).assert_error("already exists", "--overwrite")
    assert attn_surgery(*export, "--overwrite").code == 0
    assert patch.read_bytes() == before
    attn_surgery(*export[:-1], tmp_path, "--overwrite").assert_error("is not a file")
    (tmp_path / "notes").write_text("mine")
    apply = ("apply-patch", "lab:pythia", patch, "--output", tmp_path)
    attn_surgery(*apply).assert_error("already exists", "--overwrite")
    attn_surgery(*apply, "--overwrite").assert_error("which attn-surgery did not write")
    usage = attn_surgery(*export, "--overwrite", "--evaluate")
    assert usage.code == 2
    assert "--as-patch" in usage.stderr


# --- forged: the manifest, the hashes, and the tensors fit each other


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small Pythia in three files, and a patch that makes its blocks 1 and 2 `identity`."""
    folder = tmp_path_factory.mktemp("honest")
    source = write_checkpoint(
        folder / "source", neox_config(max_position_embeddings=64), num_shards=3
    )
    made = attn_surgery(
        "export", source, "--drop-attn", "1-2", "--as-patch", "--output", folder / "patch"
    )
    assert made.code == 0, made.stderr
    return source, folder / "patch"


Forged = dict[str, Any]


def forge(honest: Path, out: Path, change: Callable[[Any, Forged], object]) -> Path:
    """Writes the patch with what `change` makes of its manifest and its tensors."""
    tensors: Forged = dict(load_file(honest))
    manifest = json.loads(tensors[RECORD].tobytes())
    change(manifest, tensors)
    tensors[RECORD] = as_bytes(json.dumps(manifest).encode())
    save_file(tensors, out)
    return out


RECORD = "file:surgery.json"


def as_bytes(content: bytes) -> Any:
    return np.frombuffer(content, np.uint8)


def assert_writes_nothing(source: Path, patch: Path, match: str) -> None:
    """It is refused before a byte of the result is written."""
    written: list[int] = []
    with pytest.raises(SurgeryError, match=match):
        apply_patch(source, patch, patch.parent / "OUT", progress=written.append)
    assert not written
    assert not (patch.parent / "OUT").exists()


def leave_out(source: Path) -> Callable[[Any, Forged], object]:
    """Leaves out the tensors, so that the source's own stand under the recorded hashes."""

    def change(manifest: Any, tensors: Forged) -> None:
        for name in [name for name in tensors if ":" not in name]:
            del tensors[name]
        for name, file in manifest["files"].items():
            if name.endswith(".safetensors"):
                content = (source / name).read_bytes()
                header = content[: 8 + int.from_bytes(content[:8], "little")]
                tensors[f"header:{name}"] = as_bytes(header)
                file.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    return change


def test_an_edit_that_never_happened(honest: tuple[Path, Path], tmp_path: Path) -> None:
    """The result would be the source, under a manifest and a card that say otherwise."""
    source, patch = honest
    forged = forge(patch, tmp_path / "forged", leave_out(source))
    outcome = attn_surgery("apply-patch", source, forged, "--output", tmp_path / "OUT")
    outcome.assert_error("is not what identity makes of it")
    assert [path.name for path in tmp_path.iterdir()] == ["forged"]


def test_a_record_of_another_edit_or_model(honest: tuple[Path, Path], tmp_path: Path) -> None:
    source, patch = honest
    changes: dict[str, tuple[str, Callable[[Any, Forged], object]]] = {
        "family": ("saved as llama", lambda m, t: m["edit"].update(family="llama")),
        "blocks": ("num_blocks is not", lambda m, t: m["edit"].update(num_blocks=10**9)),
        "parts": ("changed is not", lambda m, t: m["edit"]["parts"].pop()),
        "healing": ("claims training", lambda m, t: m["edit"].update(healing=HEALING)),
        "reports": ("claims a report", lambda m, t: m.update(reports={"report.json": "0" * 64})),
        "erasing": ("claims training", lambda m, t: m["edit"].update(erasing=erased_by(m))),
    }
    for name, (match, change) in changes.items():
        assert_writes_nothing(source, forge(patch, tmp_path / name, change), match)


HEALING = {
    "sources": [], "tokens": 1, "window": 1, "sha256": "0" * 64, "steps": 1, "rows": 1,
    "learning_rate": 0.1, "seed": 0, "device": "cpu", "threads": 1, "losses": [1.0],
}  # fmt: skip


def erased_by(manifest: Any) -> dict[str, Any]:
    passages = {
        "name": "letters.csv", "sha256": "0" * 64, "number": 1, "prefix_length": 32,
        "suffix_length": 32, "rows": 1,
    }  # fmt: skip
    return {**HEALING, "teacher": manifest["edit"]["parts"], "passages": passages}


def test_a_compact_edit_of_a_compact_model(tmp_path: Path) -> None:
    """Both have the same modeling file, so the patch holds none."""
    source, patch, made = tmp_path / "first", tmp_path / "p.safetensors", tmp_path / "made"
    compact = ("--layout", "compact", "--output")
    attn_surgery("export", "lab:pythia", "--drop-attn", "4", *compact, source)
    attn_surgery("export", source, "--drop-attn", "2", *compact, tmp_path / "whole")
    export = ("export", source, "--drop-attn", "2", "--layout", "compact", "--as-patch")
    attn_surgery(*export, "--output", patch)
    outcome = attn_surgery("apply-patch", source, patch, "--output", made)
    assert outcome.code == 0, outcome
    left_out = ["README.md"]  # it names the folder
    one, other = (snapshot(folder) for folder in (made, tmp_path / "whole"))
    assert one.keys() == other.keys() > set(left_out)
    assert [name for name in one if one[name] != other[name]] == left_out


def test_names_and_sizes_come_before_any_writing(honest: tuple[Path, Path], tmp_path: Path) -> None:
    source, patch = honest
    (weights, *_) = sorted(path.name for path in source.glob("*.safetensors"))
    (source / "notes.txt").write_text("private")

    def grow(manifest: Any, tensors: Forged) -> None:
        """Every file of a thousand holds the source's own tensors."""
        for number in range(1000):
            manifest["files"][f"{number}.safetensors"] = manifest["files"][weights]
            tensors[f"header:{number}.safetensors"] = tensors[f"header:{weights}"]

    def add(name: str, **file: Any) -> Callable[[Any, Forged], object]:
        return lambda m, t: m["files"].update({name: {"size": 7, "sha256": "0" * 64, **file}})

    def hold(name: str, content: bytes) -> Callable[[Any, Forged], object]:
        return lambda m, t: t.update({name: as_bytes(content)})

    kept = "gpt_neox.embed_in.weight"
    changes: dict[str, tuple[str, Callable[[Any, Forged], object]]] = {
        "grown": ("is not one that the edit leaves", grow),
        "huge": ("another size", lambda m, t: m["files"][weights].update(size=10**30)),
        "null": ("'a.x00/b' is not a file of the folder", add("a\0/b")),
        "private": ("notes.txt: is neither in the patch nor the source", add("notes.txt")),
        "missing": ("no file holds tensor", lambda m, t: m["files"].pop(weights)),
        "kept": ("belongs to no file", lambda m, t: t.update({kept: np.zeros(3)})),
        "shape": ("is not one that the edit leaves", cut_short),
        "stranger": ("belongs to no file", hold("header:other.safetensors", b"{}")),
    }
    for name, (match, change) in changes.items():
        assert_writes_nothing(source, forge(patch, tmp_path / name, change), match)


def test_an_added_tensor_that_is_not_there(tmp_path: Path) -> None:
    """The source has none of that name to take instead."""
    source, patch = write_decoder(tmp_path / "source", "llama"), tmp_path / "patch"
    made = ("export", source, "--drop-attn", "1", "--as-patch", "--output", patch)
    assert attn_surgery(*made).code == 0

    def lack(manifest: Any, tensors: Forged) -> None:
        del tensors["model.layers.1.self_attn.q_proj.bias"]

    forged = forge(patch, tmp_path / "forged", lack)
    assert_writes_nothing(source, forged, "q_proj.bias' is not one that the edit leaves")


def cut_short(manifest: Any, tensors: Forged) -> None:
    name = next(name for name in tensors if ":" not in name)
    tensors[name] = tensors[name][:1]


# --- no space: the output is named, as it was typed


def run_without_space(*arguments: object) -> Outcome:
    most = (100_000, 100_000)
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, most)
    return finish(start(*arguments, preexec_fn=limit))


def test_a_full_disk_is_not_blamed_on_what_was_read(
    honest: tuple[Path, Path], tmp_path: Path
) -> None:
    source, patch = honest
    out, copy = tmp_path / "OUT", tmp_path / "p"
    full = "cannot write: file too large; "
    applied = run_without_space("apply-patch", source, patch, "--output", out)
    applied.assert_error(f"error: {out}: {full}")
    made = run_without_space("export", source, "--drop-attn", "1-2", "--as-patch", "--output", copy)
    made.assert_error(f"error: {copy}: {full}")
    assert not any(tmp_path.iterdir())
