"""Recorded cuts, planned again: from the source that they began with, or on their own result.

An edit that is made again on its own result changes nothing (`surgery.cut.Edit`). So the result
alone proves that query and key rows are the constants that make attention one-hot, that values are
zero where they should be, and so on. NaN stands for what only the source or calibration text knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from surgery.checkpoint import MANIFEST, Checkpoint, encode_json
from surgery.compact import read_blocks
from surgery.cut import Cut, Edit, Read
from surgery.errors import CheckpointError, ManifestError, UnsupportedError
from surgery.families import FAMILIES, family_of
from surgery.plan import (
    Plan,
    check_attention,
    find_dtype,
    list_cuts,
    make_empty_plan,
    make_plan,
    plan_stock,
)
from surgery.privacy import drop_paths
from surgery.record.manifest import Manifest, Step, list_edited_heads
from surgery.selection import EditedHeads, name_blocks, variant_name
from surgery.tensors import Bits, Tensor, decode, encode, is_known, same_bits
from surgery.variants import Fit

Flags = npt.NDArray[np.bool_]


def plan_again(result: Checkpoint, manifest: Manifest) -> list[Plan]:
    """The cuts of the stock layout, planned on their result, oldest first."""
    config, stored = result.config, result.tensors
    check_attention(config, stored)
    cuts = [tuple(step.parts) for step in manifest.history if step.parts and not _is_compact(step)]
    return [
        plan_stock(config, stored, parts, list_cuts(config, stored, parts), "recorded")
        for parts in cuts
    ]


def plan_from(source: Checkpoint, steps: list[Step], earlier: list[Step]) -> list[Plan]:
    """The plan of each step, oldest first, from the source of the first one. `earlier`: what made
    the source."""
    config, stored, plans = source.config, source.tensors, list[Plan]()
    for at, step in enumerate(steps):
        if step.parts:
            before = list_edited_heads([*earlier, *steps[:at]])
            parts = tuple(step.parts)
            plan = make_plan(config, stored, parts, layout=step.layout, earlier=before)
        else:
            plan = make_empty_plan(config, stored)
        plans.append(plan)
        config, stored = plan.config, plan.tensors
    return plans


def check_planned(result: Checkpoint, steps: list[Step], plans: list[Plan]) -> None:
    """Raises `ManifestError` if plans from the source are not what steps record, or lead to another
    config.json."""
    if encode_json(drop_paths(plans[-1].config)) != encode_json(drop_paths(result.config)):
        raise ManifestError("config.json is not what the edit makes of the source's")
    for step, plan in zip(steps, plans, strict=True):
        if step.one_hot != plan.one_hot:
            raise ManifestError("the manifest's one_hot is not what the edit does")


def check_record(result: Checkpoint, manifest: Manifest, plans: list[Plan]) -> None:
    """Raises `ManifestError` if a manifest cannot be of a folder. `plans`: of `plan_again`."""
    config, family = result.config, family_of(result.config)
    size, gone = family.dimensions(config), read_blocks(config)
    stock = [step for step in manifest.history if step.parts and not _is_compact(step)]
    for step, plan in zip(stock, plans, strict=True):
        if plan.config != config:
            raise ManifestError("config.json is not what the edit makes of it")
        if step.one_hot != plan.one_hot:
            raise ManifestError("the manifest's one_hot is not what the edit does")
    for step in manifest.history:
        other = FAMILIES.get(step.family)
        if other is None or family.model_type not in (other.model_type, other.alike):
            raise ManifestError("the manifest's family is not that of the model")
        if (step.num_blocks, step.num_heads) != (size.num_blocks, size.num_heads):
            raise ManifestError("the manifest's num_blocks or num_heads is not the model's")
        cuts = list_cuts(config, result.tensors, tuple(step.cut_parts))
        fitted = [block for block, cut in cuts.items() if cut.fitted]
        if sorted(step.fitted_on.blocks if step.fitted_on else ()) != fitted:
            raise ManifestError("the manifest's calibration is not of the blocks that it fits")
        told, training = step.passages, step.training
        length = told.prefix_length + told.suffix_length if told is not None else 0
        if training and max(length, training.window) > size.max_positions:
            raise ManifestError("it was trained on rows that are longer than the model's context")
        if _is_compact(step) and step.parts:
            kinds = {block: cut.kind for block, cut in cuts.items()}
            if any(gone.get(block) != kind for block, kind in kinds.items()):
                raise ManifestError("config.json does not say what the manifest says of a block")
    if gone.keys() - {b for step in manifest.history if _is_compact(step) for b in step.blocks}:
        raise ManifestError("the manifest does not say who made a block attention-free")


def check_repeats(plans: Iterable[Plan], result: Checkpoint) -> int:
    """Makes each edit again from its result, and compares. Returns how many there were."""
    changed = set[str]()
    for plan in plans:
        for name, edit in plan.edits.items():
            _compare(name, edit, result, result.read, plan, exact=False)  # 0.0 for a later -0.0
            changed.add(name)
    return len(changed)


def check_made(plans: list[Plan], result: Checkpoint, read: Read) -> tuple[int, int]:
    """Makes what the plans change from the tensors of the source, and compares.

    `read`: reads the source's. Returns how many tensors were compared, and how many of them hold
    fitted numbers.
    """
    last: dict[str, tuple[Plan, Edit, Read]] = {}
    for plan in plans:
        for name, edit in plan.edits.items():
            last[name] = plan, edit, read
        last = {name: one for name, one in last.items() if name not in plan.dropped}
        read = _read_after(plan, read)
    fitted = sum(_compare(n, e, result, r, p) for n, (p, e, r) in last.items())
    return len(last), fitted


def _read_after(plan: Plan, read: Read) -> Read:
    """Reads tensors as a plan leaves them, with NaN for numbers that are fitted."""

    def read_changed(name: str) -> Bits:
        edit = plan.edits.get(name)
        return read(name) if edit is None else _make(edit, plan, read)

    return read_changed


def _make(edit: Edit, plan: Plan, read: Read) -> Bits:
    with np.errstate(over="ignore", invalid="ignore"):
        return edit.make(read, _unknown_fit(plan))


def _compare(
    name: str, edit: Edit, result: Checkpoint, read: Read, plan: Plan, *, exact: bool = True
) -> bool:
    """Whether numbers of a tensor are fitted. Raises `CheckpointError` if another differs.

    `exact`: in every bit; else 0.0 is -0.0.
    """
    dtype, found, made = edit.tensor.dtype, result.read(name), _make(edit, plan, read)
    known, ours, theirs = is_known(made, dtype), decode(made, dtype), decode(found, dtype)
    alike = result.tensors[name] == edit.tensor and bool(
        (same_bits(made, found) if exact else ours == theirs)[known].all()
    )
    if not alike or not np.isfinite(theirs).all():
        variant = variant_name(plan.selection)
        raise CheckpointError(f"tensor {name!r} is not what {variant} makes of it")
    return not bool(known.all())


def _unknown_fit(plan: Plan) -> Fit:
    size = plan.dimensions
    weight = np.broadcast_to(np.float32(np.nan), (size.num_heads, size.head_size, size.d))
    return Fit(weight[..., 0], weight, weight[..., 0])


def read_unknown(tensors: Mapping[str, Tensor]) -> Read:
    """Reads NaN, which marks every number that an edit takes from a source."""

    def read(name: str) -> Bits:
        return np.full(tensors[name].shape, encode(np.nan, tensors[name].dtype))

    return read


def mark_constants(plan: Plan) -> dict[str, Flags]:
    """Tensor → which of its numbers a plan sets, whatever the source holds."""
    read = read_unknown(plan.stored)
    return {n: is_known(_make(e, plan, read), e.tensor.dtype) for n, e in plan.edits.items()}


def find_constants(checkpoint: Checkpoint, manifest: Manifest | None) -> dict[str, Flags]:
    """Tensor → which of its numbers the recorded cuts set, whatever their source held.

    These numbers are what makes heads attention-free: constant queries and keys, values and columns
    of zero; and added biases of -0.0, which no other bias holds. Training leaves them as they are.
    """
    if manifest is None:
        return {}
    found, plans = dict[str, Flags](), plan_again(checkpoint, manifest)
    for plan in plans:
        for name, marked in mark_constants(plan).items():
            found[name] = found.get(name, False) | marked
    family = family_of(checkpoint.config)
    for block in range(family.dimensions(checkpoint.config).num_blocks if plans else 0):
        for name in (family.name(block, part, "bias") for part in family.switch_of):
            if name in checkpoint.tensors:
                none = encode(-0.0, checkpoint.tensors[name].dtype)
                found[name] = found.get(name, False) | same_bits(checkpoint.read(name), none)
    return found


def check_recorded(source: Checkpoint, manifest: Manifest | None) -> None:
    """Raises `UnsupportedError` for heads that look edited, of which no record tells.

    Their queries are all zero, as the stock layout leaves them. Training would undo such an edit.
    """
    config, stored = source.config, source.tensors
    family, dtype = family_of(config), find_dtype(config, stored)
    size, gone = family.dimensions(config), read_blocks(config)
    recorded, unrecorded = manifest.edited_heads if manifest else {}, list[EditedHeads]()
    for block in range(size.num_blocks):
        if block in gone:
            continue
        cut = Cut(family, size, config, stored, dtype, block, {})
        queries = cut.views("query", cut.read("query", "weight", source.read))["query"]
        mute = np.flatnonzero(~queries.reshape(len(queries), -1).any(1)).tolist()
        heads = [head for head in mute if head not in recorded.get(block, {})]
        unrecorded += [EditedHeads(block, tuple(heads), "")] if heads else []
    if unrecorded:
        raise UnsupportedError(
            f"the queries of {name_blocks(unrecorded, size.num_heads)} are zero, as an edit leaves "
            f"them, and no {MANIFEST} records it, so training would undo it",
            where=source.folder,
            fix="export the original with that edit, and start from the result",
        )


def _is_compact(step: Step) -> bool:
    return step.layout == "compact"
