"""Contract: of config.json the library is given what the model's family knows, and nothing else.

The families know every key of the real models and all that the installed library writes. Any other
key of a source is named and left out; a result that has one does not verify. The library runs the
sizes and the tensors that were read, or nothing. What it cannot build is refused while an edit is
planned, with the key that it fails on.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import decoders
import pytest
import torch
import transformers
from checkpoints import make_tensors, neo_config, neox_config, write_checkpoint
from command_line import attn_surgery
from decoders import config_of
from forging import assert_refused, edit_json, seal
from hostile.victims import LENGTHS, model, samples

import surgery
from surgery.checkpoint.source import open_checkpoint
from surgery.editing.loading import load_model
from surgery.errors import CheckpointError, MarginError
from surgery.families import FAMILIES, Family
from surgery.families.rotary import Positions, Rotary
from surgery.layouts.one_hot import frequencies

SIZES = {"max_position_embeddings": 64, "torch_dtype": "float32"}
CONFIGS = {
    "gpt_neox": neox_config(**SIZES),
    "gpt_neo": neo_config(**SIZES),
    **{kind: config_of(kind) for kind in (*decoders.CONFIGS, *decoders.MORE)},
}
CLASSES: dict[str, Any] = {
    family.model_type: transformers.CONFIG_MAPPING[family.model_type] for family in FAMILIES
}
HUB = {  # beside those of `checkpoints`: gpt-neox-20b, gpt-neo-1.3B, and what fine-tunes add
    "gpt_neox": """_name_or_path attention_bias attention_dropout attention_probs_dropout_prob
        classifier_dropout dtype hidden_dropout hidden_dropout_prob pad_token_id
        partial_rotary_factor rope_parameters rope_scaling rope_theta""",
    "gpt_neo": """_name_or_path classifier_dropout dtype id2label label2id problem_type
        summary_activation summary_first_dropout summary_proj_to_labels summary_type
        summary_use_proj task_specific_params tokenizer_class""",
    "llama": "attention_bias mlp_bias pretraining_tp rope_scaling rope_theta",
    "qwen2": "max_window_layers rope_theta sliding_window use_sliding_window",
    "qwen3": "attention_bias max_window_layers rope_scaling sliding_window use_sliding_window",
    "olmo": "attention_bias clip_qkv rope_scaling rope_theta",
    "olmo2": "attention_bias rope_scaling rope_theta",
    "olmo3": "attention_bias layer_types rope_scaling rope_theta sliding_window",
    "phi": "embd_pdrop partial_rotary_factor qk_layernorm resid_pdrop rope_scaling rope_theta",
    "stablelm": """hidden_dropout partial_rotary_factor qk_layernorm rope_scaling rope_theta
        use_parallel_residual use_qkv_bias""",
    "mistral": "head_dim rope_theta sliding_window",
    "qwen3_moe": """decoder_sparse_step max_window_layers mlp_only_layers moe_intermediate_size
        num_experts output_router_logits router_aux_loss_coef rope_scaling use_sliding_window""",
    "gemma3_text": """attn_logit_softcapping cache_implementation final_logit_softcapping
        layer_types query_pre_attn_scalar rope_local_base_freq sliding_window_pattern""",
    "gemma2": """attn_logit_softcapping cache_implementation final_logit_softcapping
        query_pre_attn_scalar""",
    "smollm3": "layer_types max_window_layers mlp_bias no_rope_layer_interval no_rope_layers",
    "glm4": "attention_bias attention_dropout partial_rotary_factor",
    "granite": "attention_multiplier embedding_multiplier logits_scaling residual_multiplier",
    "gemma": "attention_bias hidden_activation rope_scaling",
    "starcoder2": "embedding_dropout mlp_type norm_type residual_dropout use_bias",
    "cohere": "logit_scale use_qk_norm",
    "cohere2": """layer_switch logit_scale order_of_interleaved_layers position_embedding_type
        rotary_pct use_embedding_sharing use_gated_activation use_parallel_block
        use_parallel_embedding""",
    "seed_oss": "attention_out_bias mlp_bias pretraining_tp residual_dropout rope_scaling",
    "ernie4_5": "compression_ratio rope_scaling use_bias",
    "gpt_oss": """experts_per_token initial_context_length output_router_logits
        router_aux_loss_coef rope_scaling swiglu_limit""",
    "glm4_moe": """first_k_dense_replace n_group n_shared_experts norm_topk_prob
        num_nextn_predict_layers routed_scaling_factor topk_group""",
}
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)


@families
def test_every_key_of_real_models_is_known(family: Family, tmp_path: Path) -> None:
    cls = CLASSES[family.model_type]
    cls(num_labels=5, torch_dtype="float16").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    takes = [
        name
        for kind in (cls, transformers.PretrainedConfig)
        for name, one in inspect.signature(kind.__init__).parameters.items()
        if name != "self" and one.kind is not one.VAR_KEYWORD
    ]
    hub = dict.fromkeys(HUB[family.model_type].split())
    keys = {
        **CONFIGS[family.model_type],
        **hub,
        **written,
        **cls().to_dict(),
        **dict.fromkeys(takes),
    }
    assert set(family.unknown_keys(keys)) <= {"pruned_heads"}  # it would remove heads on loading


@families
def test_second_names_are_those_of_the_library(family: Family) -> None:
    assert dict(family.aliases) == CLASSES[family.model_type].attribute_map


def second_names(family: Family) -> dict[str, Any]:
    config = CONFIGS[family.model_type]
    return {alias: config[key] for alias, key in family.aliases.items() if key in config}


@pytest.mark.parametrize(
    "family", [one for one in FAMILIES if second_names(one)], ids=lambda one: one.model_type
)
def test_a_second_name_that_agrees_is_fine(family: Family, tmp_path: Path) -> None:
    kind, source, same = family.model_type, tmp_path / "source", second_names(family)
    if kind in ("gpt_neox", "gpt_neo"):
        model = load_model(write_checkpoint(source, {**CONFIGS[kind], **same}))
    else:
        model = load_model(decoders.write_decoder(source, kind, **same))
    assert {alias: getattr(model.config, alias) for alias in same} == same


@pytest.mark.parametrize("layout", ["stock", "compact"])
def test_an_unknown_key_is_named_and_left_out(tmp_path: Path, layout: str) -> None:
    strange = {"trained_by": "me", "sliding_window": 4, "_attn_implementation_autoset": True}
    source, out = model(tmp_path / "source", config=strange), tmp_path / "out"
    named = "they are left out: _attn_implementation_autoset, sliding_window, trained_by"
    for command in (
        ("inspect", source),
        ("extract", source, "--samples", samples(tmp_path / "samples.jsonl"), *LENGTHS),
        ("export", source, "--drop-attn", "1", "--layout", layout, "--output", out),
    ):
        outcome = attn_surgery(*command)
        assert outcome.code == 0, outcome
        assert named in outcome.stdout + outcome.stderr
    assert attn_surgery("inspect", source, "--json").json["unknown_keys"] == sorted(strange)
    assert not hasattr(load_model(source).config, "sliding_window")
    assert not set(strange) & set(json.loads((out / "config.json").read_text()))
    assert surgery.verify(out, source=source).ok

    edit_json(out / "config.json", lambda config: config.update(trained_by="me"))
    seal(out)
    assert_refused(
        out, "contents", "config.json: 'trained_by' is not a key of such a model", source
    )


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("family", ["gpt_neox", "gpt_neo"])
def test_tensors_that_were_not_read(tmp_path: Path, family: str, weights: str) -> None:
    """The folder that is loaded is not the one whose tensors were looked at."""
    config = CONFIGS[family]
    name = next(name for name in make_tensors(config) if ".2.mlp" in name)
    read = open_checkpoint(write_checkpoint(tmp_path / "read", config, weights=weights))
    tensors = make_tensors(config)
    tensors[name] = tensors[name] + 1
    other = write_checkpoint(tmp_path / "other", config, weights=weights, tensors=tensors)
    load_model(read, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=f"'{name}' was loaded with other numbers"):
        load_model(replace(read, folder=other), dtype=torch.bfloat16)


def test_another_size_than_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second name that only a newer library knows."""
    source = write_checkpoint(tmp_path / "source", {**CONFIGS["gpt_neo"], "summary_type": 1})
    names = {"summary_type": "num_heads"}
    monkeypatch.setattr(transformers.GPTNeoConfig, "attribute_map", names)
    with pytest.raises(CheckpointError, match="num_heads: the library would use another size"):
        load_model(source)


