"""Contract: each newer family is exact in the library's own class, and what only it has is proved.

One edit of each here, in float32, and the proofs of what only some families have: sinks, blocks
without positions, gains stored as 1 + gain, experts. `test_families.py` has every cell of the
table, dtype, and implementation (slow).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import BY_TYPE, HEADS, MIXED, MORE, write_decoder
from fits import load_aligned
from forging import assert_refused, edit_json, edit_weights, seal
from safetensors.torch import load_file, save_file
from test_families import IDS, logits, put_in_place
from transformers import AutoModelForCausalLM

import surgery
from evals.measure.attacks.revive import wake
from surgery.checkpoint.source import open_checkpoint
from surgery.editing.loading import load_model
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import family_of
from surgery.selection import EditedHeads
from surgery.training.weights import take_weights

ALONE = [kind for kind in MORE if kind not in MIXED]
ATTENTION = "model.layers.1.self_attn."


def pair(folder: Path, kind: str, spec: str = "0,2", **options: Any) -> tuple[Path, Path]:
    """A source and its stock export."""
    source = write_decoder(folder / "source", kind, **options)
    surgery.export(source, spec, output=folder / "out", layout="stock")
    return source, folder / "out"


@pytest.mark.parametrize("kind", ALONE)
def test_identity_is_exact(tmp_path: Path, kind: str) -> None:
    """One token, nine, and 300; padded, and continued from a cache; proved with the source."""
    source, out = pair(tmp_path, kind, max_position_embeddings=300)
    edited, reference = load_aligned(out), load_aligned(source)
    assert type(edited).__module__.startswith("transformers.")
    put_in_place(reference, "0,2", "identity", shared=True, fits={})
    for length in (1, 9, 300):
        ids = torch.randint(128, (1, length), generator=torch.Generator().manual_seed(2))
        assert torch.equal(logits(edited, ids), logits(reference, ids)), length
    mask = torch.ones_like(IDS)
    mask[0, :13] = 0
    ways = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None, "pad_token_id": 1}
    made = [m.generate(IDS, attention_mask=mask, **ways) for m in (edited, reference)]
    assert torch.equal(*made)
    verification = surgery.verify(out, source=source)
    assert verification.ok, verification.verdict


LONG = [  # every dtype and implementation; gpt-oss has eager alone
    (dtype, attn) for dtype in ("float32", "bfloat16", "float16") for attn in ("eager", "sdpa")
]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "attn"), LONG)
@pytest.mark.parametrize("kind", ALONE)
def test_identity_is_exact_over_2048_tokens(
    tmp_path: Path, kind: str, dtype: str, attn: str
) -> None:
    if (kind, attn) == ("gpt_oss", "sdpa"):
        pytest.skip("the library has no such implementation")
    source, out = pair(tmp_path, kind, torch_dtype=dtype, max_position_embeddings=2048)
    edited, reference = (load_aligned(path, attn_implementation=attn) for path in (out, source))
    put_in_place(reference, "0,2", "identity", shared=True, fits={})
    ids = torch.randint(128, (1, 2048), generator=torch.Generator().manual_seed(2))
    assert torch.equal(logits(edited, ids), logits(reference, ids))


@pytest.mark.parametrize(
    ("kind", "name", "rows"),
    [
        ("gpt_oss", "sinks", slice(0, 1)),  # of another weight on all tokens
        ("gemma3_text", "q_norm.weight", slice(60, 64)),  # a gain that is not zero
        ("glm4", "k_proj.bias", slice(1, 2)),  # the pairs are adjacent, so it holds no constant
    ],
)
def test_forged_constants_are_refused(tmp_path: Path, kind: str, name: str, rows: slice) -> None:
    source, out = pair(tmp_path, kind, "1")
    edit_weights(out, lambda tensors: tensors[ATTENTION + name][rows].add_(1))
    assert_refused(out, "tensors", name, source)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["q_proj.weight", "k_proj.bias"])
@pytest.mark.parametrize("kind", ALONE)
def test_no_family_takes_a_forged_constant(tmp_path: Path, kind: str, name: str) -> None:
    source, out = pair(tmp_path, kind, "1")
    edit_weights(out, lambda tensors: tensors[ATTENTION + name][:1].add_(1))
    assert_refused(out, "tensors", name, source)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_no_version_leaves_attention_out_by_configuration(tmp_path: Path, kind: str) -> None:
    """`per_layer_config` with `skip` is accepted, and attention computed all the same.

    A version with which this fails can hold attention-free blocks in its own classes: compact could
    then write this key.
    """
    source = write_decoder(tmp_path / "source", kind)
    before = logits(AutoModelForCausalLM.from_pretrained(source))
    skipped = {"1": {"skip": ["attention"]}}
    edit_json(source / "config.json", lambda config: config.update(per_layer_config=skipped))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(source)), before)


@pytest.mark.parametrize(
    ("kind", "key", "absent"),
    [("smollm3", "no_rope_layers", 0), ("cohere2", "layer_types", "full_attention")],
)
def test_a_block_without_positions_gets_them(
    tmp_path: Path, kind: str, key: str, absent: Any
) -> None:
    """By its entry in config.json: only for a whole block, and without it the edit is undone."""
    source, out = pair(tmp_path, kind, "2")
    assert json.loads((out / "config.json").read_text())[key][2] != absent
    with pytest.raises(UnsupportedError, match="share the lack of positions"):
        surgery.export(source, "2.g1", output=tmp_path / "no", layout="stock")
    zero = surgery.export(source, "2", variant="zero", output=tmp_path / "zero").output
    assert json.loads((zero / "config.json").read_text()).get(key) == json.loads(
        (source / "config.json").read_text()
    ).get(key)
    model = load_model(source)
    before = logits(model)
    with surgery.short_circuit(model, "2", layout="stock"):
        inside = logits(model)
    assert torch.equal(inside, logits(load_model(out)))
    assert torch.equal(logits(model), before), "the model was not restored"
    assert torch.equal(logits(surgery.apply(model, "2", layout="stock")), inside)

    def take_back(config: dict[str, Any]) -> None:
        config[key][2] = absent

    edit_json(out / "config.json", take_back)
    seal(out)
    assert not surgery.verify(out, source=source).ok


@pytest.mark.parametrize("kind", ["smollm3", "cohere2"])
def test_two_variants_share_a_block_without_positions(tmp_path: Path, kind: str) -> None:
    """The result alone, whose entry says that there are positions, gives the same plan."""
    source = write_decoder(tmp_path / "source", kind)
    half = HEADS // 2
    edit = (
        EditedHeads(2, tuple(range(half)), "identity"),
        EditedHeads(2, tuple(range(half, HEADS)), "zero"),
    )
    out = surgery.export(source, edit, output=tmp_path / "out", layout="stock").output
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict


@pytest.mark.parametrize("value", [[1, 1], [1, 1, 2], "all"])
def test_entries_that_make_no_sense(tmp_path: Path, value: Any) -> None:
    source = write_decoder(tmp_path / "source", "smollm3")
    edit_json(source / "config.json", lambda config: config.update(no_rope_layers=value))
    with pytest.raises(CheckpointError, match="'no_rope_layers' does not say which blocks have"):
        surgery.export(source, "1", output=tmp_path / "out", layout="stock")


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        ("qwen3_moe", {"decoder_sparse_step": "1"}, "'decoder_sparse_step' is not a whole number"),
        ("qwen3_moe", {"mlp_only_layers": 5}, "'mlp_only_layers' is not a list of blocks"),
        ("glm4_moe", {"first_k_dense_replace": "1"}, "'first_k_dense_replace' is not a whole"),
        ("olmo", {"clip_qkv": "8.0"}, "'clip_qkv' is not a number above 0"),
        ("olmo", {"clip_qkv": [8.0]}, "'clip_qkv' is not a number above 0"),
        ("granite", {"attention_multiplier": 1e-200}, "'attention_multiplier' makes no sense"),
    ],
)
def test_values_of_another_type_are_one_line(
    tmp_path: Path, kind: str, change: dict[str, Any], text: str
) -> None:
    source = write_decoder(tmp_path / "source", kind)
    edit_json(source / "config.json", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=text):
        surgery.export(source, "1", output=tmp_path / "out", layout="stock")


@pytest.mark.parametrize("kind", ["glm4_moe"])
def test_a_block_after_the_last_goes_along_and_is_not_loaded(tmp_path: Path, kind: str) -> None:
    """Published checkpoints hold one that predicts several tokens at once."""
    source = write_decoder(tmp_path / "source", kind)
    number = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    tensors = load_file(source / "model.safetensors")
    last = {
        name.replace(f".{number - 1}.", f".{number}."): tensor.clone()
        for name, tensor in tensors.items()
        if f".layers.{number - 1}." in name
    }
    assert any("self_attn" in name for name in last)
    save_file({**tensors, **last}, source / "model.safetensors", metadata={"format": "pt"})
    edit_json(source / "config.json", lambda config: config.update(num_nextn_predict_layers=1))
    out = surgery.export(source, "1", output=tmp_path / "out", layout="stock").output
    after = load_file(out / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in last.items())
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    model = load_model(out)
    assert model.config.num_hidden_layers == number
    trained = take_weights(open_checkpoint(out), model, {})
    assert all(np.array_equal(trained.read(name), tensor.numpy()) for name, tensor in last.items())


def test_positions_that_versions_read_differently_are_refused(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
    source = write_decoder(tmp_path / "source", "llama")

    def change(config: dict[str, Any]) -> None:
        config.pop("rope_theta", None)
        config.update(rope_parameters=yarn, original_max_position_embeddings=16)

    edit_json(source / "config.json", change)
    with pytest.raises(UnsupportedError, match="'original_max_position_embeddings' beside the sc"):
        surgery.export(source, "1", output=tmp_path / "out")
    edit_json(source / "config.json", lambda config: config.update(rope_parameters={
        **yarn, "original_max_position_embeddings": 16,
    }))  # fmt: skip
    surgery.export(source, "1", variant="zero", output=tmp_path / "out")


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    """The library would load it into the source, and it is not in the result."""
    source = write_decoder(tmp_path / "source", "llama")
    (source / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="holds an adapter"):
        surgery.export(source, "1", variant="zero", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "block"), [("gemma3_text", 1), ("qwen3", 1)])
def test_gains_of_a_woken_block_are_1(tmp_path: Path, kind: str, block: int) -> None:
    """As the library applies them: some families store what is added to 1."""
    _, out = pair(tmp_path, kind, str(block))
    model = load_model(out)
    family = family_of(model.config.to_dict())
    woken = dict(wake(model, (block,)).model.named_parameters())
    for role in ("query_norm", "key_norm"):
        gain = woken[family.name(role, block)]
        assert torch.equal(gain + family.gain, torch.ones_like(gain)), role


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "qwen3_moe")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    held = {key: tensor for key, tensor in tensors.items() if key != name}
    save_file(held, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"tensor '{name}' is missing"):
        surgery.export(source, "1", output=tmp_path / "out")
    held[name.replace(".3.", ".4.")] = tensors[name]
    save_file(held, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"unknown tensor 'model.layers.1.mlp.experts.4"):
        surgery.export(source, "1", output=tmp_path / "out")


def test_biases_of_attention_bring_those_of_the_mlp(tmp_path: Path) -> None:
    """One key of config.json gives ERNIE both; those that hold nothing are -0.0."""
    _, out = pair(tmp_path, "ernie4_5", "1")
    added = load_file(out / "model.safetensors")
    for block in range(3):
        bias = added[f"model.layers.{block}.mlp.down_proj.bias"]
        assert (bias == 0).all()
        assert bias.signbit().all()
    assert json.loads((out / "config.json").read_text())["use_bias"] is True


def test_a_granite_of_a_long_context_is_refused(tmp_path: Path) -> None:
    """Its scores are scaled down eight times as far as others."""
    source = write_decoder(tmp_path / "source", "granite", max_position_embeddings=131_072)
    with pytest.raises(UnsupportedError, match="max_position_embeddings 131072"):
        surgery.export(source, "1", output=tmp_path / "out", layout="stock")


def test_heads_that_normalize_only_sometimes(tmp_path: Path) -> None:
    """GLM-4.5-Air has no norms of queries and keys: so single groups can be edited."""
    source, out = pair(tmp_path, "glm4_moe", "1.g1", use_qk_norm=False)
    assert surgery.verify(out, source=source).ok
    assert BY_TYPE["glm4_moe"].qk_norm == "head"


def test_capped_scores_hold_what_needs_no_lead(tmp_path: Path) -> None:
    """Gemma 2: `zero` exactly, `identity` in compact; and both where the cap is gone."""
    source = write_decoder(tmp_path / "source", "gemma2", max_position_embeddings=300)
    with pytest.raises(UnsupportedError, match="caps the scores of its attention"):
        surgery.export(source, "1", output=tmp_path / "no", layout="stock")
    for variant, layout in (("zero", "stock"), ("identity", "compact")):
        out = surgery.export(source, "0,2", output=tmp_path / layout, variant=variant).output
        verification = surgery.verify(out, source=source)
        assert verification.ok, verification.verdict
        reference = load_aligned(source)
        put_in_place(reference, "0,2", variant, shared=True, fits={})
        found, want = logits(load_aligned(out)), logits(reference)
        if layout == "stock":
            assert torch.equal(found, want)
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    free = write_decoder(tmp_path / "free", "gemma2", attn_logit_softcapping=None)
    out = surgery.export(free, "1", output=tmp_path / "out", layout="stock").output
    reference = load_aligned(free)
    put_in_place(reference, "1", "identity", shared=True, fits={})
    assert torch.equal(logits(load_aligned(out)), logits(reference))
