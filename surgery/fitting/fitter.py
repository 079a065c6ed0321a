"""Fits blocks to calibration text, each on its inputs after the edits below it.

One walk through the blocks fits them all: a block's inputs are kept for the whole text, so no
block runs again for the blocks above it.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from surgery.families import family_of
from surgery.fitting.calibration import Calibration, Text
from surgery.fitting.moments import count_bytes, fit_moments
from surgery.fitting.passes import Passes, Sums, map_to_disk
from surgery.in_memory import Editable
from surgery.loading import choose_device, has_arithmetic, load_model, load_tokenizer
from surgery.preparing import Fitting, Prepared
from surgery.processes import ALONE, current_processes, share, use_processes
from surgery.selection import EditedHeads, Selection
from surgery.variants import Fit, variant_of

_ROOM = 1 << 29
"""Bytes for the sums of blocks that are fitted together; more on a device with more memory."""
_SHARE = 0.5
"""Share of the free space for fits."""


class KeptFits:
    """Fits by key, memory-mapped. Beyond `room` bytes, drops the least recently used."""

    def __init__(self, room: int | None = None) -> None:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        self._room = int(_SHARE * free) if room is None else room
        self._fits: OrderedDict[Hashable, Fit] = OrderedDict()

    def get(self, key: Hashable) -> Fit | None:
        """Returns a fit if it is still there."""
        if key in self._fits:
            self._fits.move_to_end(key)
        return self._fits.get(key)

    def put(self, key: Hashable, fit: Fit) -> Fit:
        """Keeps a fit and returns the kept copy."""
        if fit.weight is not None:
            fit = replace(fit, weight=map_to_disk(fit.weight))
        self._fits[key] = fit
        while self._count_bytes() > self._room and len(self._fits) > 1:
            self._fits.popitem(last=False)
        return fit

    def _count_bytes(self) -> int:
        return sum(fit.weight.nbytes for fit in self._fits.values() if fit.weight is not None)


class Fitter:
    """Fits blocks of one model to one calibration text, and remembers the fits (`KeptFits`).

    - `model`: a loaded model, on one device, on several, or partly offloaded. It is edited for a
      while and restored. `editable`: the same, if you have it.
    - `layout`: how to plan the parts below a block.
    - `advance`: called with the number of tokens that have just passed through blocks.
    """

    def __init__(
        self,
        model: Any,
        calibration: Calibration,
        *,
        layout: str = "auto",
        editable: Editable | None = None,
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._layout, self._editable = layout, editable or Editable(model)
        family = family_of(self._editable.config)
        self._dimensions = family.dimensions(self._editable.config)
        self._passes = Passes(model, family, self._dimensions, calibration, advance)
        self.calibration = calibration
        self._kept = KeptFits()

    def fit(self, selection: Sequence[EditedHeads]) -> dict[int, Fit]:
        """Returns block → fit, for blocks of `selection` with a fitted variant.

        A block's fit depends on the parts below it, which are fitted and applied first. It has a
        map if a variant needs one. The current processes share the text and must all call this; the
        fits equal those of one process, bit for bit.
        """
        layout = self._editable.plan(tuple(selection), layout=self._layout).layout
        wanted: dict[int, bool] = {}
        for part in sorted(selection):
            variant = variant_of(part.variant)
            if variant.fitted:
                wanted[part.block] = wanted.get(part.block, False) or variant.kind == "affine"
        return self._fit_missing(wanted, tuple(selection), layout)

    def fit_alone(self, blocks: Iterable[int], variants: Iterable[str]) -> dict[int, Fit]:
        """Returns block → fit for `variants`, each as if nothing else were edited.

        For all `blocks` with attention, in one forward pass. Shares the text and raises as
        `fit`.
        """
        fitted = [variant for variant in map(variant_of, variants) if variant.fitted]
        maps = any(variant.kind == "affine" for variant in fitted)
        modules = dict(self._passes.model.named_modules())
        attending = self._passes.family.attending(modules, self._dimensions.num_blocks)
        some = sorted(set(attending).intersection(blocks)) if fitted else ()
        return self._fit_missing(dict.fromkeys(some, maps), (), "")

    def _fit_missing(
        self, wanted: Mapping[int, bool], selection: Selection, layout: str
    ) -> dict[int, Fit]:
        """Fits the blocks without a known fit, in one walk from bottom to top.

        A pass begins where the last one ended. With a `selection`, a pass fits one block, with the
        parts below applied; without one, as many blocks as fit into memory.
        """
        keys: dict[int, Hashable] = {}
        for block in wanted:
            below = tuple(sorted(part for part in selection if part.block < block))
            keys[block] = (block, below, layout if below else "")
        first, states = 0, None
        on_cpu = self._passes.model.device.type == "cpu"  # a GPU sums faster than it moves sums
        with nullcontext() if on_cpu else use_processes(ALONE):
            found = self._find_known(keys, wanted)
            missing = {block: maps for block, maps in wanted.items() if block not in found}
            alone = [{block: maps} for block, maps in missing.items()]
            groups = alone if selection else self._group(missing)
            for group, following in itertools.zip_longest(groups, groups[1:]):
                between = tuple(sorted(p for p in selection if first <= p.block < min(group)))
                keep = None if following is None else min(group if selection else following)
                edit: AbstractContextManager[None] = nullcontext()
                if between:
                    plan = self._editable.plan(between, layout=layout)
                    edit = self._editable.make_replacements(plan, found).activate()
                with edit:
                    sums, states = self._passes.sum_blocks(first, states, group, keep)
                found |= self._solve(sums, keys)
                first = keep or 0
        return {b: found[b] if maps else Fit(found[b].mean) for b, maps in wanted.items()}

    def _find_known(
        self, keys: Mapping[int, Hashable], wanted: Mapping[int, bool]
    ) -> dict[int, Fit]:
        """Returns the fits that every process has. A fit with a map also gives the mean."""
        kept = {block: self._kept.get(keys[block]) for block in wanted}
        known = {b: f for b, f in kept.items() if f and (f.weight is not None) >= wanted[b]}
        everywhere = set(wanted).intersection(*current_processes().gather([set(known)]))
        return {block: fit for block, fit in known.items() if block in everywhere}

    def _solve(self, sums: Sums, keys: Mapping[int, Hashable]) -> dict[int, Fit]:
        heads = self._dimensions.num_heads, self._dimensions.num_groups
        made = share(lambda block: fit_moments(*sums[block], *heads), list(sums))
        return {b: self._kept.put(keys[b], fit) for b, fit in zip(sums, made, strict=True)}

    def _group(self, blocks: Mapping[int, bool]) -> list[dict[int, bool]]:
        """Groups blocks, ascending, so that a group's sums fit into memory."""
        room, device = _ROOM, self._passes.model.device
        if device.type == "cuda":
            room = max(room, torch.cuda.mem_get_info(device)[0] // 4)
        maps = any(blocks.values())
        each = count_bytes(self._dimensions.d, self._dimensions.context)
        size = max(1, room // each if maps else len(blocks))
        order = list(blocks)
        return [{b: blocks[b] for b in order[i : i + size]} for i in range(0, len(order), size)]


def fit_checkpoint(
    prepared: Prepared,
    text: Text,
    *,
    device: torch.device | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Fitting:
    """Fits what a prepared export needs, on a GPU if there is one. `device` names another place."""
    checkpoint, plan = prepared.checkpoint, prepared.plan
    calibration = text.tokenize(load_tokenizer(checkpoint.folder), plan.dimensions)
    device = device or choose_device()
    model = load_model(checkpoint, device=device)
    if not has_arithmetic(model.dtype, device):
        model = model.float()
    fitter = Fitter(
        model,
        calibration,
        editable=Editable(model, stored_dtype=plan.dtype, alike=True),
        layout=plan.layout,
        advance=advance,
    )
    fits = fitter.fit(plan.selection)
    return Fitting(fits, fitter.calibration.record(fits))
