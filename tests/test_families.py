"""Contract, for every family that follows Llama: an edit is what its formula says, or is refused.

The reference is the source, loaded by the library, with context vectors put in the place of those
that attention makes, just before the output projection. A stock edit that stores no product equals
it bit for bit; where W_O c is stored, and in the compact layout, products are rounded once more.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pytest
import torch
import transformers
from checkpoints import DTYPES, neo_config, neox_config, write_checkpoint
from command_line import ROOT
from decoders import (
    BLOCKS,
    BY_TYPE,
    GROUPS,
    HEADS,
    SIZE,
    config_of,
    few_first,
    split_values,
    write_decoder,
)
from fits import export_with_any, load_aligned, random_fits, record_of
from forging import assert_fails, assert_refused, edit_json, edit_weights, seal
from safetensors.torch import load_file
from torch.nn import functional

import surgery
from surgery import families as records
from surgery.editing.in_memory import Editable
from surgery.editing.loading import load_model
from surgery.editing.preparing import Fitting, prepare
from surgery.errors import BlockSpecError, MarginError, UnsupportedError
from surgery.exporting import write
from surgery.families.llama import BLOCK, attention, decoder, gated
from surgery.families.record import module
from surgery.selection import EditedHeads, parse_selection

KINDS = tuple(decoders.CONFIGS)
EVERY = (*KINDS, *decoders.MORE)
HELD = [kind for kind in EVERY if kind not in decoders.MIXED]  # of which stock holds `identity`
GRAINS = {"block": "1", "group": "1.g1", "head": "1.2"}
VARIANTS = ("identity", "zero", "mean", "linear")
IDS = torch.randint(128, (2, 40), generator=torch.Generator().manual_seed(5))


class Sources(dict[str, Path]):
    """A tiny model of each family, saved once it is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, kind: str) -> Path:
        self[kind] = write_decoder(self.root / kind, kind)
        return self[kind]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Sources(tmp_path_factory.mktemp("families"))


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    result: torch.Tensor = model(ids, use_cache=False).logits
    return result


def output_of(module: Any) -> Any:
    return module.o_proj if hasattr(module, "o_proj") else module.dense


