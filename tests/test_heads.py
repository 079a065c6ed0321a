"""Contract: any variant, for whole blocks or single heads, is what its formula says.

GPT-NeoX in the stock layout: equal, bit for bit, to a model in which those heads' context vectors
are replaced by M x + c just before the output projection, built here from the source by the
library's own layers: in every dtype, attention implementation and head size of the Pythia suite;
one token and 2,048; left padding; with and without a cache. On a GPU where there is one. GPT-Neo
in the stock layout and every compact checkpoint agree with it within rounding. Edited heads are
proved attention-free, the others untouched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DTYPES, neo_config, neox_config, write_checkpoint
from command_line import attn_surgery
from fits import export_with_any, load_aligned, random_fits
from torch.nn import functional

import surgery
from surgery.errors import UnsupportedError
from surgery.families import Dimensions, family_of
from surgery.in_memory import Editable
from surgery.loading import load_model
from surgery.selection import EditedHeads, Selection, parse_selection, variants_by_head
from surgery.verification import verify

VARIANTS = ("identity", "zero", "mean", "linear")
HEADS, SIZE, D = 4, 32, 128
POSITIONS = 2048
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEOX = {"num_attention_heads": HEADS, "hidden_size": D, "intermediate_size": 64}
NEO = {"num_heads": HEADS, "hidden_size": D, "intermediate_size": 64}
MIXED = (
    EditedHeads(0, (1,), "linear"),
    EditedHeads(0, (2,), "zero"),
    EditedHeads(1, (0, 1), "mean"),
    EditedHeads(1, (2, 3), "identity"),
    EditedHeads(3, (0,), "mean"),
)
IDS = torch.randint(128, (2, 200), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    result: torch.Tensor = model(ids.to(model.device), use_cache=False).logits
    return result


def dimensions_of(model: Any) -> Dimensions:
    config = model.config.to_dict()
    return family_of(config).dimensions(config)


def replace_contexts(model: Any, selection: Selection) -> None:
    """Hooks a GPT-NeoX model so that the edited heads' contexts are maps of their own token."""
    heads, d = model.config.num_attention_heads, model.config.hidden_size
    edits = variants_by_head(selection)
    fits = random_fits(edits, heads, d)
    for block, variants in edits.items():
        attention = model.gpt_neox.layers[block].attention
        linear, fit = attention.query_key_value, fits[block]
        biased = linear.bias is not None
        weight = linear.weight.detach().clone().view(heads, 3, -1, d)
        bias = linear.bias.detach().clone().view(heads, 3, -1) if biased else None
        for head, variant in variants.items():
            if variant in ("zero", "mean"):
                weight[head, 2] = 0
            if variant == "zero" and biased:
                bias[head, 2] = 0
            if variant == "mean":
                bias[head, 2] = torch.from_numpy(fit.mean[head])
            if variant == "linear":
                weight[head, 2] = torch.from_numpy(fit.weight[head])
                bias[head, 2] = torch.from_numpy(fit.bias[head])
        maps = weight.view(3 * d, d), bias.view(3 * d) if biased else None
        seen: list[torch.Tensor] = []
        linear.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0]))

        def replaced(
            module: Any, args: Any, seen: Any = seen, maps: Any = maps, edited: Any = variants
        ) -> tuple[torch.Tensor]:
            x = seen.pop()
            qkv = functional.linear(x, *maps).view(*x.shape[:2], heads, 3, -1)
            z = args[0].view(*x.shape[:2], heads, -1).clone()
            for head in edited:
                z[:, :, head] = qkv[:, :, head, 2]
            return (z.view_as(x),)

        attention.dense.register_forward_pre_hook(replaced)
        if biased and list(variants.values()) == ["zero"] * heads:
            attention.dense.bias.data.zero_()


def reference(source: Path, selection: Selection, attn: str | None = None) -> Any:
    model = load_aligned(source, attn_implementation=attn).to(DEVICE)
    replace_contexts(model, selection)
    return model


