"""Computes what a result's configuration, manifest and tensors must be, with or without its source.

Without a source, edits are undone, newest first, in tensor names and config.json, and planned
again. Then each edit is applied to its own result, which must change nothing. This proves that
query and key rows are the constants that make attention one-hot, that values are zero where they
should be, and so on, as the layout computes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.checkpoint.inventory import Inventory, make_inventory, take_inventory
from surgery.checkpoint.source import MANIFEST, Checkpoint
from surgery.checkpoint.tensors import DTYPES, Array, TensorInfo
from surgery.editing.rewriting import list_changes, make_unknown_fits
from surgery.errors import CheckpointError, ManifestError, UnsupportedError
from surgery.families import FAMILIES, config_saved_as
from surgery.families.rotary import find_unspelled
from surgery.layouts import Block, TensorChange, layout_of
from surgery.plan import Plan, block_edits, make_empty_plan, make_plan
from surgery.privacy import drop_paths
from surgery.record.manifest import Manifest, Step, list_edited_heads
from surgery.selection import EditedHeads, name_blocks, variant_name

Flags = npt.NDArray[np.bool_]


def replan(
    result: Checkpoint, manifest: Manifest, original: Checkpoint | None = None, begins: int = -1
) -> tuple[Plan, ...]:
    """Plans all recorded steps again, newest first. Plans step `begins`, counted from 0, the
    oldest, for its source `original`, if that is given.

    **Raises:** a `SurgeryError` if the configuration, the tensor names or the manifest are not what
    the edits make of a source.
    """
    config = result.config
    inventory = take_inventory(config, result.infos)
    steps = list(manifest.history)
    plans: list[Plan] = []
    while steps:
        edit = steps.pop()
        if original is not None and len(steps) == begins:
            before = config_saved_as(original.config, inventory.family.model_type), original.infos
        else:
            before = _undo(edit, inventory)
        earlier, inventory = list_edited_heads(steps), take_inventory(*before)
        if edit.parts:
            plan = make_plan(
                inventory,
                tuple(edit.parts),
                layout=edit.layout,
                earlier=earlier,
                scrubbed=edit.scrubbed,
            )
        else:
            plan = make_empty_plan(inventory)
        name = plan.family.model_type
        if plans and edit.family in {f.model_type for f in FAMILIES if name in f.saved_as}:
            edit = edit.model_copy(update={"family": name})  # a later edit changed the type
        check_planned(edit, plan, config)
        check_training(edit, inventory, earlier)
        plans.append(plan)
        config = inventory.config
    return tuple(plans)


def _undo(edit: Step, result: Inventory) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Returns the configuration and the tensors by name as they were before a step."""
    if edit.training is not None:
        return result.config, dict(result.infos)
    family, sizes = result.family, result.dimensions.sizes
    infos = {name: info for name, info in result.infos.items() if name not in edit.changed.added}
    for name in edit.changed.dropped:
        rule, _ = family.match(name) or (None, None)
        shape = () if rule is None or rule.shape is None else rule.shape
        infos[name] = TensorInfo(name, result.dtype, tuple(sizes[size] for size in shape))
    edits = block_edits(edit.parts, result.dimensions)
    layout, added = layout_of(edit.layout), edit.changed.added
    return layout.source_config(result.config, family, edits, added), infos


def check_planned(edit: Step, plan: Plan, config: dict[str, Any]) -> None:
    """Raises `ManifestError` if a plan differs from a recorded edit or its config.json."""
    spelled = find_unspelled(plan.inventory.config, plan.family.rotary)
    if all(config.get(key) is None for key in spelled):  # earlier versions spelled none of them
        config = {**config, **spelled}
    made, given = (json.dumps(drop_paths(one), sort_keys=True) for one in (plan.config, config))
    if made != given or plan.config.get("auto_map") != config.get("auto_map"):
        raise ManifestError("config.json is not what the edit makes of the source's")
    dimensions, record = plan.inventory.dimensions, edit.calibration
    planned = {
        "family": (edit.family, plan.family.model_type),
        "num_blocks": (edit.num_blocks, dimensions.num_blocks),
        "num_heads": (edit.num_heads, dimensions.num_heads),
        "changed": (edit.changed, list_changes(plan)),
        "one_hot": (edit.one_hot, plan.one_hot),
        "calibration": (() if record is None else tuple(sorted(record.blocks)), plan.fitted),
    }
    for field, (found, expected) in planned.items():
        if found != expected:
            raise ManifestError(f"the manifest's {field} is not what the edit does")


def check_training(edit: Step, source: Inventory, earlier: Mapping[int, Mapping[int, str]]) -> None:
    """Raises `ManifestError` if a record of training cannot be of this source."""
    if edit.erasing is not None:
        parts, record = tuple(edit.erasing.cut_parts), edit.erasing.calibration
        cut = make_plan(source, parts, layout="auto", earlier=earlier) if parts else None
        if (cut.fitted if cut else ()) != (() if record is None else tuple(sorted(record.blocks))):
            raise ManifestError("the teacher's calibration is not of the blocks that it fits")
    if edit.training is None:
        return
    told = edit.passages
    length = told.prefix_length + told.suffix_length if told is not None else 0
    if max(length, edit.training.window) > source.dimensions.max_positions:
        raise ManifestError("it was trained on rows that are longer than the model's context")


