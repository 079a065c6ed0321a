"""Contract: what transformers 5 calls `rope_parameters` also stands under the keys before it.

Versions before 5 ignore `rope_parameters` without a word, and would compute another model. Both
spellings say the same to the library and to us, and exports that have only one still verify.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import neox_config, write_checkpoint
from decoders import config_of, write_decoder
from forging import edit_json, seal
from safetensors.torch import load_file, save_file
from test_families import logits

import surgery
from surgery.editing.loading import load_model
from surgery.errors import CheckpointError
from surgery.families import family_of
from surgery.families.rotary import rotary_positions, spell_both

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": (config_of("llama", rope_scaling=LLAMA3), {"rope_theta", "rope_scaling"}),
    "qwen3": (config_of("qwen3"), {"rope_theta"}),
    "phi": (config_of("phi"), {"rope_theta", "partial_rotary_factor"}),
    "glm4": (config_of("glm4"), {"rope_theta", "partial_rotary_factor"}),
    "olmo3": (config_of("olmo3"), {"rope_theta"}),
    "gemma3_text": (config_of("gemma3_text"), {"rope_theta", "rope_local_base_freq"}),
    "gpt_oss": (config_of("gpt_oss"), {"rope_theta", "rope_scaling"}),
    "gpt_neox": (neox_config(), {"rotary_emb_base", "rotary_pct"}),
}


def write_anew(config: dict[str, Any]) -> dict[str, Any]:
    """As the installed library writes it: `rope_parameters` alone."""
    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(deepcopy(config))
    written: dict[str, Any] = json.loads(made.to_json_string(use_diff=False))
    return written


@pytest.mark.parametrize("kind", CASES)
def test_both_say_the_same(kind: str) -> None:
    given, keys = CASES[kind]
    alone = write_anew(given)
    family = family_of(alone)
    assert family.rotary is not None
    assert not keys & {key for key, value in alone.items() if value is not None}
    both = spell_both(alone, family.rotary)
    assert {key for key in both if alone.get(key) != both[key]} == keys
    assert all(both[key] == given[key] for key in keys & given.keys())
    cls = transformers.CONFIG_MAPPING[kind]
    made = [cls.from_dict(deepcopy(one)).rope_parameters for one in (alone, both)]
    assert made[0] == made[1]
    size = family.dimensions(alone)
    for block in range(size.num_blocks):
        layer = family.rotary.layer_type(alone, block)
        found = [rotary_positions(c, family.rotary, size.head_size, layer) for c in (alone, both)]
        assert found[0].kind == found[1].kind
        assert found[0].base == found[1].base
        assert found[0].dimensions == found[1].dimensions
    assert spell_both(both, family.rotary) == both


def test_plain_positions_are_said_where_the_default_scales(tmp_path: Path) -> None:
    """Earlier versions scale those of gpt-oss, unless `rope_scaling` is null."""
    config = write_anew(config_of("gpt_oss"))
    plain = {"rope_type": "default", "rope_theta": 150_000.0}
    source = write_decoder(tmp_path / "source", "gpt_oss")

    def change(config: dict[str, Any]) -> None:
        config.pop("rope_scaling", None)
        config["rope_parameters"] = plain

    edit_json(source / "config.json", change)
    out = surgery.export(source, "1", output=tmp_path / "out").output
    written = json.loads((out / "config.json").read_text())
    assert written["rope_scaling"] is None
    assert surgery.verify(out, source=source).ok
    made = transformers.CONFIG_MAPPING["gpt_oss"].from_dict(deepcopy(written))
    assert made.rope_parameters["rope_type"] == "default"
    assert torch.equal(
        logits(surgery.apply(load_model(source), "1", layout="stock")), logits(load_model(out))
    )
    family = family_of(config)
    assert family.rotary is not None
    assert spell_both(written, family.rotary) == written


def test_an_export_has_both_and_an_earlier_one_still_verifies(tmp_path: Path) -> None:
    source, out = write_decoder(tmp_path / "source", "llama"), tmp_path / "out"
    edit_json(
        source / "config.json",
        lambda config: config.update(
            rope_parameters={"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
        ),
    )
    surgery.export(source, "1", output=out)
    assert json.loads((out / "config.json").read_text())["rope_theta"] == 500_000.0
    applied = surgery.apply(load_model(source), "1", layout="stock")
    assert torch.equal(logits(applied), logits(load_model(out)))
    edit_json(out / "config.json", lambda config: config.pop("rope_theta"))
    seal(out)
    for given in (None, source):
        verification = surgery.verify(out, source=given, papers=False)
        assert verification.ok, verification.verdict


def export_without_biases(folder: Path) -> Path:
    """An edit that a tool undid: config.json and surgery.json still tell of it."""
    source, out = write_decoder(folder / "source", "llama"), folder / "out"
    surgery.export(source, "1", output=out)
    tensors = load_file(out / "model.safetensors")
    held = {name: tensor for name, tensor in tensors.items() if not name.endswith("bias")}
    save_file(held, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_a_tool_that_drops_biases_is_named(tmp_path: Path) -> None:
    """As mergekit does: an edit that stood in them is undone."""
    out = export_without_biases(tmp_path)
    said = "a tool dropped them, as mergekit does; if they held an edit, it is undone"
    with pytest.raises(CheckpointError, match=said):
        surgery.inspect(out)
    assert said in surgery.verify(out).verdict
    (out / "surgery.json").unlink()
    for read in (surgery.inspect, surgery.verify):
        with pytest.raises(CheckpointError, match=f"'attention_bias' is true, and all.*{said}"):
            read(out)


def test_a_tool_that_drops_biases_and_their_switch_is_noticed(tmp_path: Path) -> None:
    """`config.json` is as before the edit, so only surgery.json tells that there was one."""
    out = export_without_biases(tmp_path)
    edit_json(out / "config.json", lambda config: config.update(attention_bias=False))
    said = "bias', which the edit added, is gone, and the edit with it"
    with pytest.raises(CheckpointError, match=said):
        surgery.inspect(out)
    assert not surgery.verify(out).ok


def test_scaled_pythia_keeps_its_scaling_in_earlier_versions(tmp_path: Path) -> None:
    """No variant needs to know of it, but the library does."""
    config = neox_config(max_position_embeddings=64)
    del config["rotary_emb_base"]
    linear = {"rope_type": "linear", "factor": 4.0}
    rope = {**linear, "rope_theta": 10_000.0, "partial_rotary_factor": 0.25}
    source = write_checkpoint(tmp_path / "source", config | {"rope_parameters": rope})
    made = surgery.export(source, "1", variant="zero", output=tmp_path / "out").output
    written = json.loads((made / "config.json").read_text())
    assert written["rope_scaling"] == linear
    assert written["rotary_emb_base"] == 10_000.0
    assert surgery.verify(made, source=source).ok
