"""Contract: the measured difference that attention's mixing makes is what `short_circuit` makes,
it never exceeds its bound, and an edit's propagation is what whole edited passes say.

Bounds are computed in float64, so "never" leaves no room but for its rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from checkpoints import make_tensors, neo_config, neox_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

import surgery
from benchmarks.bounds.divergence import measure_bounds, measure_differences, read_mixing
from evals.data.windows import cut_windows
from evals.lab import find_lab_folder, heldout_texts
from surgery.editing.loading import load_model, load_tokenizer
from surgery.errors import MeasurementError, UnsupportedError
from surgery.families import family_of
from surgery.fitting.some_blocks import find_layers

FAMILIES = {"neox": neox_config, "neo": neo_config}
HEADS = {"neox": "num_attention_heads", "neo": "num_heads"}
Tokens = npt.NDArray[np.int32]


def build(family: str, *, seed: int = 0, scale: float = 1.0, **overrides: Any) -> Any:
    """A tiny random model; `scale` multiplies every matrix inside its blocks."""
    config = FAMILIES[family](torch_dtype="float32", max_position_embeddings=64, **overrides)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    names = {"embed_out.weight": "lm_head.weight"} if hasattr(model, "lm_head") else {}
    tensors = make_tensors(config, seed=seed).items()
    state = {names.get(name, name): tensor for name, tensor in tensors}
    assert not model.load_state_dict(state, strict=False).missing_keys
    with torch.no_grad():
        for parameter in find_layers(model).parameters():
            if parameter.ndim == 2:
                parameter *= scale
    return model.eval()


def tokens_of(rows: int, length: int, seed: int = 1) -> Tokens:
    return np.random.default_rng(seed).integers(128, size=(rows, length)).astype(np.int32)


@torch.no_grad()
def whole_pass(
    model: Any, windows: Tokens
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """By the library alone: residuals that enter each block and leave the last, what attention adds
    to each, and logits, each less its mean over the vocabulary."""
    residuals: list[torch.Tensor] = []
    added: list[torch.Tensor] = []
    attention = family_of(model.config.to_dict()).attention
    with ExitStack() as hooks:
        for block, layer in enumerate(find_layers(model)):
            enter = layer.register_forward_pre_hook(lambda _, args: residuals.append(args[0]))
            module = model.get_submodule(attention.format(block=block))
            add = module.register_forward_hook(lambda _, args, output: added.append(output[0]))
            hooks.enter_context(enter)
            hooks.enter_context(add)
        leave = layer.register_forward_hook(
            lambda _, args, out: residuals.append(out[0] if isinstance(out, tuple) else out)
        )
        hooks.enter_context(leave)
        logits = model(torch.from_numpy(windows).long(), use_cache=False).logits
    return residuals, added, logits - logits.mean(-1, keepdim=True)


@torch.no_grad()
def head_weights(model: Any, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W_V [H, h, d] and W_O [H, d, h] as the library's modules slice them."""
    family = family_of(model.config.to_dict())
    module = model.get_submodule(family.attention.format(block=block))
    heads = family.dimensions(model.config.to_dict()).num_heads
    if hasattr(module, "query_key_value"):
        fused, output = module.query_key_value.weight, module.dense
        value = torch.stack([rows.chunk(3)[2] for rows in fused.chunk(heads)])
    else:
        value, output = torch.stack(module.v_proj.weight.chunk(heads, 0)), module.out_proj
    return value.double(), torch.stack(output.weight.chunk(heads, 1)).double()


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_the_products(family: str) -> None:
    model = build(family, hidden_size=48, **{HEADS[family]: 3})
    for block in range(4):
        value, output = head_weights(model, block)
        products, found = output @ value, read_mixing(model, block)
        norms = [float(torch.linalg.svdvals(product)[0]) for product in products]
        assert found.per_head == pytest.approx(norms, rel=1e-12)
        stacked = torch.cat([*products], dim=1)
        assert found.stacked == pytest.approx(float(torch.linalg.svdvals(stacked)[0]), rel=1e-12)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    heads=st.sampled_from([1, 2, 4]),
    head_size=st.sampled_from([8, 16]),
    scale=st.sampled_from([0.01, 0.3, 1.0, 4.0, 30.0]),
    sharpness=st.sampled_from([0.0, 1.0, 10.0, 200.0]),
    length=st.integers(1, 24),
    repeated=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_the_difference_is_never_above_its_bounds(
    family: str,
    heads: int,
    head_size: int,
    scale: float,
    sharpness: float,
    length: int,
    repeated: bool,
    seed: int,
) -> None:
    """For any weights, any input, and any causal pattern."""
    sizes = {"hidden_size": heads * head_size, HEADS[family]: heads}
    mixing = read_mixing(build(family, seed=seed % 1000, scale=scale, **sizes), 0)
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, length, heads * head_size, generator=random) * scale
    if repeated:
        x[:] = x[:, :1]
    scores = sharpness * torch.randn(2, heads, length, length, generator=random)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
    measured, bound, pairwise = measure_differences(x, pattern, mixing)
    slack = 1e-9 * sum(mixing.per_head) * float(x.norm(dim=-1).max())
    assert (measured <= bound * (1 + 1e-9)).all()
    assert (bound <= pairwise + slack).all()
    assert float(pairwise[:, 0].max()) == float(measured[:, 0].max()) == 0, "it has only itself"