def check_repeats(
    plan: Plan,
    result: Checkpoint,
    read: Callable[[str], Array],
    actions: Collection[str],
    later: Collection[str] = (),
    skip: Collection[str] = (),
) -> tuple[int, int]:
    """Repeats an edit and compares, bit for bit, what was not fitted to text.

    **Arguments:** `read`: reads a tensor of the source, or of the result itself, by name;
    `actions`: the changes to compare; `later`: tensors that later edits have also changed,
    or dropped; `skip`: tensors that are not compared.

    **Returns:** how many tensors were compared, and how many of them hold fitted numbers.

    **Raises:** `CheckpointError` for the first tensor that differs.
    """
    compared = fitted = 0
    for change in plan.changes:
        if change.action not in actions or change.name in skip:
            continue
        made = plan
        if change.action == "add" and change.name in later:
            if change.block not in plan.edits:
                continue  # only of the later edit
            made = replace(plan, inventory=replace(plan.inventory, infos=result.infos))
        found, expected = result.read(change.name), _recompute(made, change, read)
        alike = (found.shape, found.dtype) == (expected.shape, expected.dtype)
        whole = alike and found.tobytes() == expected.tobytes()  # the most common, and the fastest
        if alike and not whole:
            known = ~np.isnan(expected)
            alike = not known.all() and found[known].tobytes() == expected[known].tobytes()
        if not alike or not np.isfinite(found).all():
            raise CheckpointError(
                f"tensor {change.name!r} is not what {variant_name(plan.selection)} makes of it"
            )
        compared += 1
        fitted += not whole
    return compared, fitted


def read_after(plan: Plan, read: Callable[[str], Array]) -> Callable[[str], Array]:
    """Makes a reader of tensors as a plan leaves them, with NaN for numbers that are fitted.
    `read`: reads those before it."""
    changes = {change.name: change for change in plan.changes if change.action != "drop"}

    def read_changed(name: str) -> Array:
        return _recompute(plan, changes[name], read) if name in changes else read(name)

    return read_changed


def is_scrubbed(plan: Plan, result: Checkpoint) -> bool:
    """Whether a scrub would change nothing in the result of an edit."""
    again = make_plan(plan.inventory, plan.selection, layout=plan.layout.NAME)
    try:
        check_repeats(again, result, result.read, {"rewrite"})
    except CheckpointError:
        return False
    return True


def find_constants(plans: Iterable[Plan], names: Container[str]) -> dict[str, Flags]:
    """Returns tensor → which of its numbers the edits set, whatever the source held.

    `names`: the tensors of the result. These numbers are what makes heads attention-free: constant
    queries and keys, values and columns of zero, added biases of -0.0. Healing leaves them as they
    are.
    """
    found: dict[str, Flags] = {}
    for plan in plans:
        unknown = make_unknown(plan.inventory.infos)
        for change in plan.changes:
            if change.action != "drop" and change.name in names:
                known = ~np.isnan(_recompute(plan, change, unknown))
                found[change.name] = found.get(change.name, False) | known
    return found


def check_recorded(source: Checkpoint, manifest: Manifest | None) -> None:
    """Raises `UnsupportedError` for heads that look edited, of which no record tells.

    Their queries are all zero, as the stock layout leaves them. Training would undo such an edit.
    """
    found = make_inventory(source.config, source.infos)
    recorded, unrecorded = manifest.edited_heads if manifest else {}, list[EditedHeads]()
    for index in range(found.dimensions.num_blocks):
        block = Block(found.family, found.dimensions, index, found.infos, source.read, found.config)
        heads = [head for head in _find_mute(block) if head not in recorded.get(index, {})]
        unrecorded += [EditedHeads(index, tuple(heads), "")] if heads else []
    if unrecorded:
        raise UnsupportedError(
            f"the queries of {name_blocks(unrecorded, found.dimensions.num_heads)} are zero, as an "
            f"edit leaves them, and no {MANIFEST} records it, so training would undo it",
            where=source.folder,
            fix="export the original with that edit, and start from the result",
        )


def _find_mute(block: Block) -> list[int]:
    """The heads whose queries do not depend on the token."""
    role = block.stored("query", "weight")
    if not block.has(role):
        return []  # compact, or the block does not attend
    queries = block.parts(role, block.read(role))["query"]
    mute = ~queries.reshape(len(queries), -1).any(1)
    return [int(head) for head in np.flatnonzero(mute)]


def _recompute(plan: Plan, change: TensorChange, read: Callable[[str], Array]) -> Array:
    """Computes a changed tensor, with NaN for each number that is fitted."""
    fits = make_unknown_fits(plan)
    with np.errstate(over="ignore", invalid="ignore"):
        return plan.compute(change, read, fits).astype(DTYPES[plan.inventory.dtype])


def make_unknown(infos: Mapping[str, TensorInfo]) -> Callable[[str], Array]:
    """Makes a reader of NaN, to mark every number that an edit takes from a source."""
    return lambda name: np.full(infos[name].shape, math.nan, DTYPES[infos[name].dtype])