def put_in_place(
    model: Any, spec: str, variant: str, *, shared: bool, fits: Any, groups: int = GROUPS
) -> None:
    """Replaces context vectors in the library's own model, by hooks."""
    heads = HEADS
    for part in parse_selection(spec, variant, BLOCKS, heads, groups):
        module = model.model.layers[part.block].self_attn
        value, out = module.v_proj, output_of(module)
        seen: list[torch.Tensor] = []
        value.register_forward_hook(lambda m, a, o, seen=seen: seen.extend((a[0], o)))

        def replaced(
            module: Any,
            args: Any,
            part: EditedHeads = part,
            seen: Any = seen,
        ) -> tuple[torch.Tensor]:
            v, x = seen.pop(), seen.pop()
            z = args[0].view(*args[0].shape[:2], heads, -1).clone()
            fit, each = fits.get(part.block), heads // groups
            if variant == "linear" and shared:  # all rows at once, as the library multiplies them
                v = functional.linear(
                    x, *map(torch.cat, zip(*mapped_groups(fit, each), strict=True))
                )
            of_groups = split_values(v, z.shape[1])
            for head in part.heads:
                if variant == "identity" or (variant == "linear" and shared):
                    z[:, :, head] = of_groups[:, :, head // each]
                elif variant == "zero":
                    z[:, :, head] = 0
                elif variant == "mean":
                    z[:, :, head] = torch.from_numpy(fit.mean[head])
                else:
                    weight, bias = (torch.from_numpy(a[head]).to(x) for a in (fit.weight, fit.bias))
                    z[:, :, head] = functional.linear(x, weight, bias)
            return (z.view_as(args[0]),)

        out.register_forward_pre_hook(replaced)
        if variant == "zero" and len(part.heads) == heads and out.bias is not None:
            out.bias.data.zero_()


def mapped_groups(fit: Any, each: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The one map of each group, the mean of those of its heads, in float32."""
    for first in range(0, HEADS, each):
        some = slice(first, first + each)
        weight, bias = (torch.from_numpy(a[some]).double().mean(0) for a in (fit.weight, fit.bias))
        yield weight.float(), bias.float()


def read_table() -> dict[tuple[str, str], dict[tuple[str, str], str]]:
    """(layout, family) → (grain, variant) → "=", "~", or "no", as docs/families.md says."""
    lines = (ROOT / "docs" / "families.md").read_text().split("||block: identity")[1].splitlines()
    table: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    layout = ""
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line[1:-1].split("|"))
        headed = re.match(r"\*\*(\w+):", name)
        layout = headed[1] if headed else layout
        row = dict(
            zip(CELLS, [*cells[:5], cells[4], *cells[5:8], cells[7], *cells[8:]], strict=True)
        )
        named = re.findall("`(.+?)`", name)
        named = named or [kind for kind in BY_TYPE if (layout, kind) not in table]
        for kind in [" as ".join(named)] if "saved as" in name else named:
            table[layout, kind] = row
    return table


ROW = ("identity", "linear", "zero", "mean")
CELLS = [
    *(("block", variant) for variant in VARIANTS),
    *((grain, variant) for grain in ("group", "head") for variant in ROW),
]
TABLE = read_table()


def expected(kind: str, variant: str, grain: str, layout: str) -> str | None:
    """Why a cell is refused, in part; None for one that is held."""
    family = BY_TYPE[kind]
    if layout == "compact":
        return None if grain == "block" else "still attend"
    if variant == "zero":
        return None
    if kind == "mistral":
        return "no query and key biases" if variant != "mean" else "no output bias"
    if kind == "gemma2" and variant != "mean":
        return "caps the scores of its attention"
    if variant == "mean":
        if grain == "block" or family.rule("output_bias") is not None:
            return None
        if grain == "group":
            return "no output bias" if family.qk_norm is not None else None
        return "name the whole group, 1.g1"
    if grain == "head" and family.qk_norm is None:
        return "name the whole group, 1.g1"
    if grain != "block" and family.qk_norm is not None:
        return "share the norm of queries and keys"
    return None


@pytest.mark.parametrize("layout", ["stock", "compact"])
@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("kind", few_first(EVERY))
def test_every_cell_is_exact_or_refused(
    sources: dict[str, Path], kind: str, grain: str, layout: str
) -> None:
    model, spec = load_model(sources[kind]), GRAINS[grain]
    before, d = logits(model), model.config.hidden_size
    fits = random_fits(range(BLOCKS), HEADS, d, SIZE)
    for variant in VARIANTS:
        refused, says = expected(kind, variant, grain, layout), TABLE[layout, kind][grain, variant]
        if not says:  # every head is a group
            continue
        assert (refused is None) == (says in ("=", "~")), (variant, says)
        if refused is not None:
            with pytest.raises(UnsupportedError, match=refused):
                Editable(model).plan(spec, variant, layout=layout)
            continue
        with surgery.short_circuit(model, spec, variant, layout=layout, fits=fits):
            found = logits(model)
        reference = load_model(sources[kind])
        put_in_place(reference, spec, variant, shared=layout == "stock", fits=fits)
        want = logits(reference)
        if says == "=":
            assert torch.equal(found, want), variant
        else:
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
        assert not torch.equal(found, before), variant
        assert torch.equal(logits(model), before), "the model was not restored"


@pytest.mark.parametrize("config", [neox_config, neo_config])
def test_the_table_holds_for_older_families(config: Any, tmp_path: Path) -> None:
    """Which cells are refused; test_heads.py tells whether the others are exact."""
    model = load_model(write_checkpoint(tmp_path / "source", config()))
    editable, heads = Editable(model), model.config.num_attention_heads
    for layout in ("stock", "compact"):
        for (grain, variant), says in TABLE[layout, model.config.model_type].items():
            if grain != "head":  # without groups, every head is one
                spec = "1" if grain == "block" else "1.1"
                selection = parse_selection(spec, variant, model.config.num_hidden_layers, heads)
                refused = editable.find_refusal(selection, layout=layout)
                assert (refused is None) == (says in ("=", "~")), (layout, grain, variant)


# One way for every family, and every way for one; all of them only where there is time.
NUMBERS = [
    pytest.param(
        *(kind, dtype, attn),
        marks=() if kind == "llama" or (first and kind in KINDS) else pytest.mark.slow,
    )
    for kind in (*KINDS, *decoders.MORE)
    if kind not in ("mistral", "gemma2")  # its scores are capped: a test of its own, above
    for dtype, attn in itertools.product(DTYPES, ("sdpa", "eager"))
    if kind != "gpt_oss" or attn == "eager"  # the library has no other way for its sinks
    for first in [(dtype, attn) == ("float32", "sdpa")]
]


@pytest.mark.parametrize(("kind", "dtype", "attn"), NUMBERS)
def test_a_stock_export_equals_the_reference(
    tmp_path: Path, kind: str, dtype: str, attn: str
) -> None:
    """Bit for bit: in every dtype, uncached, padded, and continued from a cache."""
    source, out = write_decoder(tmp_path / "source", kind, torch_dtype=dtype), tmp_path / "out"
    surgery.export(source, "0,2", output=out, layout="stock")
    edited, reference = (load_aligned(path, attn_implementation=attn) for path in (out, source))
    assert type(edited).__module__.startswith("transformers.")
    put_in_place(reference, "0,2", "identity", shared=True, fits={})
    generator = torch.Generator().manual_seed(2)
    for length in (1, 9, 300):
        ids = torch.randint(128, (1, length), generator=generator)
        assert torch.equal(logits(edited, ids), logits(reference, ids)), length
    mask = torch.ones_like(IDS)
    mask[0, :13] = 0
    ways = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 1}
    made = [m.generate(IDS, attention_mask=mask, **ways) for m in (edited, reference)]
    assert torch.equal(*made)
    assert torch.equal(logits(edited, made[0]), logits(reference, made[0]))


@pytest.mark.parametrize("kind", few_first(HELD))
def test_what_is_written_and_proved(sources: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Keys of edited blocks are constants, added biases -0.0; one key of config.json changes."""
    source, out, family = sources[kind], tmp_path / "out", BY_TYPE[kind]
    done = surgery.export(source, "1", output=out, layout="stock")
    before, after = (load_file(path / "model.safetensors") for path in (source, out))
    rewritten = {n for n in after if n in before and not torch.equal(after[n], before[n])}
    assert rewritten == set(done.manifest.step.changed.rewritten)
    assert all(name.startswith("model.layers.1.self_attn.") for name in rewritten)
    for name in ("q_proj", "k_proj"):
        parts = [after[f"model.layers.1.self_attn.{name}.{what}"] for what in ("weight", "bias")]
        assert not parts[0].any()
        assert len(parts[1].unique()) == 2
    added = set(after) - set(before)
    assert added == set(done.manifest.step.changed.added)
    assert added <= set(done.plan.rewritten)
    for name in added:
        if name.split(".")[2] != "1" or "v_proj" in name or "o_proj" in name:
            assert (after[name] == 0).all()
            assert after[name].signbit().all()
    configs = [json.loads((path / "config.json").read_text()) for path in (source, out)]
    changed = {key for key in configs[1] if configs[1][key] != configs[0].get(key)}
    if "rope_parameters" in configs[0]:  # which versions before 5 do not read
        changed -= {"rope_theta", "partial_rotary_factor"}
    rules = (family.match(name) for name in added)
    assert changed == {rule[0].when.key for rule in rules if rule and rule[0].when}
    biased = {"qwen2", "phi", "glm4", "seed_oss", "starcoder2", "gpt_oss"}  # from the start
    assert bool(changed) == (kind not in biased)
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    assert surgery.inspect(out).attention_free == {1: "identity"}
    applied = surgery.apply(load_model(source), "1", layout="stock")
    assert torch.equal(logits(applied), logits(load_model(out)))
    again = surgery.export(out, "0.1,2", variant="zero", output=tmp_path / "again")
    assert again.plan.layout.NAME == "stock"
    surgery.export(
        tmp_path / "again",
        "0.g1" if family.qk_norm is None else "0.2",
        output=tmp_path / "third",
        variant="identity" if family.qk_norm is None else "zero",
    )
    verification = surgery.verify(tmp_path / "third")
    assert verification.ok, verification.verdict


@pytest.mark.parametrize("kind", few_first(HELD))
def test_a_compact_edit_drops_biases_that_a_stock_one_added(
    sources: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    surgery.export(sources[kind], "1", output=once, layout="stock")
    surgery.export(once, "2", output=twice, variant="zero", layout="compact")
    for given in (None, once):
        verification = surgery.verify(twice, source=given)
        assert verification.ok, verification.verdict
    name = "model.layers.0.self_attn.v_proj.bias"
    edit_weights(twice, lambda tensors: tensors[name].add_(1))
    if kind in ("qwen2", "phi", "glm4", "seed_oss", "starcoder2", "gpt_oss"):  # from the start
        assert_fails(twice, "untouched", name, once)
    else:
        assert_refused(twice, "tensors", name, once)


LOADED_APART = ("qwen3_moe", "gemma2")
"""While loading, the library merges experts of the first; the other has caches of two kinds."""

COMPACT = [
    pytest.param(
        *(kind, variant),
        marks=()
        if kind == "llama" or (variant == "identity" and kind in (*decoders.FEW, *LOADED_APART))
        else pytest.mark.slow,
    )
    for kind in (*KINDS, *decoders.MORE)
    for variant in VARIANTS
]


@pytest.mark.parametrize(("kind", "variant"), COMPACT)
def test_compact_exports_load_and_generate(
    sources: dict[str, Path], tmp_path: Path, kind: str, variant: str
) -> None:
    out = tmp_path / "out"
    export_with_any(sources[kind], "0,2", out, variant=variant, layout="compact")
    assert surgery.verify(out, source=sources[kind]).ok
    edited, reference = load_model(out), load_model(sources[kind])
    fits = random_fits(range(BLOCKS), HEADS, reference.config.hidden_size, SIZE)
    put_in_place(reference, "0,2", variant, shared=False, fits=fits)
    torch.testing.assert_close(logits(edited), logits(reference), rtol=1e-4, atol=1e-4)
    ways = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 1}
    made = [
        m.generate(IDS, attention_mask=torch.ones_like(IDS), **ways) for m in (edited, reference)
    ]
    assert torch.equal(*made)


@pytest.mark.parametrize(
    "spec", ["0,2.g1", *(pytest.param(spec, marks=pytest.mark.slow) for spec in ("1", "1.g0"))]
)
@pytest.mark.parametrize("variant", ["mean", "linear"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_fitted_groups_are_exported_and_proved(
    sources: dict[str, Path], tmp_path: Path, kind: str, variant: str, spec: str
) -> None:
    out = tmp_path / "out"
    plan = export_with_any(sources[kind], spec, out, variant=variant).plan
    assert plan.layout.NAME == "stock"
    for given in (None, sources[kind]):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict
    reference = load_model(sources[kind])
    fits = random_fits(range(BLOCKS), HEADS, reference.config.hidden_size, SIZE)
    put_in_place(reference, spec, variant, shared=True, fits=fits)
    torch.testing.assert_close(logits(load_model(out)), logits(reference), rtol=1e-4, atol=1e-4)
    assert not any("o_proj.bias" in name for name in plan.rewritten) or kind == "llama"


def test_variants_are_mixed_within_a_group(sources: dict[str, Path], tmp_path: Path) -> None:
    """A group that attends to itself alone can have heads that add nothing, or a constant."""
    parts = (
        EditedHeads(1, (0,), "identity"),
        EditedHeads(1, (1,), "mean"),
        EditedHeads(1, (2,), "zero"),
        EditedHeads(2, (0,), "mean"),
        EditedHeads(2, (2,), "linear"),
        EditedHeads(2, (3,), "zero"),
    )
    source, out = sources["llama"], tmp_path / "out"
    export_with_any(source, parts, out)
    reference = load_model(source)
    fits = random_fits(range(BLOCKS), HEADS, reference.config.hidden_size, SIZE)
    for part in parts:
        spec = f"{part.block}.{part.heads[0]}"
        one_head = part.variant == "linear"  # alone in its group, so the map is its own
        put_in_place(reference, spec, part.variant, shared=not one_head, fits=fits)
    torch.testing.assert_close(logits(load_model(out)), logits(reference), rtol=1e-4, atol=1e-4)
    assert surgery.verify(out, source=source).ok
    mixed = (EditedHeads(1, (0,), "identity"), EditedHeads(1, (1,), "linear"))
    with pytest.raises(UnsupportedError, match=r"1\.g0 share one map, and cannot be identity and"):
        export_with_any(source, mixed, tmp_path / "no")


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        (lambda t: t["model.layers.0.self_attn.q_proj.bias"].zero_(), "tensors", "layers.0"),
        (lambda t: t["model.layers.2.self_attn.o_proj.bias"].add_(1e-3), "tensors", "layers.2"),
        (lambda t: t["model.layers.1.self_attn.k_proj.weight"].add_(1e-3), "tensors", "k_proj"),
    ],
)
def test_forged_biases_are_refused(
    sources: dict[str, Path], tmp_path: Path, change: Any, check: str, detail: str
) -> None:
    out = tmp_path / "out"
    surgery.export(sources["llama"], "1", output=out)
    edit_weights(out, change)
    assert_refused(out, check, detail, sources["llama"])


def test_no_other_key_may_change(sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    surgery.export(sources["llama"], "1", output=out)
    edit_json(out / "config.json", lambda config: config.update(rope_theta=10_000.0))
    seal(out)
    verification = surgery.verify(out, source=sources["llama"])
    assert not verification.ok
    assert "config.json is not what the edit makes" in verification.verdict


@pytest.mark.parametrize(
    ("kind", "more", "variant", "layout", "text"),
    [
        ("olmo", {"clip_qkv": 8.0}, "identity", "stock", "got a gap of"),
        ("olmo", {"clip_qkv": 8.0}, "identity", "compact", "nothing that clips"),
        ("olmo", {"clip_qkv": 200.0}, "linear", "stock", "would clip what was fitted"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "identity", "stock",
         "rotary scaling 'dynamic' is not supported"),
        ("phi", {"qk_layernorm": True}, "identity", "stock", "'qk_layernorm' cannot be edited"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_with_the_figure(
    tmp_path: Path, kind: str, more: dict[str, Any], variant: str, layout: str, text: str
) -> None:
    source = write_decoder(tmp_path / "source", kind, **more)
    error = MarginError if "gap" in text or "scaling" in text else UnsupportedError
    with pytest.raises(error, match=text):
        export_with_any(source, "1", tmp_path / "out", variant=variant, layout=layout)


@pytest.mark.parametrize(("kind", "factor"), [("linear", 4.0), ("dynamic", 2.0)])
def test_positions_that_leave_no_margin_are_compact(
    tmp_path: Path, kind: str, factor: float
) -> None:
    scaling = {"rope_type": kind, "factor": factor}
    source = write_decoder(tmp_path / "source", "llama", rope_scaling=scaling)
    assert prepare(source, "1").plan.layout.NAME == "compact"


@pytest.mark.parametrize("groups", [GROUPS, HEADS])
@pytest.mark.parametrize("clip", [8.0, 120.0])
def test_a_clip_cuts_no_constant(tmp_path: Path, clip: float, groups: int) -> None:
    """The mean of clipped values is within the clip. Here each is at an end of it.

    A value bias holds it, or a column of the output projection; or the output bias, where the clip
    leaves no margin.
    """
    source = write_decoder(tmp_path / "source", "olmo", clip_qkv=clip, num_key_value_heads=groups)
    fits = random_fits(range(BLOCKS), HEADS, HEADS * SIZE, SIZE)
    fits = {b: replace(fit, mean=np.sign(fit.mean) * np.float32(clip)) for b, fit in fits.items()}
    prepared = prepare(source, "1", variant="mean", layout="stock")
    fitting = Fitting(fits, record_of(prepared.plan.fitted))
    out = write(prepared, tmp_path / "out", fitting=fitting).output
    assert bool(prepared.plan.one_hots) == (clip > 100)
    reference = load_model(source)
    put_in_place(reference, "1", "mean", shared=True, fits=fits, groups=groups)
    torch.testing.assert_close(logits(load_model(out)), logits(reference), rtol=1e-4, atol=1e-4)


def test_clipped_values_stay_clipped(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "olmo", clip_qkv=120.0)
    model = load_model(source)
    for name, parameter in model.named_parameters():
        if name.endswith("v_proj.weight"):
            parameter.data.mul_(400)
    reference = load_model(source)
    reference.load_state_dict(model.state_dict())
    with surgery.short_circuit(model, "1", layout="stock"):
        found = logits(model)
    put_in_place(reference, "1", "identity", shared=True, fits={})
    assert torch.equal(found, logits(reference))


@pytest.mark.parametrize(
    "variant",
    [
        *("identity", "mean"),
        *(pytest.param(variant, marks=pytest.mark.slow) for variant in ("zero", "linear")),
    ],
)
def test_mistral_is_saved_as_llama(sources: dict[str, Path], tmp_path: Path, variant: str) -> None:
    """By itself, without a window: then every variant is held."""
    source, out = sources["mistral"], tmp_path / "out"
    prepared = prepare(source, "1", variant=variant, layout="stock")
    assert prepared.plan.family.model_type == ("mistral" if variant == "zero" else "llama")
    fits = random_fits(range(BLOCKS), HEADS, HEADS * SIZE, SIZE)
    write(prepared, out, fitting=Fitting(fits, record_of(prepared.plan.fitted)))
    edited, reference = load_aligned(out), load_aligned(source)
    if variant != "zero":
        assert isinstance(edited, transformers.LlamaForCausalLM)
    put_in_place(reference, "1", variant, shared=True, fits=fits)
    assert TABLE["stock", "mistral as llama"] == TABLE["stock", "llama"]
    if variant != "mean":
        assert torch.equal(logits(edited), logits(reference))
    torch.testing.assert_close(logits(edited), logits(reference), rtol=1e-4, atol=1e-4)
    for given in (None, source):
        verification = surgery.verify(out, source=given)
        assert verification.ok, verification.verdict


def test_an_edited_mistral_is_saved_as_llama(sources: dict[str, Path], tmp_path: Path) -> None:
    """Each edit of a chain is proved, repeated, and told, whichever of them changed the type."""
    first = surgery.export(sources["mistral"], "0", variant="zero", output=tmp_path / "1").output
    second = surgery.export(first, "1", output=tmp_path / "2").output
    third = surgery.export(second, "2", output=tmp_path / "3").output
    for out, source in ((second, None), (second, first), (third, second)):
        verification = surgery.verify(out, source=source)
        assert verification.ok, verification.verdict
    edit_json(
        second / "surgery.json", lambda manifest: manifest["history"][-1].update(family="mistral")
    )
    assert_fails(second, "edit", "the manifest's family is not what the edit does", first)


def test_a_window_that_bites_is_no_llama(tmp_path: Path) -> None:
    source = write_decoder(tmp_path / "source", "mistral", sliding_window=100)
    with pytest.raises(UnsupportedError, match="sliding_window: the model attends within a window"):
        surgery.export(source, "1", output=tmp_path / "out", layout="stock")


def test_groups_are_read_and_named() -> None:
    assert parse_selection("2.g1", "zero", 3, 9, 3) == (EditedHeads(2, (3, 4, 5), "zero"),)
    assert parse_selection("2.g0-1,1.8", "zero", 3, 9, 3) == (
        EditedHeads(1, (8,), "zero"),
        EditedHeads(2, (0, 1, 2, 3, 4, 5), "zero"),
    )
    assert parse_selection("2.g1", "zero", 3, 4) == (EditedHeads(2, (1,), "zero"),)
    for spec, text in (
        ("2.g3", "'2.g3' is out of range"),
        ("2.g1,2.4", "names head 4 of block 2 more than once"),
        ("2.g1-0", "'2.g1-0' names no head"),
        ("2.gx", "cannot read '2.gx'"),
    ):
        with pytest.raises(BlockSpecError, match=text):
            parse_selection(spec, "zero", 3, 9, 3)


def test_unknown_architectures_are_refused_with_what_is_near() -> None:
    with pytest.raises(UnsupportedError, match=r"model_type olmo4; .*; near is olmo, olmo2, but"):
        records.family_of({"model_type": "olmo4"})
    with pytest.raises(
        UnsupportedError, match=r"gpt_oss; no record says where its tensors are \(docs/families"
    ):
        records.family_of({"model_type": "xyz"})


def test_a_new_family_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arcee, which the package does not know: as Llama, with an MLP of its own."""
    arcee = decoder(
        "Arcee",
        (
            *module(BLOCK + "input_layernorm", "d", bias=False),
            *attention(),
            *module(BLOCK + "post_attention_layernorm", "d", bias=False),
            *(rule for rule in gated() if "gate" not in rule.name),
        ),
        config_keys=BY_TYPE["llama"].config_keys,
        settings="mlp_bias",
    )
    monkeypatch.setattr(records, "FAMILIES", (*records.FAMILIES, arcee))
    monkeypatch.setitem(
        decoders.CONFIGS, "arcee", {**decoders.CONFIGS["llama"], "hidden_act": "relu2"}
    )
    monkeypatch.setitem(BY_TYPE, "arcee", arcee)
    source, out = write_decoder(tmp_path / "source", "arcee"), tmp_path / "out"
    surgery.export(source, "0,2", output=out, layout="stock")
    assert surgery.verify(out, source=source).ok
    edited, reference = load_model(out), load_model(source)
    assert isinstance(edited, transformers.ArceeForCausalLM)
    put_in_place(reference, "0,2", "identity", shared=True, fits={})
    assert torch.equal(logits(edited), logits(reference))


def test_full_heads_need_no_groups(tmp_path: Path) -> None:
    """A Llama whose heads have keys and values of their own: every head takes every variant."""
    more = {"num_key_value_heads": HEADS}
    source = write_decoder(tmp_path / "source", "llama", **more)
    model = load_model(source)
    fits = random_fits(range(BLOCKS), HEADS, model.config.hidden_size, SIZE)
    for variant in VARIANTS:
        with surgery.short_circuit(model, "1.2,2", variant, layout="stock", fits=fits):
            found = logits(model)
        reference = load_model(source)
        for spec in ("1.2", "2"):
            put_in_place(reference, spec, variant, shared=False, fits=fits, groups=HEADS)
        torch.testing.assert_close(found, logits(reference), rtol=1e-4, atol=1e-4)


def test_the_record_says_what_the_library_does() -> None:
    """Sizes, norms and biases of the records are those of the library's own models."""
    for kind in (*KINDS, *decoders.MORE):
        family, config = BY_TYPE[kind], config_of(kind)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                transformers.CONFIG_MAPPING[kind].from_dict(config)
            )
        modules = dict(model.named_modules())
        for template in (family.norm_after, family.attention):
            assert template is None or template.format(block=1) in modules, kind
        sizes = family.dimensions(config).sizes
        for name, parameter in model.named_parameters():
            found = family.match(name)
            assert found is not None, name
            assert [sizes[s] for s in found[0].shape or ()] == list(parameter.shape), name
        for rule in family.rules:
            if rule.when is not None and rule.role is not None:
                on = {**config, rule.when.key: rule.when.value}
                with torch.device("meta"):
                    other = transformers.AutoModelForCausalLM.from_config(
                        transformers.CONFIG_MAPPING[kind].from_dict(on)
                    )
                names = {name for name, _ in other.named_parameters()}
                assert rule.name.format(block=1) in names