def test_the_bound_is_attained() -> None:
    """One head whose W_O W_V is the identity: Δ = u, so nothing is lost, and with two tokens not
    even by looking at them in pairs. A smaller bound would be wrong."""
    model = build("neox", num_attention_heads=1)
    for block in range(4):
        attention = model.gpt_neox.layers[block].attention
        attention.query_key_value.weight.data[128:] = torch.eye(64)
        attention.dense.weight.data[:] = torch.eye(64)
    for result in (measure_bounds(model, tokens_of(3, 2)), measure_bounds(model, tokens_of(3, 20))):
        for block in result["blocks"]:
            assert block["measured_mean"] > 0.01
            assert block["bound_mean"] == pytest.approx(block["measured_mean"], rel=1e-5)
            assert block["bound_max"] == pytest.approx(block["measured_max"], rel=1e-5)
            if result["tokens"] == 6:
                assert block["pairwise_mean"] == pytest.approx(block["measured_mean"], rel=1e-5)


def test_a_token_alone_has_nothing_to_mix(model: Any) -> None:
    result = measure_bounds(model, tokens_of(4, 1))
    assert len(result["blocks"]) == 4
    for block in result["blocks"]:
        assert (block["measured_max"], block["bound_max"], block["pairwise_max"]) == (0, 0, 0)
        assert block["tightness"] == 1
    assert all(x is None or x < 1e-6 for row in result["propagation"] for x in row)


def test_a_stock_edited_block_has_nothing_left_to_mix() -> None:
    model = surgery.apply(build("neox"), "1,3", layout="stock")
    result = measure_bounds(model, tokens_of(4, 30))
    for block in (1, 3):
        assert result["blocks"][block]["measured_max"] < 1e-6
        assert result["blocks"][block]["bound_max"] == 0
        assert max(x or 0.0 for x in result["propagation"][block]) < 1e-6
    assert result["blocks"][0]["measured_mean"] > 0.1


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("neox", {}),
        ("neox", {"rotary_pct": 1.0, "attention_bias": False, "num_attention_heads": 4}),
        ("neox", {"use_parallel_residual": False, "num_attention_heads": 1}),
        ("neo", {}),
        ("neo", {"window_size": 3, "num_heads": 4}),
    ],
)
def test_measured_is_what_short_circuit_changes(family: str, config: dict[str, Any]) -> None:
    model, windows = build(family, **config), tokens_of(5, 30)
    result = measure_bounds(model, windows, batch_size=2)
    residuals, before, _ = whole_pass(model, windows)
    for block in range(4):
        with surgery.short_circuit(model, str(block)):
            after = whole_pass(model, windows)[1]
        change = (after[block] - before[block]).norm(dim=-1) / residuals[block].norm(dim=-1)
        assert result["blocks"][block]["measured_mean"] == pytest.approx(
            float(change.mean()), rel=1e-4
        )
        assert result["blocks"][block]["measured_max"] == pytest.approx(
            float(change.max()), rel=1e-4
        )


def relative_l2(edited: torch.Tensor, base: torch.Tensor) -> float:
    return float(((edited - base).norm(dim=-1) / base.norm(dim=-1)).mean())


def test_propagation_is_that_of_whole_edited_passes(model: Any) -> None:
    windows = tokens_of(5, 30)
    result = measure_bounds(model, windows, batch_size=2)
    base, _, logits = whole_pass(model, windows)
    for edit in range(4):
        with surgery.short_circuit(model, str(edit)):
            edited, _, edited_logits = whole_pass(model, windows)
        row = result["propagation"][edit]
        assert row[:edit] == [None] * edit
        expected = [relative_l2(edited[m], base[m]) for m in range(edit + 1, 5)]
        expected += [relative_l2(edited_logits, logits)]
        assert row[edit:] == pytest.approx(expected, rel=1e-4)
        kl = torch.nn.functional.kl_div(
            edited_logits.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none"
        )
        assert result["logits_kl"][edit] == pytest.approx(float(kl.sum(-1).mean()), rel=1e-4)