@pytest.mark.parametrize("layout", ["stock", "compact"])
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_a_factor_of_zero(tmp_path: Path, layout: str, kind: str) -> None:
    """It gave an infinite margin, and a manifest that could not be read again."""
    source = decoders.write_decoder(tmp_path / "source", "llama")
    scaling = {"rope_type": kind, "factor": 0}
    edit_json(source / "config.json", lambda config: config.update(rope_scaling=scaling))
    made = attn_surgery(
        *("export", source, "--drop-attn", 1, "--layout", layout, "--output", tmp_path / "OUT")
    )
    text = "config.json: the rotary 'factor' makes no sense (expected a number above 0, got 0)"
    made.assert_error(text)


SENSELESS = "'{}' makes no sense (expected a positive whole number, got 0)"
OF_BLOCKS = "'layer_types' does not say how every block attends (expected a list of sliding_attent"


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        ("cohere2", {"sliding_window": None}, "without 'sliding_window' no block has positions ("),
        (
            "smollm3",
            {"no_rope_layers": [1]},
            "'no_rope_layers' does not say which blocks have positions (expected 1 or 0 for each",
        ),
        (
            "smollm3",
            {"no_rope_layers": None, "no_rope_layer_interval": 0},
            SENSELESS.format("no_rope_layer_interval"),
        ),
        ("gemma3_text", {"sliding_window_pattern": 0}, SENSELESS.format("sliding_window_pattern")),
        ("olmo3", {"layer_types": ["full_attention"]}, OF_BLOCKS),
        ("olmo3", {"layer_types": ["other"] * 3}, OF_BLOCKS),
        (
            "llama",
            {"partial_rotary_factor": 0.5},
            "this architecture rotates all dimensions of a head (expected a rotary share of 1, ",
        ),
        ("llama", {"rope_scaling": [1]}, "'rope_scaling' is not an object (got [1])"),
        ("llama", {"rope_theta": 0.5}, "the rotary base makes no sense (expected a number from 1 "),
    ],
)
def test_positions_that_make_no_sense(
    tmp_path: Path, kind: str, change: dict[str, Any], text: str
) -> None:
    """Told by key before any weight is read."""
    source = decoders.write_decoder(tmp_path / "source", kind)
    edit_json(source / "config.json", lambda config: config.update(change))
    made = attn_surgery("export", source, "--drop-attn", 1, "--output", tmp_path / "OUT")
    made.assert_error(f"config.json: {text}")
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("yarn", {"attention_factor": 1e-320}),
        ("yarn", {"attention_factor": 1e300}),
        ("llama3", {"low_freq_factor": 1.0, "high_freq_factor": 1.0}),
    ],
)
def test_margins_are_finite(kind: str, numbers: dict[str, float]) -> None:
    size = {"factor": 2.0, "original_max_position_embeddings": 64}
    positions = Positions(kind, 8, 1e4, {**size, **numbers})
    with pytest.raises(MarginError, match=f"the parameters of rotary scaling '{kind}' make no"):
        frequencies(positions, Rotary())


def test_a_file_s_name_that_no_manifest_holds(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", CONFIGS["gpt_neox"])
    (source / "LICENSE\n").write_text("free")
    made = attn_surgery("export", source, "--drop-attn", 1, "--output", tmp_path / "OUT")
    made.assert_error("source: cannot be recorded in surgery.json", "is not a file of the folder")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
