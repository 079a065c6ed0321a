"""Contract: rotary positions are read as the library reads them, or the model is refused.

Keys of the positions stand in several places of config.json, and the library heeds some of them
only where others are missing. What it does not heed, or what its versions read differently, is
refused before anything is planned: an export would say it in another place, where it counts.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import transformers
from checkpoints import neox_config, write_checkpoint
from decoders import config_of, write_decoder
from forging import edit_json, seal

import surgery
from surgery.checkpoint.configuration import check_config
from surgery.errors import CheckpointError
from surgery.families import family_of
from surgery.families.rotary import rotary_positions, spell_both

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
PLAIN = {"rope_type": "default"}
BOTH = {"sliding_attention", "full_attention"}
Change = dict[str, Any]


def change_config(kind: str, change: Change) -> dict[str, Any]:
    """A configuration with other keys; `...`: without the key."""
    config = {**(neox_config() if kind == "gpt_neox" else config_of(kind)), **change}
    return {key: value for key, value in config.items() if value is not ...}


def of_each(theta: float, **scaling: Any) -> dict[str, Any]:
    return {kind: {"rope_theta": theta, **PLAIN, **scaling} for kind in BOTH}


ACCEPTED: list[tuple[str, Change]] = [
    ("llama", {"rope_scaling": YARN, "rope_parameters": {**YARN, "rope_theta": 500_000.0}}),
    ("llama", {"rope_theta": ..., "rope_parameters": {**YARN, "rope_theta": 500_000.0}}),
    ("llama", {"partial_rotary_factor": None}),
    (
        "qwen3",
        {
            "rope_theta": ...,
            "rope_scaling": {**YARN, "rope_theta": 1e5},
            "rope_parameters": {**YARN, "rope_theta": 1e5},
        },
    ),
    ("phi", {"partial_rotary_factor": ...}),
    ("glm4", {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.25, "rope_theta": 1e4},
              "partial_rotary_factor": 0.25}),
    ("gpt_neox", {"rope_theta": 10_000, "partial_rotary_factor": 0.25}),
    ("gpt_neox", {"rotary_emb_base": ..., "rotary_pct": ..., "rope_theta": 10_000.0}),
    ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ("gemma3_text", {"rope_theta": ..., "rope_local_base_freq": ..., "rope_parameters": {
        "full_attention": {**PLAIN, "rope_theta": 2e6}, "sliding_attention": None}}),
    ("olmo3", {"rope_theta": ..., "rope_parameters": of_each(1e6)}),
    ("olmo3", {"rope_parameters": {**PLAIN, "rope_theta": 500_000.0}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "change"), ACCEPTED)
def test_what_is_accepted_is_read_as_the_library_reads_it(kind: str, change: Change) -> None:
    """The source, and what an export makes of it."""
    config = change_config(kind, change)
    family, head = family_of(config), config["hidden_size"] // config["num_attention_heads"]
    head = config.get("head_dim", head)
    rotary = family.rotary
    assert rotary is not None
    found = []
    for given in (config, spell_both(config, rotary)):
        check_config(given, family)
        theirs = transformers.CONFIG_MAPPING[kind].from_dict(deepcopy(given)).rope_parameters
        for block in range(config["num_hidden_layers"]):
            layer = rotary.layer_type(given, block)
            ours = rotary_positions(given, rotary, head, layer)
            rope = theirs if layer is None else theirs[layer]
            share = rope.get("partial_rotary_factor", 1.0)
            assert (ours.base, ours.dimensions) == (rope["rope_theta"], int(head * share))
            assert ours.kind == rope["rope_type"]
            found.append(ours.base)
    half = len(found) // 2
    assert found[:half] == found[half:]


UNREAD = "the rotary {} is given where the library does not read it, and it takes {} (got {}); "
TYPES = "'rope_parameters' do not tell the types of blocks apart, and versions of the library"
ONE = "the rotary base of 'sliding_attention' is not that of 'full_attention', and some versions"
NO_NUMBER = "the rotary {} makes no sense (expected a number from {}, got None)"
REFUSED: list[tuple[str, Change, str]] = [
    (
        "qwen3",
        {
            "rope_theta": ...,
            "rope_scaling": YARN,
            "rope_parameters": {**PLAIN, "rope_theta": 1e6},
        },
        UNREAD.format("base", "10000", "1000000.0") + "give it as 'rope_theta' at the top level",
    ),
    (
        "phi",
        {
            "partial_rotary_factor": ...,
            "rope_scaling": YARN,
            "rope_parameters": {**YARN, "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        },
        UNREAD.format("share", "0.5", "0.25") + "give it as 'partial_rotary_factor' at the top",
    ),
    (
        "gpt_neox",
        {"rotary_emb_base": ..., "rope_theta": 1e6},
        UNREAD.format("base", "10000", "1000000.0") + "give it as 'rotary_emb_base' at the top",
    ),
    (
        "gpt_neox",
        {"rotary_pct": ..., "partial_rotary_factor": 0.5},
        UNREAD.format("share", "0.25", "0.5") + "give it as 'rotary_pct' at the top level",
    ),
    (
        "gemma3_text",
        {
            "rope_theta": ...,
            "rope_local_base_freq": ...,
            "rope_parameters": {**PLAIN, "rope_theta": 1e6},
        },
        TYPES,
    ),
    ("olmo3", {"rope_parameters": {**YARN, "rope_theta": 500_000.0}}, TYPES),
    ("olmo3", {"rope_theta": 1e6}, f"{ONE} of the library have one for both (expected 1e+06, got "),
    ("olmo3", {"rope_theta": ..., "rope_scaling": {**YARN, "rope_theta": 1e6}}, ONE),
    ("glm4", {"partial_rotary_factor": None}, NO_NUMBER.format("share", "0 to 1")),
    ("glm4_moe", {"partial_rotary_factor": None}, NO_NUMBER.format("share", "0 to 1")),
    ("llama", {"rope_theta": None}, NO_NUMBER.format("base", "1 to 1e+30")),
]


@pytest.mark.parametrize(("kind", "change", "text"), REFUSED)
def test_what_is_read_otherwise_is_refused(
    tmp_path: Path, kind: str, change: Change, text: str
) -> None:
    """Whatever is cut, and however: blocks that nobody edits are of the source's positions, too."""
    source = (
        write_checkpoint(tmp_path / "source", neox_config())
        if kind == "gpt_neox"
        else write_decoder(tmp_path / "source", kind)
    )
    (source / "config.json").write_text(json.dumps(change_config(kind, change)))
    with pytest.raises(CheckpointError) as refused:
        surgery.export(source, "2", variant="zero", output=tmp_path / "out")
    assert str(refused.value).startswith(f"config.json: {text}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["rope_theta", "rope_scaling"])
def test_a_result_that_lost_one_of_both_spellings_does_not_verify(tmp_path: Path, key: str) -> None:
    """`rope_parameters` still say it, but beside `rope_scaling` the library does not heed them."""
    source, out = write_decoder(tmp_path / "source", "llama"), tmp_path / "out"
    rope = {**YARN, "rope_theta": 500_000.0}
    edit_json(
        source / "config.json",
        lambda config: (config.pop("rope_theta"), config.update(rope_parameters=rope)),
    )
    surgery.export(source, "1", variant="zero", output=out)
    assert surgery.verify(out, source=source, papers=False).ok
    edit_json(out / "config.json", lambda config: config.pop(key))
    seal(out)
    verdict = surgery.verify(out, source=source, papers=False).verdict
    if key == "rope_theta":
        assert verdict == surgery.verify(out, papers=False).verdict
        assert "the rotary base is given where the library does not read it" in verdict
    else:
        assert "config.json is not what the edit makes of the source's" in verdict