def test_batches_do_not_matter_and_runs_repeat(model: Any) -> None:
    windows = tokens_of(5, 24)
    done: list[int] = []
    by_two = measure_bounds(model, windows, batch_size=2, advance=done.append)
    assert done == [2, 2, 1]
    assert by_two == measure_bounds(model, windows, batch_size=2)
    at_once = measure_bounds(model, windows, batch_size=5)
    for one, other in zip(by_two["blocks"], at_once["blocks"], strict=True):
        assert one["bound_mean"] == pytest.approx(other["bound_mean"], rel=1e-5)
        assert one["measured_max"] == pytest.approx(other["measured_max"], rel=1e-5)
    assert by_two["logits_kl"] == pytest.approx(at_once["logits_kl"], rel=1e-3)


def test_the_model_is_left_as_it_was(model: Any) -> None:
    windows = tokens_of(2, 20)
    before = whole_pass(model, windows)[2]
    implementation = model.config._attn_implementation
    measure_bounds(model, windows)
    assert model.config._attn_implementation == implementation
    assert torch.equal(whole_pass(model, windows)[2], before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_json_holds_plain_numbers(model: Any) -> None:
    record = json.loads(json.dumps(measure_bounds(model, tokens_of(3, 20)), allow_nan=False))
    assert (record["windows"], record["tokens"]) == (3, 60)
    assert [block["block"] for block in record["blocks"]] == [0, 1, 2, 3]
    assert {
        "measured_mean", "measured_max", "bound_mean", "bound_max", "pairwise_mean", "pairwise_max",
        "tightness",
    } == set(record["blocks"][0]) - {"block"}  # fmt: skip
    assert [len(row) for row in record["propagation"]] == [5] * 4
    assert [row.count(None) for row in record["propagation"]] == [0, 1, 2, 3]
    assert len(record["logits_kl"]) == 4


def broken(name: str) -> Any:
    model = build("neox")
    model.get_parameter(name).data[:] = float("inf")
    return model


@pytest.mark.parametrize(
    ("make", "windows", "error", "text"),
    [
        (
            lambda: build("neox"),
            tokens_of(1, 65),
            MeasurementError,
            "windows longer than the model's positions (expected 64, got 65)",
        ),
        (
            lambda: build("neox"),
            tokens_of(0, 8),
            MeasurementError,
            "no windows of text (expected [M, T], got (0, 8))",
        ),
        (
            lambda: surgery.apply(build("neox"), "2", layout="compact"),
            tokens_of(1, 8),
            UnsupportedError,
            "attention_free_gpt_neox: a compact checkpoint has blocks without attention, so there "
            "is nothing to bound (expected gpt_neox); use the model it was made from",
        ),
        (
            lambda: broken("gpt_neox.layers.2.attention.dense.weight"),
            tokens_of(1, 8),
            MeasurementError,
            "gpt_neox.layers.2.attention.dense.weight: a weight is not finite; the model is broken",
        ),
        (
            lambda: broken("gpt_neox.embed_in.weight"),
            tokens_of(1, 8),
            MeasurementError,
            "the model gives numbers that are not finite; use `dtype=float32` or bfloat16; if it "
            "stays, the model is broken",
        ),
    ],
)
def test_what_cannot_be_measured_is_an_error(
    make: Callable[[], Any], windows: Tokens, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        measure_bounds(make(), windows)
    assert str(raised.value) == text


def test_dropout_is_not_measured(model: Any) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        measure_bounds(model.train(), tokens_of(1, 8))


@pytest.mark.parametrize("name", ["pythia", "gpt-neo"])
def test_the_lab_models_keep_the_bound(name: str) -> None:
    """What docs/cost.md says of trained models: bounded, and looser than 1."""
    folder = find_lab_folder(name)
    windows = cut_windows(heldout_texts(), load_tokenizer(folder), 128, most=4)
    result = measure_bounds(load_model(folder, dtype=torch.float32), windows)
    for block in result["blocks"]:
        assert 0 < block["measured_mean"] < block["bound_mean"] < block["pairwise_mean"]
        assert block["measured_max"] < block["bound_max"] < block["pairwise_max"]
        assert 0.1 < block["tightness"] < 0.5
