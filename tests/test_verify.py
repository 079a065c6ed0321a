"""Contract: `verify` accepts what export wrote, and fails with a named check for anything else.

One flipped byte of any file, a file too many, a tensor that was altered together with its
recorded hash, an edit that the manifest does not tell the truth about, a block that is said to be
attention-free and mixes tokens, and one that is not said to be and does not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import neo_config, neox_config, write_checkpoint
from command_line import attn_surgery
from safetensors.torch import load_file, save_file

import surgery
from surgery.errors import SurgeryError

NEOX = neox_config(max_position_embeddings=64)
NEO = neo_config(max_position_embeddings=64)
KINDS = ["stock", "compact"]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("verify") / "source", NEOX)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "truncation": null}\n')
    (folder / "LICENSE").write_text("Apache\n")
    return folder


@pytest.fixture(scope="module")
def originals(source: Path) -> dict[str, Path]:
    """Layout → an export of blocks 1 and 2."""
    folders = {}
    for layout in KINDS:
        folders[layout] = source.parent / layout
        surgery.export(source, "1,2", output=folders[layout], layout=layout)
    return folders


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, originals: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(originals[request.param], tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def stock(originals: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(originals["stock"], tmp_path / "out")
    return tmp_path / "out"


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    seal(folder)


def seal(folder: Path) -> None:
    """Records the files as they now are, as one would who wants to deceive."""

    def record(manifest: Any) -> None:
        for name, entry in manifest["files"].items():
            content = (folder / name).read_bytes()
            entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    edit_json(folder / "surgery.json", record)


def assert_fails(folder: Path, name: str, detail: str, source: Path | None = None) -> None:
    """That check fails, with exit code 1 and a line that names it, for people and for programs."""
    options = () if source is None else ("--source", source)
    outcome = attn_surgery("verify", folder, *options, "--json")
    assert outcome.code == 1
    assert outcome.json["ok"] is False
    failed = [check for check in outcome.json["checks"] if not check["ok"]]
    assert name in [check["name"] for check in failed], outcome.json
    assert any(detail in check["detail"] for check in failed if check["name"] == name), failed
    assert outcome.stderr == (f"error: {folder}: {failed[0]['name']}: {failed[0]['detail']}\n")
    with pytest.raises(AssertionError):
        assert surgery.verify(folder, source=source).ok


@pytest.mark.parametrize(
    ("config", "variant", "layout"),
    [
        (NEOX, "identity", "stock"),
        (NEOX, "zero", "stock"),
        (NEOX, "identity", "compact"),
        (NEOX, "zero", "compact"),
        (NEO, "zero", "stock"),
        (NEO, "identity", "compact"),
        (NEO, "zero", "compact"),
    ],
)
@pytest.mark.parametrize("blocks", ["0", "1,3", "0-3"])
def test_accepts_exports(
    tmp_path: Path, config: dict[str, Any], variant: str, layout: str, blocks: str
) -> None:
    model = write_checkpoint(tmp_path / "source", config, num_shards=1 + len(blocks) // 2)
    surgery.export(model, blocks, output=tmp_path / "out", variant=variant, layout=layout)
    outcome = attn_surgery("verify", tmp_path / "out", "--source", model, "--json")
    assert outcome.code == 0, outcome
    names = [check["name"] for check in outcome.json["checks"]]
    assert names[:6] == ["files", "edit", "carried", "untouched", "rewritten", "loads"]
    assert f"block {blocks[-1]} attention-free ({variant})" in names


def test_output_for_people(stock: Path, source: Path) -> None:
    outcome = attn_surgery("verify", stock)
    assert outcome.code == 0
    assert all(line.startswith("ok     ") for line in outcome.stdout.splitlines())
    assert "give it as --source" in outcome.stderr
    assert attn_surgery("verify", stock, "--source", source).stderr == ""


def test_extra_papers_are_welcome(folder: Path) -> None:
    (folder / "README.md").write_text("a model card")
    (folder / ".gitattributes").write_text("* text")
    assert surgery.verify(folder).ok


def positions(size: int) -> list[int]:
    return sorted({0, 1, 7, 8, 9, size // 3, size // 2, size - 2, size - 1} & set(range(size)))


def test_one_flipped_byte_of_any_file(folder: Path) -> None:
    """The manifest itself and the model card, which may be edited, are checked in other ways."""
    files = [p for p in folder.iterdir() if p.name not in ("surgery.json", "README.md")]
    assert {WEIGHTS, "config.json", "tokenizer.json", "LICENSE"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for position in positions(len(content)):
            for bit in (1, 128):
                flipped = bytearray(content)
                flipped[position] ^= bit
                path.write_bytes(flipped)
                (check,) = surgery.verify(folder).checks
                assert (check.name, check.ok) == ("files", False)
                assert check.detail == f"{path.name} differs from its recorded SHA-256"
        path.write_bytes(content)
    assert surgery.verify(folder).ok


def test_one_flipped_byte_is_an_exit_code(folder: Path, source: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    assert_fails(folder, "files", f"{WEIGHTS} differs from its recorded SHA-256")
    assert_fails(folder, "files", f"{WEIGHTS} differs from its recorded SHA-256", source)


def test_one_flipped_byte_of_the_recorded_files(stock: Path) -> None:
    """The manifest cannot record itself, but every byte of its list of files matters."""
    path = stock / "surgery.json"
    content = path.read_bytes()
    for position in range(content.index(b'"files"'), len(content.rstrip()), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        try:
            ok = surgery.verify(stock).ok
        except SurgeryError:
            ok = False
        assert not ok, (position, content[position - 20 : position + 20])


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert_fails(folder, "files", f"{name} is missing")


@pytest.mark.parametrize(
    "name",
    [
        "modeling_other.py",
        "deep/code.py",
        "pytorch_model.bin",
        "model-00001-of-00001.safetensors",
        "adapter_model.safetensors",
        "model.pt",
        "tf_model.h5",
    ],
)
def test_a_file_too_many(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert_fails(folder, "files", f"{name} is not in the manifest")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_the_manifest_forgot(folder: Path, name: str) -> None:
    edit_json(folder / "surgery.json", lambda manifest: manifest["files"].pop(name))
    assert_fails(folder, "files", f"{name} is not in the manifest")


# --- deceit: the recorded hashes fit


def nudge(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    """Changes the last bit of one number."""
    return lambda tensors: tensors[name].view(-1).view(torch.int16)[0].bitwise_xor_(1)


EMBEDDING = "gpt_neox.embed_in.weight"


def test_an_untouched_tensor_was_altered(folder: Path, source: Path) -> None:
    edit_weights(folder, nudge(EMBEDDING))
    assert surgery.verify(folder).ok  # without the source, nobody can know
    assert_fails(folder, "untouched", f"tensor {EMBEDDING!r} is not the source's", source)


def test_an_altered_tensor_is_not_excused_by_the_manifest(folder: Path, source: Path) -> None:
    edit_weights(folder, nudge(EMBEDDING))
    edit_json(
        folder / "surgery.json", lambda m: m["edit"]["changed"]["rewritten"].append(EMBEDDING)
    )
    assert_fails(folder, "untouched", f"tensor {EMBEDDING!r} is not the source's", source)
    assert_fails(folder, "edit", "the manifest's changed is not what the edit does", source)


def test_a_rewritten_tensor_was_altered(originals: dict[str, Path], source: Path) -> None:
    for layout, part in (("stock", "query_key_value.weight"), ("compact", "affine.bias")):
        name = f"gpt_neox.layers.2.attention.{part}"
        folder = source.parent / f"altered-{layout}"
        shutil.copytree(originals[layout], folder)
        edit_weights(folder, lambda tensors, name=name: nudge_value(tensors, name))
        assert surgery.verify(folder).ok
        assert_fails(folder, "rewritten", f"tensor {name!r} is not what identity makes", source)


def nudge_value(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name].view(-1).view(torch.int16)[-1].bitwise_xor_(1)  # a value row, the last of all


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("gpt_neox.layers.0.attention.masked_bias"),
        lambda tensors: tensors.update({"gpt_neox.rotary_emb.inv_freq": torch.ones(4)}),
    ],
    ids=["missing", "added"],
)
def test_a_tensor_less_or_more(
    folder: Path, source: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    edit_weights(folder, change)
    assert_fails(folder, "untouched", "is not the source's", source)


def test_configuration_was_altered(folder: Path, source: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(layer_norm_eps=1e-4))
    seal(folder)
    assert_fails(folder, "edit", "config.json is not what the edit makes of the source's", source)


def test_the_tokenizer_was_altered(folder: Path, source: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    seal(folder)
    assert_fails(folder, "carried", "tokenizer.json is not the source's", source)


def test_the_modeling_file_was_altered(
    originals: dict[str, Path], source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(originals["compact"], folder)
    (modeling,) = folder.glob("modeling_*.py")
    modeling.write_text(modeling.read_text() + "print('hello')\n")
    seal(folder)
    assert_fails(folder, "carried", f"{modeling.name} is not this version's", source)


def test_the_modeling_file_of_an_earlier_version(
    originals: dict[str, Path], source: Path, tmp_path: Path
) -> None:
    """Under the name of that version, which config.json gives: only the code is to blame."""
    folder = tmp_path / "out"
    shutil.copytree(originals["compact"], folder)
    (modeling,) = folder.glob("modeling_*.py")
    earlier = modeling.rename(folder / "modeling_attention_free_gpt_neox.py").name
    for name in ("config.json", "surgery.json"):
        path = folder / name
        path.write_text(path.read_text().replace(modeling.stem, earlier.removesuffix(".py")))
    seal(folder)
    assert_fails(folder, "carried", f"{earlier} is not this version's", source)
    checks = surgery.verify(folder, source=source).checks
    assert [check.name for check in checks if not check.ok] == ["carried"]


def test_an_auto_map_that_names_other_code(
    originals: dict[str, Path], source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(originals["compact"], folder)
    edit_json(folder / "config.json", lambda c: c["auto_map"].update(AutoConfig="me/other--x.X"))
    seal(folder)
    assert_fails(folder, "carried", "is not this version's", source)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda edit: edit.update(num_blocks=5), "the manifest's num_blocks"),
        (lambda edit: edit.update(family="gpt_neo"), "the manifest's family"),
        (lambda edit: edit["one_hot"].update(gap=1e6), "the manifest's one_hot"),
        (lambda edit: edit.update(one_hot=None), "the manifest's one_hot"),
        (lambda edit: edit["changed"].update(rewritten=[]), "the manifest's changed"),
        (lambda edit: edit.update(parts=parts(1)), "the manifest's changed"),
        (lambda edit: edit.update(parts=[]), "names no block"),
        (lambda edit: edit.update(parts=parts(1, 2, 9)), "out of range"),
        (lambda edit: edit.update(parts=parts(1, 2, variant="soft")), "unknown variant 'soft'"),
        (lambda edit: edit.update(layout="compact"), "config.json is not what the edit makes"),
    ],
)
def test_the_manifest_tells_another_story(
    stock: Path, source: Path, change: Callable[[Any], object], text: str
) -> None:
    edit_json(stock / "surgery.json", lambda manifest: change(manifest["edit"]))
    assert_fails(stock, "edit", text, source)


def test_another_source(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", NEOX, seed=1)
    assert_fails(folder, "untouched", "is not the source's", other)
    neo = write_checkpoint(tmp_path / "neo", NEO)
    assert_fails(folder, "edit", "", neo)


def parts(*blocks: int, variant: str = "identity") -> list[dict[str, Any]]:
    return [{"block": block, "heads": [0, 1], "variant": variant} for block in blocks]


# --- behavior: found by running the model, without the source


def test_a_block_that_mixes(folder: Path) -> None:
    """Said to be attention-free, and still looks at other tokens."""
    edit_json(
        folder / "surgery.json", lambda manifest: manifest["edit"].update(parts=parts(1, 2, 3))
    )
    assert_fails(folder, "block 3 attention-free (identity)", "depends on other tokens")


def test_weights_that_were_never_edited(stock: Path, source: Path) -> None:
    shutil.copy(source / WEIGHTS, stock / WEIGHTS)
    seal(stock)
    for block in (1, 2):
        name = f"block {block} attention-free (identity)"
        assert_fails(stock, name, "depends on other tokens")


def test_a_weak_constant(stock: Path) -> None:
    """Queries and keys that favor the token itself, but leave a little to its neighbors."""
    name = "gpt_neox.layers.1.attention.query_key_value.bias"

    def weaken(tensors: dict[str, torch.Tensor]) -> None:
        heads = tensors[name].view(2, 3, 32)
        heads[:, :2] *= 0.2

    edit_weights(stock, weaken)
    assert_fails(stock, "block 1 attention-free (identity)", "depends on other tokens")


def test_a_block_that_does_not_mix(folder: Path) -> None:
    """Not said to be attention-free, and no longer looks at other tokens."""
    change = parts(1)
    edit_json(folder / "surgery.json", lambda data: data["edit"].update(parts=change))
    assert_fails(folder, "other blocks", "blocks 2 no longer mix tokens")


def test_a_block_that_does_not_exist(folder: Path) -> None:
    edit_json(
        folder / "surgery.json", lambda manifest: manifest["edit"].update(parts=parts(1, 2, 9))
    )
    assert_fails(folder, "block 9 attention-free (identity)", "no such block")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"].fill_(torch.nan), "not finite"),
        (lambda t: t.pop("gpt_neox.layers.0.mlp.dense_h_to_4h.bias"), "is missing"),
        (lambda t: t.update({EMBEDDING: t[EMBEDDING][:-1].clone()}), "has the wrong shape"),
        (lambda t: t.update({"x": torch.ones(1)}), "unknown tensor 'x'"),
    ],
    ids=["NaN", "missing", "wrong shape", "unknown"],
)
def test_weights_that_do_not_work(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], text: str
) -> None:
    edit_weights(folder, change)
    assert_fails(folder, "loads", text)


@pytest.mark.parametrize("content", [b"", b"x" * 40])
def test_files_that_do_not_load(folder: Path, content: bytes, source: Path) -> None:
    for name in (WEIGHTS, "config.json"):
        old = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        seal(folder)
        assert_fails(folder, "loads", name)
        assert_fails(folder, "edit", name, source)
        (folder / name).write_bytes(old)
