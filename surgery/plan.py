"""What an export will do, decided before a single weight is read.

A plan is made from the configuration and the stored tensors' names, dtypes and shapes alone. Every
reason against an edit is found here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from surgery import compact, stock
from surgery.compact import is_compact
from surgery.cut import Cut, Edit, Read
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import FAMILIES, PROJECTIONS, Dimensions, Family, family_of
from surgery.onehot import OneHot
from surgery.selection import (
    Selection,
    blocks_of,
    checked,
    format_selection,
    parse_selection,
    variant_name,
    variants_by_head,
)
from surgery.tensors import FLOATS, Bits, Tensor, is_finite
from surgery.variants import Fit, needs_text, variant_of

LayoutChoice = Literal["auto", "stock", "compact"]
Layout = Literal["stock", "compact"]
Heads = Mapping[int, Mapping[int, str]]
"""Block → head → what an earlier edit has made of it."""
Fits = Mapping[int, Fit]
"""Block → its fit to calibration text."""
BUFFERS = (".attention.bias", ".attn.attention.bias", ".masked_bias", ".rotary_emb.inv_freq")
"""How masks and frequencies end that older libraries stored; they are no parameters."""


@dataclass(frozen=True)
class Plan:
    """A decided edit.

    `source`, `stored`: the configuration and the tensors of the source; `config`: that of the
    result. `reason` says why `auto` chose this layout. `edits`: the tensors that are rewritten or
    `added`, by name; all others are copied byte by byte, but for those `dropped`.
    """

    source: Mapping[str, Any]
    stored: Mapping[str, Tensor]
    config: dict[str, Any]
    selection: Selection
    layout: Layout
    reason: str
    cuts: Mapping[int, Cut]
    one_hot: OneHot | None
    edits: Mapping[str, Edit]
    dropped: tuple[str, ...]

    @property
    def family(self) -> Family:
        return family_of(self.config)

    @property
    def dimensions(self) -> Dimensions:
        return self.family.dimensions(self.source)

    @property
    def dtype(self) -> str:
        """That of attention, in which new tensors are stored."""
        return find_dtype(self.source, self.stored)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that are edited, whole or in part, ascending."""
        return blocks_of(self.selection)

    @property
    def spec(self) -> str:
        """The blocks and heads, as they are typed."""
        return format_selection(self.selection, self.dimensions.num_heads)

    @property
    def fitted(self) -> tuple[int, ...]:
        """The blocks for which calibration text is needed, ascending."""
        return tuple(block for block, cut in self.cuts.items() if cut.fitted)

    @property
    def rewritten(self) -> list[str]:
        return [name for name in self.edits if name in self.stored]

    @property
    def added(self) -> list[str]:
        return [name for name in self.edits if name not in self.stored]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of the result."""
        kept = {name: one for name, one in self.stored.items() if name not in self.dropped}
        return kept | {name: edit.tensor for name, edit in self.edits.items()}

    def make(self, name: str, read: Read, fits: Fits) -> Bits:
        """The new bits of a changed tensor.

        `read` gives the source's tensors by name. Raises `CheckpointError` for numbers that are not
        finite.
        """
        edit = self.edits[name]
        bits = edit.make(read, fits.get(edit.block))
        if not is_finite(bits.reshape(-1).view(np.uint8).data, edit.tensor.dtype):
            raise CheckpointError(
                f"the new content of {name!r} is not finite in {edit.tensor.dtype}",
                expected="finite weights",
                fix="check the source for infinities or NaN, or convert it to a wider dtype",
            )
        return bits


def make_plan(
    config: Mapping[str, Any],
    stored: Mapping[str, Tensor],
    drop_attn: str | Selection,
    *,
    variant: str = "identity",
    layout: str = "auto",
    earlier: Heads | None = None,
    alike: bool = True,
) -> Plan:
    """Decides an edit.

    **Arguments:**

    - `config`, `stored`: a parsed config.json, and the tensors by name.
    - `drop_attn`: a specification of blocks and heads (`surgery.selection.parse_selection`), which
      get `variant`, or a selection, in which every part has a variant of its own.
    - `layout`: `auto` takes stock where it can hold the edit exactly, else compact.
    - `earlier`: heads that an earlier edit has changed. Editing one of these again is refused.
    - `alike`: whether the result may be of another model type with the same tensors, whose class
      holds more edits (`Family.alike`).
    """
    if layout not in ("auto", "stock", "compact"):
        raise UnsupportedError(f"unknown layout {layout!r}", expected="auto, stock or compact")
    family = family_of(config)
    selection = select(drop_attn, variant, family.dimensions(config))
    _check_not_edited(selection, earlier or {}, config)
    check_attention(config, stored)
    if family.alike and alike and any(part.variant != "zero" for part in selection):
        config = _become_alike(family, config)
    cuts = list_cuts(config, stored, selection)
    if layout == "compact" or is_compact(config):
        if layout == "stock":
            raise UnsupportedError(
                "the source is a compact checkpoint, which needs its own modeling file in any case",
                fix="use `layout=compact`",
            )
        reason = "asked for" if layout == "compact" else "the source is a compact checkpoint"
        return _plan_compact(config, stored, selection, cuts, reason)
    try:
        reason = "it holds the edit exactly in the unchanged architecture"
        reason = reason if layout == "auto" else "asked for"
        return plan_stock(config, stored, selection, cuts, reason)
    except UnsupportedError as refusal:
        if layout == "stock":
            raise
        try:
            reason = f"the stock layout cannot: {refusal.what}"
            return _plan_compact(config, stored, selection, cuts, reason)
        except UnsupportedError:
            raise refusal from None


def list_cuts(
    config: Mapping[str, Any], stored: Mapping[str, Tensor], selection: Selection
) -> dict[int, Cut]:
    """Block → what is asked of it."""
    family, dtype = family_of(config), find_dtype(config, stored)
    size = family.dimensions(config)
    for part in selection:
        variant_of(part.variant)
    return {
        block: Cut(family, size, config, stored, dtype, block, heads)
        for block, heads in variants_by_head(selection).items()
    }


def plan_stock(
    config: Mapping[str, Any],
    stored: Mapping[str, Tensor],
    selection: Selection,
    cuts: dict[int, Cut],
    reason: str,
) -> Plan:
    """Decides an edit in the stock layout. Planned again on its own result, it is the same, but
    that nothing is added any more."""
    held = {block: stock.store(cut) for block, cut in cuts.items()}
    edits = {block: list(stock.list_edits(cut, held[block])) for block, cut in cuts.items()}
    switches = set[str]().union(*(stock.list_switches(cuts[b], edits[b]) for b in cuts))
    found = {edit.tensor.name: edit for some in edits.values() for edit in some}
    first = next(iter(cuts.values()))
    for block in range(first.size.num_blocks if switches else 0):
        cut = cuts.get(block) or replace(first, block=block, variants={})
        for edit in stock.list_added(cut, switches):
            found.setdefault(edit.tensor.name, edit)
    hots = [one.hot for one in held.values() if one.hot is not None]
    return Plan(
        source=config,
        stored=stored,
        config={**config, **stock.make_config(cuts, switches)},
        selection=selection,
        layout="stock",
        reason=reason,
        cuts=cuts,
        one_hot=min(hots, key=lambda hot: hot.gap - hot.required, default=None),
        edits=found,
        dropped=(),
    )


def _plan_compact(
    config: Mapping[str, Any],
    stored: Mapping[str, Tensor],
    selection: Selection,
    cuts: dict[int, Cut],
    reason: str,
) -> Plan:
    for cut in cuts.values():
        compact.check(cut)
    edits = (edit for cut in cuts.values() for edit in compact.list_edits(cut))
    return Plan(
        source=config,
        stored=stored,
        config={**config, **compact.make_config(config, cuts)},
        selection=selection,
        layout="compact",
        reason=reason,
        cuts=cuts,
        one_hot=None,
        edits={edit.tensor.name: edit for edit in edits},
        dropped=tuple(name for cut in cuts.values() for name in compact.list_dropped(cut)),
    )


def make_empty_plan(config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Plan:
    """Decides to change nothing: the plan of a model that is only trained. Raises as
    `check_trainable`."""
    check_trainable(config)
    layout: Layout = "compact" if is_compact(config) else "stock"
    return Plan(config, stored, dict(config), (), layout, "nothing is cut", {}, None, {}, ())


def _become_alike(family: Family, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json as of the model type with the same tensors, if the model has no window."""
    window = config.get("sliding_window", 0)  # 0: the library's default, which is one
    if window is not None and not family.dimensions(config).max_positions <= window:
        return config
    kept = {key: value for key, value in config.items() if key != "sliding_window"}
    other = FAMILIES[str(family.alike)]
    return {**kept, "model_type": other.model_type, "architectures": [other.architecture]}


