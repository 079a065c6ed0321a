"""Contract: the measured difference that attention's mixing makes is what `short_circuit` makes,
it never exceeds its bound, and an edit's propagation is what whole edited passes say.

"Never" means up to the rounding of the model's float32: SLACK of the size of the terms that cancel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from checkpoints import make_tensors, neo_config, neox_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPTNeoConfig, GPTNeoForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

import surgery
from evals.bounds.attention import AttentionView, watch_attention
from evals.bounds.divergence import bounds
from evals.bounds.mixing import differences, norms_of
from evals.lab import heldout_texts, model_path
from evals.samples.windows import control_windows
from surgery.editing.loading import load_model, load_tokenizer
from surgery.errors import MeasurementError, UnsupportedError
from surgery.families import family_of

SLACK = 2e-6
FAMILIES = {"neox": neox_config, "neo": neo_config}
Tokens = npt.NDArray[np.int32]


def build(family: str, *, seed: int = 0, scale: float = 1.0, **overrides: Any) -> Any:
    """A tiny random model; `scale` multiplies every matrix inside its blocks."""
    config = FAMILIES[family](torch_dtype="float32", max_position_embeddings=64, **overrides)
    tensors = make_tensors(config, seed=seed)
    pair: tuple[Any, Any] = (
        (GPTNeoXConfig, GPTNeoXForCausalLM)
        if family == "neox"
        else (GPTNeoConfig, GPTNeoForCausalLM)
    )
    model = pair[1](pair[0].from_dict(config))
    names = {"embed_out.weight": "lm_head.weight"} if hasattr(model, "lm_head") else {}
    state = {names.get(name, name): tensor for name, tensor in tensors.items()}
    report = model.load_state_dict(state, strict=False)
    assert not report.missing_keys
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and (".h." in name or ".layers." in name):
                parameter *= scale
    return model.eval()


def tokens_of(rows: int, length: int, seed: int = 1) -> Tokens:
    return np.random.default_rng(seed).integers(128, size=(rows, length)).astype(np.int32)


def views_of(model: Any, windows: Tokens) -> list[AttentionView]:
    views: list[AttentionView] = []
    with torch.no_grad(), watch_attention(model, views.append):
        model(torch.from_numpy(windows).long(), use_cache=False)
    return views


@torch.no_grad()
def head_weights(model: Any, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W_V [H, h, d], b_V [H, h] and W_O [H, d, h] as the library's modules slice them."""
    family = family_of(model.config.to_dict())
    module = model.get_submodule(family.attention.format(block=block))
    heads = family.dimensions(model.config.to_dict()).num_heads
    if hasattr(module, "query_key_value"):
        fused, d = module.query_key_value, module.dense.weight.shape[0]
        size = d // heads
        value = torch.stack([fused.weight[3 * size * h + 2 * size :][:size] for h in range(heads)])
        bias = torch.zeros(heads, size)
        if fused.bias is not None:
            bias = torch.stack([fused.bias[3 * size * h + 2 * size :][:size] for h in range(heads)])
        output = module.dense
    else:
        value = torch.stack(module.v_proj.weight.chunk(heads, 0))
        bias, output = torch.zeros(value.shape[:2]), module.out_proj
    return value.double(), bias.double(), torch.stack(output.weight.chunk(heads, 1)).double()


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_the_librarys(family: str) -> None:
    model, windows = build(family), tokens_of(3, 40)
    theirs = build(family)
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(windows).long(), output_attentions=True).attentions
    views = views_of(model, windows)
    assert [view.block for view in views] == [0, 1, 2, 3]
    for view, attention in zip(views, expected, strict=True):
        assert torch.equal(view.pattern, attention)
    if family == "neo":  # blocks 1 and 3 are local, with a window of 16
        assert views[0].pattern[:, :, 39, 0].min() > 0
        assert views[1].pattern[:, :, 39, :24].max() == 0
        assert views[1].pattern[:, :, 39, 24:].min() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_heads_and_weights_belong_together(family: str) -> None:
    """The formula of the derivation, term by term, gives what the modules give."""
    model = build(family)
    for view in views_of(model, tokens_of(2, 33)):
        value, _, output = head_weights(model, view.block)
        shift = view.pattern.double() @ view.inputs.double()[:, None] - view.inputs[:, None]
        expected = torch.einsum("hdk,hke,bhte->btd", output, value, shift)
        torch.testing.assert_close((view.output - view.alone).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_the_products(family: str) -> None:
    heads = {"neox": "num_attention_heads", "neo": "num_heads"}[family]
    model = build(family, hidden_size=48, **{heads: 3})
    for block in range(4):
        value, _, output = head_weights(model, block)
        products = output @ value
        norms = norms_of(model, block)
        assert norms.per_head.tolist() == pytest.approx(
            [float(torch.linalg.svdvals(product)[0]) for product in products], rel=1e-12
        )
        stacked = torch.cat(list(products), dim=1)
        assert norms.stacked == pytest.approx(float(torch.linalg.svdvals(stacked)[0]), rel=1e-12)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    heads=st.sampled_from([1, 2, 4]),
    head_size=st.sampled_from([8, 16]),
    scale=st.sampled_from([0.01, 0.3, 1.0, 4.0, 30.0]),
    variation=st.integers(0, 3),
    rows=st.integers(1, 3),
    length=st.integers(1, 24),
    repeated=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_measured_is_never_above_the_bound(
    family: str,
    heads: int,
    head_size: int,
    scale: float,
    variation: int,
    rows: int,
    length: int,
    repeated: bool,
    seed: int,
) -> None:
    sizes: dict[str, Any] = {"hidden_size": heads * head_size}
    if family == "neox":
        sizes |= {
            "num_attention_heads": heads,
            "num_hidden_layers": 2,
            "rotary_pct": [0.25, 0.5, 1.0, 1.0][variation],
            "attention_bias": variation != 3,
            "use_parallel_residual": variation != 2,
        }
    else:
        sizes |= {
            "num_heads": heads,
            "num_layers": 2,
            "attention_layers": ["global", "local"],
            "attention_types": [[["global", "local"], 1]],
            "window_size": 1 + 2 * variation,
        }
    model = build(family, seed=seed % 1000, scale=scale, **sizes)
    windows = tokens_of(rows, length, seed)
    if repeated:
        windows[:] = windows[:, :1]
    for view in views_of(model, windows):
        value, bias, output = head_weights(model, view.block)
        measured, bound, pairwise = differences(view, norms_of(model, view.block))
        # What is added up and cancels: W_O (W_V x + b_V) with and without mixing.
        longest = view.inputs.double().norm(dim=-1).max()
        terms = torch.linalg.matrix_norm(value, ord=2) * longest + bias.norm(dim=-1)
        size = (torch.linalg.matrix_norm(output, ord=2) * terms).sum()
        slack = SLACK * float(size + view.output.double().norm(dim=-1).max())
        assert (measured <= bound + slack).all()
        assert (bound <= pairwise * (1 + 1e-9) + slack).all()
        assert float(measured[:, 0].max()) <= slack, "the first token has only itself"
        assert float(pairwise[:, 0].max()) == 0


def test_the_bound_is_attained() -> None:
    """One head whose W_O W_V is the identity: Δ = u, so nothing is lost, and with two tokens not
    even by looking at them in pairs. A smaller bound would be wrong."""
    model = build("neox", num_attention_heads=1)
    for block in range(4):
        attention = model.gpt_neox.layers[block].attention
        attention.query_key_value.weight.data[128:] = torch.eye(64)
        attention.dense.weight.data[:] = torch.eye(64)
    for result in (bounds(model, tokens_of(3, 2)), bounds(model, tokens_of(3, 20))):
        for block in result.blocks:
            assert block.measured_mean > 0.01
            assert block.bound_mean == pytest.approx(block.measured_mean, rel=1e-5)
            assert block.bound_max == pytest.approx(block.measured_max, rel=1e-5)
            if result.tokens == 6:
                assert block.pairwise_mean == pytest.approx(block.measured_mean, rel=1e-5)


def test_a_token_alone_has_nothing_to_mix(model: Any) -> None:
    result = bounds(model, tokens_of(4, 1))
    assert len(result.blocks) == 4
    for block in result.blocks:
        assert (block.measured_max, block.bound_max, block.pairwise_max) == (0, 0, 0)
        assert block.tightness == 1
    assert all(x is None or x < 1e-6 for row in result.propagation.relative for x in row)


def test_one_hot_attention_has_nothing_to_mix(model: Any) -> None:
    """Where the pattern is one-hot on the token itself, whatever made it so."""
    (view, *_) = views_of(model, tokens_of(2, 20))
    one_hot = torch.eye(20).expand_as(view.pattern)
    alone = AttentionView(0, view.residual, view.inputs, one_hot, view.alone, view.alone)
    assert float(differences(alone, norms_of(model, 0)).max()) == 0


def test_a_stock_edited_block_has_nothing_left_to_mix() -> None:
    model = surgery.apply(build("neox"), "1,3", layout="stock")
    result = bounds(model, tokens_of(4, 30))
    for block in (1, 3):
        assert result.blocks[block].measured_max < 1e-6
        assert result.blocks[block].bound_max == 0
        assert max(x or 0.0 for x in result.propagation.relative[block]) < 1e-6
    assert result.blocks[0].measured_mean > 0.1


@torch.no_grad()
def attention_outputs(model: Any, windows: Tokens) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    family = family_of(model.config.to_dict())
    hooks = [
        model.get_submodule(family.attention.format(block=block)).register_forward_hook(
            lambda module, args, output: found.append(output[0])
        )
        for block in range(4)
    ]
    model(torch.from_numpy(windows).long(), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def test_measured_is_what_short_circuit_changes(model: Any) -> None:
    windows = tokens_of(5, 30)
    result = bounds(model, windows, batch_size=2)
    views, before = views_of(model, windows), attention_outputs(model, windows)
    for block in range(4):
        with surgery.short_circuit(model, str(block)):
            after = attention_outputs(model, windows)[block]
        relative = (after - before[block]).norm(dim=-1) / views[block].residual.norm(dim=-1)
        assert result.blocks[block].measured_mean == pytest.approx(float(relative.mean()), rel=1e-4)
        assert result.blocks[block].measured_max == pytest.approx(float(relative.max()), rel=1e-4)


@torch.no_grad()
def residuals_and_logits(model: Any, windows: Tokens) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What leaves each block, and logits, from one whole pass."""
    found: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    layers = model.base_model.layers if hasattr(model.base_model, "layers") else model.base_model.h
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    logits = model(torch.from_numpy(windows).long(), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return found, logits


def relative_l2(edited: torch.Tensor, base: torch.Tensor) -> float:
    return float(((edited - base).norm(dim=-1) / base.norm(dim=-1)).mean())


def test_propagation_is_that_of_whole_edited_passes(model: Any) -> None:
    windows = tokens_of(5, 30)
    result = bounds(model, windows, batch_size=2)
    base, logits = residuals_and_logits(model, windows)
    centered = logits - logits.mean(-1, keepdim=True)
    for edit in range(4):
        with surgery.short_circuit(model, str(edit)):
            edited, edited_logits = residuals_and_logits(model, windows)
        row = result.propagation.relative[edit]
        assert row[:edit] == (None,) * edit
        expected = [relative_l2(edited[m], base[m]) for m in range(edit, 4)]
        expected += [relative_l2(edited_logits - edited_logits.mean(-1, keepdim=True), centered)]
        assert row[edit:] == pytest.approx(expected, rel=1e-4)
        kl = torch.nn.functional.kl_div(
            edited_logits.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none"
        )
        assert result.propagation.kl[edit] == pytest.approx(float(kl.sum(-1).mean()), rel=1e-4)


def test_batches_do_not_matter_and_runs_repeat(model: Any) -> None:
    windows = tokens_of(5, 24)
    done: list[int] = []
    by_two = bounds(model, windows, batch_size=2, advance=done.append)
    assert done == [2, 2, 1]
    assert by_two == bounds(model, windows, batch_size=2)
    at_once = bounds(model, windows, batch_size=5)
    for one, other in zip(by_two.blocks, at_once.blocks, strict=True):
        assert one.bound_mean == pytest.approx(other.bound_mean, rel=1e-5)
        assert one.measured_max == pytest.approx(other.measured_max, rel=1e-5)
    assert by_two.propagation.kl == pytest.approx(at_once.propagation.kl, rel=1e-3)


def test_the_model_is_left_as_it_was(model: Any) -> None:
    windows = tokens_of(2, 20)
    before = residuals_and_logits(model, windows)[1]
    implementation = model.config._attn_implementation
    bounds(model, windows)
    assert model.config._attn_implementation == implementation
    assert torch.equal(residuals_and_logits(model, windows)[1], before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_json_holds_plain_numbers(model: Any) -> None:
    record = json.loads(json.dumps(bounds(model, tokens_of(3, 20)).to_json(), allow_nan=False))
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
            "are no weights to look at (expected gpt_neox); use the model it was made from",
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
            "attention gives numbers that are not finite; use `dtype=float32` or bfloat16; if it "
            "stays, the model is broken",
        ),
    ],
)
def test_what_cannot_be_measured_is_an_error(
    make: Callable[[], Any], windows: Tokens, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        bounds(make(), windows)
    assert str(raised.value) == text


def test_dropout_is_not_measured(model: Any) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        bounds(model.train(), tokens_of(1, 8))


@pytest.mark.parametrize("name", ["pythia", "gpt-neo"])
def test_the_lab_models_keep_the_bound(name: str) -> None:
    """What docs/bounds.md says of trained models: bounded, and looser than 1."""
    folder = model_path(name)
    windows = control_windows(heldout_texts(), load_tokenizer(folder), 128, most=4)
    result = bounds(load_model(folder, dtype=torch.float32), windows)
    for block in result.blocks:
        assert 0 < block.measured_mean < block.bound_mean < block.pairwise_mean
        assert block.measured_max < block.bound_max < block.pairwise_max
        assert 0.1 < block.tightness < 0.5
