"""Contract: a folder that claims training holds trained weights, and a record that can be true.

- A trained folder in which no parameter differs from the source's does not verify with the source;
  nor without it, where the weight files are the source's own.
- A parameter that is not finite does not verify, with or without the source, in any folder; old
  masks, which are no parameters, may hold infinity. No export makes such a folder.
- A record of training that contradicts itself or its model is refused: losses, teacher,
  calibration, lengths.
- `push` refuses all of this, too.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery
from forging import assert_fails, assert_refused, edit_json, edit_weights, seal
from reciting import recited_rows, write_rows
from safetensors.torch import load_file, save_file
from tiny_tokenizer import TEXT, tiny_tokenizer

import surgery
from surgery.errors import ManifestError, OutputError
from surgery.loading import load_model
from surgery.publishing.upload import find_publishable
from surgery.tensors import BYTES, FLOATS, decode, is_finite
from surgery.verification import verify

WEIGHTS = "model.safetensors"
LENGTHS = ("--prefix-length", 8, "--suffix-length", 8)
FOLDERS = ("erased", "hardened", "healed", "all")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with masks of older libraries, one of which is infinite, and what is made of it:
    erased; hardened; cut (blocks 0 and 1) and healed; and all (erased, cut as both, and healed)."""
    folder = tmp_path_factory.mktemp("trained")
    config = neox_config(vocab_size=400, max_position_embeddings=64, torch_dtype="float16")
    write_checkpoint(folder / "neox", config)
    tiny_tokenizer().save_pretrained(folder / "neox")
    model = load_model(folder / "neox", dtype=torch.float32)
    write_rows(folder / "samples.jsonl", recited_rows(model, 30, 8, 8))
    words = np.random.default_rng(0).choice(TEXT.split(), 1500)
    (folder / "text.txt").write_text(" ".join(words))
    taught = ("--samples", folder / "samples.jsonl", *LENGTHS)
    cut = ("--drop-attn", "0-1", "--variant", "zero")
    steps = ("--text", folder / "text.txt", "--steps", 2)
    for name, command in {
        "erased": ("erase", folder / "neox", *cut, *taught, *steps),
        "hardened": ("erase", folder / "neox", *cut, *taught, *steps, "--harden"),
        "cut": ("export", folder / "neox", *cut),
        "healed": ("heal", folder / "cut", *steps),
        "both": ("export", folder / "erased", *cut),
        "all": ("heal", folder / "both", *steps),
    }.items():
        done = attn_surgery(*command, "--output", folder / name)
        assert done.code == 0, done.stderr
        (folder / name / "README.md").unlink()  # who forges a manifest writes the card to fit
    return folder


def copied(work: Path, name: str, to: Path) -> Path:
    return Path(shutil.copytree(work / name, to / name))


@pytest.mark.parametrize("name", FOLDERS)
def test_what_was_trained_verifies_and_its_source_in_its_place_does_not(
    work: Path, tmp_path: Path, name: str
) -> None:
    assert verify(work / name, source=work / "neox").ok
    forged = copied(work, name, tmp_path)
    source = work / {"healed": "cut", "all": "both"}.get(name, "neox")
    shutil.copy(source / WEIGHTS, forged)
    seal(forged)
    assert_refused(forged, "edit", "its weights are the source's own", source)
    resaved = load_file(forged / WEIGHTS)  # in another file
    save_file(resaved, forged / WEIGHTS, metadata={"format": "pt", "more": "."})
    seal(forged)
    assert_refused(forged, "edit", "its weights are the source's own", source)


HEAD, NORM = "embed_out.weight", "gpt_neox.final_layer_norm.bias"
LAYER, ROW = "gpt_neox.layers.2.mlp.dense_4h_to_h.weight", "gpt_neox.embed_in.weight"


@pytest.mark.parametrize(
    ("name", "tensor", "place", "value"),
    [
        ("erased", HEAD, (), math.nan),
        ("hardened", NORM, (-1,), math.inf),
        ("healed", ROW, (7,), -math.inf),
        ("all", LAYER, (3, 5), math.nan),
        ("cut", LAYER, (-1, -1), math.inf),
    ],
)
def test_what_is_not_finite(
    work: Path, tmp_path: Path, name: str, tensor: str, place: tuple[int, ...], value: float
) -> None:
    forged = copied(work, name, tmp_path)

    def spoil(tensors: Any) -> None:
        tensors[tensor][place] = value

    edit_weights(forged, spoil)
    assert_refused(forged, "finite", f"tensor {tensor!r} holds numbers that are", work / "neox")


def test_old_masks_are_no_parameters(work: Path) -> None:
    mask = load_file(work / "neox" / WEIGHTS)["gpt_neox.layers.0.attention.masked_bias"]
    assert mask.isinf().all()