def stock_pair(
    folder: Path, spec: str, attn: str = "sdpa", variant: str = "identity", **config: Any
) -> tuple[Any, Any]:
    """(the stock export, the reference), both loaded in their stored dtype."""
    source = write_checkpoint(folder / "source", neox_config(**config))
    export_with_any(source, spec, folder / "out", variant=variant, layout="stock")
    edited = load_aligned(folder / "out", attn_implementation=attn).to(DEVICE)
    assert type(edited).__module__.startswith("transformers.")
    sizes = dimensions_of(edited)
    selection = parse_selection(spec, variant, sizes.num_blocks, sizes.num_heads)
    return edited, reference(source, selection, attn)


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(128, shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def assert_equal(edited: Any, reference: Any, length: int) -> None:
    """Without a cache."""
    ours, theirs = (logits(model, tokens(1, length)) for model in (edited, reference))
    assert torch.isfinite(ours).all()
    assert torch.equal(ours, theirs)


@torch.no_grad()
def assert_equal_padded_and_cached(edited: Any, reference: Any) -> None:
    """Left padding, a prefill, and single-token steps that continue from the cache."""
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[0, :13] = 0
    caches: list[Any] = [None, None]
    for start, end in ((0, 33), (33, 34), (34, 35), (35, 40)):
        logits = []
        for i, model in enumerate((edited, reference)):
            out = model(
                ids[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=(mask[:, :end].cumsum(1) - 1).clamp(min=0)[:, start:end],
                use_cache=True,
                **{cache_argument(model): caches[i]},
            )
            caches[i] = out[cache_argument(model)]
            logits.append(out.logits[mask[:, start:end].bool()])
        assert torch.equal(*logits)


def cache_argument(model: Any) -> str:
    """transformers renamed `past_key_values` to `cache`."""
    import inspect

    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


# Many CPUs compute 16 bits one number at a time: at all positions only where there is time. So are
# all combinations; every size, dtype, and implementation is in one of the others.
SHORT = 100
LONG = ("float32", "sdpa")
WAYS = [(dtype, attn) for dtype in DTYPES for attn in ("eager", "sdpa")]
CELLS = [
    *((size, *LONG, POSITIONS) for size in (32, 64, 80, 96, 128, 256)),
    *((80, *way, SHORT) for way in WAYS if way != LONG),
    *(
        pytest.param(size, *way, POSITIONS, marks=pytest.mark.slow)
        for size in (32, 64, 80, 96, 128, 256)
        for way in WAYS
        if way != LONG
    ),
]


@pytest.mark.parametrize(("head_size", "dtype", "attn", "length"), CELLS)
def test_identity_of_every_size(
    tmp_path: Path, head_size: int, dtype: str, attn: str, length: int
) -> None:
    sizes = {"hidden_size": 2 * head_size, "intermediate_size": head_size, "num_hidden_layers": 2}
    sizes["max_position_embeddings"] = length
    edited, reference = stock_pair(tmp_path, "1", attn, **sizes, torch_dtype=dtype)
    assert_equal(edited, reference, 1)
    assert_equal(edited, reference, length)
    assert_equal_padded_and_cached(edited, reference)


@pytest.mark.parametrize("variant", ["identity", "zero"])
def test_without_attention_biases(tmp_path: Path, variant: str) -> None:
    assert_equal(*stock_pair(tmp_path, "0,3", variant=variant, attention_bias=False), 200)


def test_all_dimensions_rotary(tmp_path: Path) -> None:
    assert_equal(*stock_pair(tmp_path, "1", rotary_pct=1.0), 200)


def test_all_blocks(tmp_path: Path) -> None:
    assert_equal_padded_and_cached(*stock_pair(tmp_path, "0-3"))


BOTH = "1,2.3"  # a whole block, and a single head


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("spec", "dtype", "attn"),
    [
        pytest.param(spec, *way, marks=() if (spec, way) in quick else pytest.mark.slow)
        for spec in ("1,3", "0.2,2.0-1", BOTH)
        for way in WAYS
        for quick in [[(BOTH, LONG), (BOTH, ("float32", "eager")), (BOTH, ("float16", "sdpa"))]]
    ],
)
def test_stock_equals_replaced_contexts(
    tmp_path: Path, spec: str, variant: str, dtype: str, attn: str
) -> None:
    edited, reference = stock_pair(tmp_path, spec, attn, variant, **NEOX, torch_dtype=dtype)
    assert_equal(edited, reference, 200)
    source = load_model(tmp_path / "source", attn_implementation=attn).to(DEVICE)
    assert not torch.equal(logits(edited, tokens(1, 20)), logits(source, tokens(1, 20)))


@pytest.mark.parametrize("parallel", [True, False])
def test_variants_can_be_mixed_within_a_block(tmp_path: Path, parallel: bool) -> None:
    config = neox_config(**NEOX, torch_dtype="float32", use_parallel_residual=parallel)
    source = write_checkpoint(tmp_path / "source", config)
    export_with_any(source, MIXED, tmp_path / "out")
    assert_equal(load_model(tmp_path / "out").to(DEVICE), reference(source, MIXED), 200)
    verification = verify(tmp_path / "out", source=source)
    assert verification.ok, verification
    names = [check.name for check in verification.checks]
    assert "heads 0.1-2 attention-free (linear, zero)" in names
    assert "block 1 attention-free (identity, mean)" in names


@pytest.mark.parametrize("variant", VARIANTS)
def test_compact_agrees(tmp_path: Path, variant: str) -> None:
    """The same map, its product rounded once: whole blocks only."""
    source = write_checkpoint(tmp_path / "source", neox_config(**NEOX, torch_dtype="float32"))
    export_with_any(source, "1-2", tmp_path / "out", variant=variant, layout="compact")
    expected = reference(source, parse_selection("1-2", variant, 4, HEADS))
    torch.testing.assert_close(
        logits(load_model(tmp_path / "out").to(DEVICE)), logits(expected), rtol=1e-4, atol=1e-4
    )
    assert verify(tmp_path / "out", source=source).ok


@pytest.mark.parametrize(
    ("variant", "dtype", "length"),
    [
        *(("zero", dtype, SHORT) for dtype in ("float32", "bfloat16")),
        *(pytest.param("zero", d, POSITIONS, marks=pytest.mark.slow) for d in DTYPES),
        ("mean", "float32", 200),
    ],
)
@pytest.mark.parametrize("spec", ["0,3", "0.1,3.0-2"])
def test_gpt_neo_stock(tmp_path: Path, variant: str, spec: str, dtype: str, length: int) -> None:
    """Global and local blocks; GPT-Neo runs eager attention only. `zero` stores no product."""
    config = neo_config(**NEO, torch_dtype=dtype, max_position_embeddings=length)
    source = write_checkpoint(tmp_path / "source", config)
    export_with_any(source, spec, tmp_path / "out", variant=variant, layout="stock")
    edited, expected = (load_aligned(path).to(DEVICE) for path in (tmp_path / "out", source))
    edits = variants_by_head(parse_selection(spec, variant, 4, HEADS))
    fits = random_fits(edits, HEADS, D)
    for block, variants in edits.items():
        projection = expected.transformer.h[block].attn.attention.out_proj
        mean = torch.from_numpy(fits[block].mean).to(DEVICE)

        def replaced(
            module: Any, args: Any, edited: Any = variants, mean: torch.Tensor = mean
        ) -> tuple[torch.Tensor]:
            z = args[0].view(*args[0].shape[:2], HEADS, SIZE).clone()
            for head in edited:
                z[:, :, head] = mean[head] if variant == "mean" else 0
            return (z.view_as(args[0]),)

        projection.register_forward_pre_hook(replaced)
        if len(variants) == HEADS and variant == "zero":
            projection.bias.data.zero_()
    if variant == "zero":
        assert_equal(edited, expected, 1)
        assert_equal(edited, expected, length)
    else:
        torch.testing.assert_close(logits(edited), logits(expected), rtol=1e-4, atol=1e-4)
    assert verify(tmp_path / "out", source=source).ok


@pytest.mark.parametrize(
    ("config", "spec", "variant", "layout", "text"),
    [
        (neox_config(**NEOX), "1.0", "zero", "compact", "3 of 4 heads of block 1 still attend"),
        (neo_config(**NEO), "1.0", "identity", "stock", "cannot make a token attend to itself"),
        (neo_config(**NEO), "1.0", "identity", "auto", "no rotary positions"),
        (neo_config(**NEO), "0,1.0", "identity", "auto", "take `variant=zero` or mean"),
    ],
)
def test_what_cannot_be_held_is_refused(
    tmp_path: Path, config: dict[str, Any], spec: str, variant: str, layout: str, text: str
) -> None:
    source = write_checkpoint(tmp_path / "source", config)
    with pytest.raises(UnsupportedError, match=text):
        surgery.export(source, spec, output=tmp_path / "out", variant=variant, layout=layout)
    assert not (tmp_path / "out").exists()


def test_edits_of_heads_add_up(tmp_path: Path) -> None:
    """Two exports, one after the other, equal one of both; a head cannot be edited again."""
    source = write_checkpoint(tmp_path / "source", neox_config(**NEOX))
    surgery.export(source, "1.0,2", output=tmp_path / "a")
    surgery.export(tmp_path / "a", "1.2-3", variant="zero", output=tmp_path / "b")
    both = (
        EditedHeads(1, (0,), "identity"),
        EditedHeads(1, (2, 3), "zero"),
        EditedHeads(2, tuple(range(HEADS)), "identity"),
    )
    surgery.export(source, both, output=tmp_path / "both")
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (
        tmp_path / "both" / "model.safetensors"
    ).read_bytes()
    found = surgery.inspect(tmp_path / "b")
    assert found.attention_free == {2: "identity"}
    assert found.edited_heads == {1: {0: "identity", 2: "zero", 3: "zero"}}
    with pytest.raises(UnsupportedError, match="head 2 of block 1 is already edited"):
        surgery.export(tmp_path / "b", "1.2", output=tmp_path / "c")
    shown = attn_surgery("inspect", tmp_path / "b")
    assert "block 1: heads without attention: 0 (identity), 2 (zero), 3 (zero)" in shown.stdout


@pytest.mark.parametrize("spec", [pytest.param("1", marks=pytest.mark.slow), "1.0,2.1", "0-3"])
@pytest.mark.parametrize(
    "variant", ["mean", "linear", *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS[:2])]
)
@pytest.mark.parametrize("config", [neox_config(**NEOX), neo_config(**NEO)], ids=["neox", "neo"])
def test_in_memory_equals_the_export(
    tmp_path: Path, config: dict[str, Any], variant: str, spec: str
) -> None:
    """Also of a float16 checkpoint that is loaded in float32: new tensors are rounded likewise."""
    if config["model_type"] == "gpt_neo" and "." in spec and variant in ("identity", "linear"):
        pytest.skip("no layout holds it")
    source = write_checkpoint(tmp_path / "source", config)
    export_with_any(source, spec, tmp_path / "out", variant=variant)
    model = load_model(source).float()
    stored = "F16" if config["torch_dtype"] == "float16" else "F32"
    fits = random_fits(range(4), HEADS, D)
    before = logits(model)
    editable = Editable(model, stored_dtype=stored)
    with editable.make_replacements(editable.plan(spec, variant), fits).activate():
        inside = logits(model)
    assert torch.equal(inside, logits(load_model(tmp_path / "out").float()))
    assert torch.equal(logits(model), before), "the model was not restored"
