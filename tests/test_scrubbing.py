"""Contract: an export leaves nothing in the file that the edit makes useless, and verify proves it.

Two sources that differ only in what the edit makes useless export the same weights. An export of an
earlier version, which left it there, computes the same bits, verifies, repeats, and is told apart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import neo_config, neox_config, write_checkpoint
from decoders import write_decoder
from fits import export_with_any, load_aligned
from forging import edit_json
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import surgery
from surgery.card.text import read_card
from surgery.editing.loading import load_model
from surgery.editing.preparing import prepare
from surgery.exporting import write
from surgery.families import family_of
from surgery.record.manifest import read_manifest

IDS = torch.randint(128, (2, 40), generator=torch.Generator().manual_seed(5))
QK, QKV = ("query", "key"), ("query", "key", "value")
ALL = (*QKV, "output")


def write_source(folder: Path, kind: str) -> Path:
    if kind == "gpt_neox":
        return write_checkpoint(folder, neox_config())
    if kind == "gpt_neo":
        return write_checkpoint(folder, neo_config())
    return write_decoder(folder, kind)


def scramble(source: Path, roles: tuple[str, ...], heads: tuple[int, ...] | None) -> None:
    """Draws other numbers for these parts of attention in block 1: of some heads, or of all."""
    config = json.loads((source / "config.json").read_text())
    family, path = family_of(config), source / "model.safetensors"
    size, tensors = family.dimensions(config), load_file(path)
    generator = torch.Generator().manual_seed(7)
    for name, tensor in tensors.items():
        rule, block = family.match(name) or (None, None)
        role = str(rule.role) if rule and block == 1 else ""
        if not role.startswith((*roles, "query_key_value")):
            continue
        rows = tensor.view(-1, size.head_size, *tensor.shape[1:])
        parts = [rows]
        if role.startswith("query_key_value"):
            fused = rows.view(-1, 3, *rows.shape[1:])
            parts = [fused[:, QKV.index(one)] for one in QKV if one in roles]
        elif role == "output_weight":
            parts = [tensor.view(len(tensor), -1, size.head_size).transpose(0, 1)]
        for part in parts:
            for head in range(len(part)) if heads is None else heads:
                part[head] = torch.randn(part[head].shape, generator=generator)
    save_file(tensors, path, metadata={"format": "pt"})


CASES: list[tuple[str, str, str, tuple[str, ...], tuple[int, ...] | None]] = [
    ("gpt_neox", "1", "zero", ALL, None),
    ("gpt_neox", "1", "identity", QK, None),
    ("gpt_neox", "1", "linear", QKV, None),
    ("gpt_neox", "1", "mean", QKV, None),
    ("gpt_neox", "1.1", "zero", (*QKV, "output_weight"), (1,)),
    ("gpt_neo", "1", "zero", ALL, None),
    ("gpt_neo", "1", "mean", QKV, None),
    ("gpt_neo", "1.0", "zero", ("query", "key", "value", "output_weight"), (0,)),
    ("llama", "1", "mean", QKV, None),
    ("llama", "1.2", "zero", ("query", "output_weight"), (2,)),
    ("qwen3", "1", "zero", ALL, None),
    ("qwen3", "1", "identity", QK, None),
    ("olmo2", "1", "zero", ALL, None),
    ("mistral", "1", "zero", ALL, None),
]


@pytest.mark.parametrize(("kind", "spec", "variant", "parts", "heads"), CASES)
def test_nothing_useless_is_left(
    tmp_path: Path,
    kind: str,
    spec: str,
    variant: str,
    parts: tuple[str, ...],
    heads: tuple[int, ...] | None,
) -> None:
    made = []
    for name in ("one", "other"):
        source = write_source(tmp_path / name, kind)
        before = (source / "model.safetensors").read_bytes()
        if name == "other":
            scramble(source, parts, heads)
            assert (source / "model.safetensors").read_bytes() != before
        out = tmp_path / f"out-{name}"
        done = export_with_any(source, spec, out, variant=variant, layout="stock")
        assert done.manifest.step.scrubbed
        made.append((out / "model.safetensors").read_bytes())
    assert made[0] == made[1]


def export_as_before(source: Path, spec: str, variant: str, output: Path, **options: Any) -> Path:
    """As versions did that left useless weights where they were."""
    prepared = prepare(source, spec, variant=variant, scrubbed=False, **options)
    return write(prepared, output).output


@pytest.mark.parametrize(
    ("kind", "spec"), [("gpt_neox", "1"), ("gpt_neox", "1.1"), ("gpt_neo", "1"), ("qwen3", "1.1")]
)
def test_an_export_of_an_earlier_version(tmp_path: Path, kind: str, spec: str) -> None:
    """Same bits, more weights; told apart by verify; repeated as it was."""
    source = write_source(tmp_path / "source", kind)
    old = export_as_before(source, spec, "zero", tmp_path / "old", layout="stock")
    edit_json(old / "surgery.json", lambda manifest: manifest["history"][-1].pop("scrubbed"))
    new = surgery.export(source, spec, variant="zero", layout="stock", output=tmp_path / "new")
    with torch.no_grad():
        one, other = (load_aligned(path)(IDS).logits for path in (old, new.output))
    assert torch.equal(one, other)
    for given in (None, source):
        found = {path: surgery.verify(path, source=given) for path in (old, new.output)}
        assert all(one.ok for one in found.values())
        told = {
            path: next(check.detail for check in one.checks if check.name == "tensors")
            for path, one in found.items()
        }
        assert "not scrubbed: it holds weights that the edit made useless" in told[old]
        assert "not scrubbed" not in told[new.output]
    for path, mark in ((old, True), (new.output, False)):  # a mark that is not true
        edit_json(
            path / "surgery.json", lambda m, mark=mark: m["history"][-1].update(scrubbed=mark)
        )
        assert not surgery.verify(path).ok


def test_an_earlier_edit_that_left_nothing(tmp_path: Path) -> None:
    """What identity does not need was overwritten by every version: nothing is to be told."""
    source = write_source(tmp_path / "source", "gpt_neox")
    old = export_as_before(source, "1", "identity", tmp_path / "old")
    manifest = read_manifest(old)
    assert manifest is not None
    assert not manifest.step.scrubbed
    assert not any("not scrubbed" in check.detail for check in surgery.verify(old).checks)


def test_an_earlier_edit_below_a_later_one(tmp_path: Path) -> None:
    """Whichever edit of a folder left something, verify says so."""
    source = write_source(tmp_path / "source", "gpt_neox")
    old = export_as_before(source, "1", "zero", tmp_path / "old")
    new = surgery.export(old, "2", variant="zero", output=tmp_path / "new").output
    found = surgery.verify(new, source=old)
    assert found.ok
    assert any("not scrubbed" in check.detail for check in found.checks)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what peft calls in transformers
@pytest.mark.parametrize("kind", ["gpt_neox", "llama"])
def test_the_card_keeps_adapters_off_edited_attention(tmp_path: Path, kind: str) -> None:
    """As peft reads the line: no adapter in the edited blocks, and some in all others."""
    source = write_source(tmp_path / "source", kind)
    out = surgery.export(source, "0,2", variant="zero", output=tmp_path / "out").output
    line = r'LoraConfig\(target_modules="all-linear", exclude_modules=r"(.+)"\)'
    found = re.search(line, read_card(out) or "")
    assert found is not None
    config = LoraConfig(r=2, target_modules="all-linear", exclude_modules=found[1])
    adapted = get_peft_model(load_model(out), config)
    names = [name for name, _ in adapted.named_parameters() if "lora" in name]
    attention = [name for name in names if ".attention." in name or ".self_attn." in name]
    assert {name.split(".layers.")[1].split(".")[0] for name in attention}.isdisjoint({"0", "2"})
    assert any(".layers.1." in name for name in attention)
    assert any(".layers.0.mlp." in name for name in names)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what peft calls in transformers
@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("scrubbed", [False, True])
def test_training_wakes_no_scrubbed_block(tmp_path: Path, scrubbed: bool, adapters: bool) -> None:
    """Neither all weights nor adapters on all linear layers: no gradient reaches them."""
    source = write_source(tmp_path / "source", "gpt_neox")
    prepared = prepare(source, "1", variant="zero", scrubbed=scrubbed)
    model = load_aligned(write(prepared, tmp_path / "out").output).requires_grad_(True)
    if adapters:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    model(IDS, labels=IDS).loss.backward()
    moved = {
        name
        for name, weight in model.named_parameters()
        if ".1.attention." in name and weight.grad is not None and weight.grad.any()
    }
    assert bool(moved - {name for name in moved if name.endswith("dense.bias")}) != scrubbed