@pytest.mark.parametrize("tag", FLOATS)
def test_every_number_that_is_not_finite_is_found(tag: str) -> None:
    """And none that is finite, the largest, the smallest, and zeros of both signs included."""
    size = BYTES[tag]
    some = np.random.default_rng(0).integers(0, 256, 4096 * size, np.uint8)
    for exponent in (0x7F, 0xFF, 0x7C, 0xFC):  # little-endian: the last byte holds the exponent
        some[(exponent % 7) * size + size - 1 :: 16 * size] = exponent
    some[8 * size : 9 * size], some[size - 1 :: 32 * size] = 0, 0x80
    for number in some.reshape(-1, size):
        with np.errstate(invalid="ignore"):  # a NaN that signals
            finite = bool(np.isfinite(decode(number.view(FLOATS[tag]), tag)).all())
        assert is_finite(number.tobytes(), tag) == finite, (tag, number)
    assert is_finite(b"", tag)


def test_what_is_copied_is_not_looked_at_and_verify_tells(work: Path, tmp_path: Path) -> None:
    """Whether it is not finite in the cut block, or elsewhere."""
    source = copied(work, "neox", tmp_path)
    tensors = load_file(source / WEIGHTS)
    tensors["embed_out.weight"][0, 0] = math.nan
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    out = surgery.export(source, "1", output=tmp_path / "out").output
    failed = surgery.verify(out).failed
    assert failed is not None
    assert (failed.name, "'embed_out.weight' holds numbers" in failed.detail) == ("finite", True)


def losses(value: list[float]) -> Callable[[Any], object]:
    return lambda edit: edit["erasing"].update(losses=value)


def fitted(variant: str) -> Callable[[Any], object]:
    return lambda edit: [part.update(variant=variant) for part in edit["erasing"]["teacher"]]


CALIBRATION = {
    "sources": [], "tokens": 10**15, "window": 8, "sha256": "0" * 64,
    "blocks": {"0": {"ridge": 1.0, "r2": 1.0}, "1": {"ridge": 1.0, "r2": 1.0}},
}  # fmt: skip
RECORDS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no losses": (losses([]), "one loss for each step"),
    "more losses": (losses([1.0] * 50), "one loss for each step"),
    "a negative loss": (losses([1.0, -1.0]), "greater than or equal to"),
    "steps": (lambda edit: edit["erasing"].update(steps=10**12), "one loss for each step"),
    "a block": (lambda edit: edit["erasing"]["teacher"][0].update(block=99), "block"),
    "a variant": (fitted("evil"), "evil"),
    "a head": (lambda edit: edit["erasing"]["teacher"][0].update(heads=[0, 77]), "head"),
    "the order": (lambda edit: edit["erasing"]["teacher"].reverse(), "not ascending"),
}
AGAINST_THE_MODEL: dict[str, tuple[Callable[[Any], object], str]] = {
    "linear without text": (fitted("linear"), "the manifest's calibration is not of the blocks"),
    "mean without text": (fitted("mean"), "the manifest's calibration is not of the blocks"),
    "text for nothing": (
        lambda edit: edit["erasing"].update(calibration=CALIBRATION),
        "the manifest's calibration is not of the blocks",
    ),
    "a window": (lambda edit: edit["erasing"].update(window=65), "longer than the model's context"),
    "passages": (
        lambda edit: edit["erasing"]["passages"].update(prefix_length=57),
        "longer than the model's context",
    ),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_record_that_cannot_be_true(work: Path, tmp_path: Path, case: str) -> None:
    change, text = RECORDS[case]
    forged = copied(work, "erased", tmp_path)
    edit_json(forged / "surgery.json", lambda manifest: change(manifest["history"][-1]))
    for refuse in (verify, find_publishable):
        with pytest.raises(ManifestError, match=f"surgery.json: is not valid .*{text}"):
            refuse(forged)
    for command in ("verify", "inspect"):
        attn_surgery(command, forged).assert_error("surgery.json: is not valid", text)


@pytest.mark.parametrize("case", AGAINST_THE_MODEL)
def test_a_record_that_cannot_be_of_its_model(work: Path, tmp_path: Path, case: str) -> None:
    change, text = AGAINST_THE_MODEL[case]
    forged = copied(work, "erased", tmp_path)
    edit_json(forged / "surgery.json", lambda manifest: change(manifest["history"][-1]))
    assert_refused(forged, "edit", text, work / "neox")


def test_the_record_of_an_earlier_erasing_is_checked(work: Path, tmp_path: Path) -> None:
    cut = surgery.export(work / "erased", "2", variant="zero", output=tmp_path / "cut").output
    (cut / "README.md").unlink()
    edit_json(cut / "surgery.json", lambda manifest: fitted("mean")(manifest["history"][0]))
    assert_fails(cut, "edit", "the manifest's calibration is not of the blocks")
    with pytest.raises(OutputError, match="does not verify"):
        find_publishable(cut)