def find_dtype(config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> str:
    """The dtype of attention, or of what replaced it in all blocks of a compact checkpoint."""
    family = family_of(config)
    for block in range(family.dimensions(config).num_blocks):
        for name in (family.name(block, "output"), f"{family.attention}.affine.bias"):
            if (found := stored.get(name.format(block=block))) is not None:
                return found.dtype
    return "F32"  # nothing is stored that an edit could look at


def is_buffer(name: str) -> bool:
    """Whether a tensor is a mask or frequencies, and no parameter."""
    return name.endswith(BUFFERS)


def check_attention(config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
    """Raises `CheckpointError` unless the attention of every block is there as config.json says, in
    one dtype, and nothing of attention where a compact checkpoint has none."""
    family = family_of(config)
    size, gone = family.dimensions(config), compact.read_blocks(config)
    dtype = find_dtype(config, stored)
    for block in range(size.num_blocks):
        cut = Cut(family, size, config, stored, dtype, block, {})
        if block in gone:
            _check_replaced(cut, gone[block])
            continue
        for part in PROJECTIONS:
            _check_stored(cut, family.name(block, part), cut.shape(part, "weight"))
            bias = family.name(block, part, "bias")
            key = family.switch_of.get(part)
            if bias in stored and (key is None or family.is_on(key, config)):
                _check_stored(cut, bias, cut.shape(part, "bias"))
            elif bias in stored:
                raise CheckpointError(
                    f"{key!r} is off, and tensor {bias!r} is there", where="config.json"
                )
            elif key is not None and family.is_on(key, config):
                raise CheckpointError(
                    f"{key!r} is on, and its biases are missing, such as {bias!r}",
                    where="config.json",
                    fix="the tool that wrote this model dropped them; if they held an edit, it is "
                    "undone: merge the models first, and edit the result",
                )


def _check_stored(cut: Cut, name: str, shape: tuple[int, ...]) -> None:
    found = cut.stored.get(name)
    if found is None:
        raise CheckpointError(
            f"tensor {name!r} is missing from the checkpoint",
            fix="the download is incomplete, config.json belongs to another model, or attention is "
            "quantized, which surgery cannot read",
        )
    if found.shape != shape:
        raise CheckpointError(
            f"tensor {name!r} has the wrong shape",
            expected=f"{list(shape)} from config.json",
            got=list(found.shape),
        )
    if found.dtype != cut.dtype or found.dtype not in FLOATS:
        raise CheckpointError(
            f"tensor {name!r} is quantized, or has another dtype than the rest of attention",
            expected=cut.dtype if cut.dtype in FLOATS else " or ".join(FLOATS),
            got=found.dtype,
            fix="start from the unquantized model, or load and save it in one dtype first",
        )


def _check_replaced(cut: Cut, kind: str) -> None:
    """Checks what stands in place of the attention of a compact block."""
    where, d = cut.family.attention.format(block=cut.block), cut.size.d
    needed: dict[str, dict[str, tuple[int, ...]]]
    needed = {"affine": {"weight": (d, d), "bias": (d,)}, "constant": {"bias": (d,)}, "none": {}}
    names = {f"{where}.affine.{what}": shape for what, shape in needed[kind].items()}
    for name, shape in names.items():
        _check_stored(cut, name, shape)
    for name in compact.list_dropped(cut):
        if name not in names and not is_buffer(name):
            raise CheckpointError(f"tensor {name!r} is of attention, which block {cut.block} lacks")


def check_trainable(config: Mapping[str, Any]) -> None:
    """Raises `UnsupportedError` for quantized weights, which training could not be written to."""
    if config.get("quantization_config"):
        raise UnsupportedError(
            "weights are quantized, and training cannot be stored in them",
            where="config.json",
            fix="start from the unquantized model, and quantize the result without its attention",
        )


def check_erasable(config: Mapping[str, Any]) -> None:
    """Raises `UnsupportedError` for a model in the compact layout, or with quantized weights."""
    check_trainable(config)
    if is_compact(config):
        raise UnsupportedError(
            "a model in the compact layout cannot be erased",
            fix="erase the original, then cut the result",
        )


def check_fitted(plan: Plan, fits: Fits) -> None:
    """Raises `UnsupportedError` if the plan needs fits that are not there."""
    without = [block for block in plan.fitted if block not in fits]
    if without:
        names = plan.cuts[without[0]].variants.values()
        raise needs_text(name for name in names if variant_of(name).fitted)


def select(drop_attn: str | Selection, variant: str, size: Dimensions) -> Selection:
    """The selection that a specification or a selection names, checked against a model's size."""
    if isinstance(drop_attn, str):
        return parse_selection(drop_attn, variant, size.num_blocks, size.num_heads)
    return checked(drop_attn, size.num_blocks, size.num_heads)


def _check_not_edited(selection: Selection, earlier: Heads, config: Mapping[str, Any]) -> None:
    gone, heads = compact.read_blocks(config), family_of(config).dimensions(config).num_heads
    for part in selection:
        before = earlier.get(part.block, {})
        again = [head for head in part.heads if head in before]
        if part.block not in gone and not again:
            continue
        how = ", ".join(sorted(set(before.values()))) or gone[part.block]
        what = f"head {again[0] if again else 0} of block {part.block} is already edited ({how})"
        if part.block in gone or len(before) == heads:
            what = f"block {part.block} is already attention-free ({how})"
        raise UnsupportedError(
            what, fix="name other blocks to add to the earlier edit, or start from the original"
        )


def describe_edit(plan: Plan) -> dict[str, Any]:
    """What is done, and how it is stored, as plain JSON values."""
    return {
        "family": plan.family.model_type,
        "variant": variant_name(plan.selection),
        "layout": plan.layout,
        "blocks": list(plan.blocks),
        "parts": [asdict(part) for part in plan.selection],
        "one_hot": None if plan.one_hot is None else asdict(plan.one_hot),
    }


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """What `export --dry-run` prints."""
    return {
        **describe_edit(plan),
        "reason": plan.reason,
        "num_blocks": plan.dimensions.num_blocks,
        "dtype": plan.dtype,
        "rewritten": plan.rewritten,
        "added": plan.added,
        "dropped": list(plan.dropped),
    }
