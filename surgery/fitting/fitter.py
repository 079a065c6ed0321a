"""Fits blocks to calibration text, each on the inputs it sees after the edits below it.

One walk through the blocks fits them all: what a block was given is kept for the whole text, so no
block runs again for those above it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from surgery.editing.in_memory import Editable
from surgery.editing.loading import load_model, load_tokenizer
from surgery.editing.preparing import Fitting, Prepared
from surgery.fitting.calibration import Calibration, Text
from surgery.fitting.kept import KeptFits
from surgery.fitting.moments import bytes_of_sums, fit
from surgery.fitting.passes import Passes, Sums
from surgery.processes import ALONE, current_processes, use_processes
from surgery.selection import Part, Selection
from surgery.variants import Fit, variant_of

_ROOM = 1 << 29
"""Bytes for the sums of blocks that are fitted together; more on a device that has more."""


class Fitter:
    """Fits for one model and one calibration text, remembered.

    Maps lie in files without a name, the longest unused dropped where the disk is half full.

    **Arguments:**

    - `model`: a loaded GPT-NeoX or GPT-Neo model, on one device, on several, or offloaded in part;
      it is edited for a while and restored.
    - `layout`: as for the plans of `surgery.editing.in_memory.Editable`; `editable`: the model as
      that, where the caller has it.
    - `advance`: called with the number of tokens that have just gone through some of the blocks.
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
        self._model, self._layout = model, layout
        self._editable = editable or Editable(model)
        self._advance = advance
        self._family = self._editable.inventory.family
        self._dimensions = self._editable.inventory.dimensions
        self.calibration = calibration
        self._kept = KeptFits()

    def fits(self, selection: Sequence[Part]) -> dict[int, Fit]:
        """Block → fit, for the blocks of `selection` that a fitted variant is in.

        A block's fit depends on the parts below it, which are fitted first and in force then. It
        has a map where a variant needs one. The current processes share the text, so all of them
        must call this: the fits are those of one, to the last bit. Raises `CheckpointError` where
        the model's attention is not finite, and as `Editable.plan`.
        """
        layout = self._editable.plan(tuple(selection), layout=self._layout).layout.NAME
        wanted = _wanted(selection)
        keys: dict[int, Hashable] = {}
        for block in wanted:
            below = tuple(sorted(part for part in selection if part.block < block))
            keys[block] = (block, below, layout if below else "")
        return self._fit(wanted, keys, tuple(selection), layout)

    def fits_alone(self, blocks: Iterable[int], variants: Iterable[str]) -> dict[int, Fit]:
        """Block → what `variants` need of it where nothing else is edited.

        For all of `blocks` that attend at all, at the cost of one forward pass and the sums. Shares
        and raises as `fits`.
        """
        whole, names = tuple(range(self._dimensions.num_heads)), tuple(variants)
        modules = dict(self._model.named_modules())
        attending = self._family.attending(modules, self._dimensions.num_blocks)
        wanted = _wanted(Part(b, whole, name) for b in blocks if b in attending for name in names)
        keys: dict[int, Hashable] = {block: (block, (), "") for block in wanted}
        return self._fit(wanted, keys, (), "")

    def _fit(
        self,
        wanted: Mapping[int, bool],
        keys: Mapping[int, Hashable],
        selection: Selection,
        layout: str,
    ) -> dict[int, Fit]:
        """Fits the blocks that are not known, in one walk from the bottom to the top.

        A pass begins where the last one ended. With a `selection`, it takes one block at a time,
        with the parts below in force; without, as many as memory has room for.
        """
        width, text = self._dimensions.d, self.calibration
        passes = Passes(self._model, self._family, width, text, self._advance)
        first, states = 0, None
        # On a GPU, summing is faster than moving sums between processes.
        on_cpu = self._model.device.type == "cpu"
        with nullcontext() if on_cpu else use_processes(ALONE):
            found = self._known(keys, wanted)
            missing = {block: maps for block, maps in wanted.items() if block not in found}
            alone = [{block: maps} for block, maps in missing.items()]
            groups = alone if selection else self._groups(missing)
            for group, following in itertools.zip_longest(groups, groups[1:]):
                between = tuple(sorted(p for p in selection if first <= p.block < min(group)))
                keep = None if following is None else min(group if selection else following)
                with self._edited(between, found, layout):
                    sums, states = passes.sums(first, states, group, keep)
                found |= self._fitted(sums, keys)
                first = keep or 0
        return {block: _as_asked(found[block], maps) for block, maps in wanted.items()}

    def _known(self, keys: Mapping[int, Hashable], wanted: Mapping[int, bool]) -> dict[int, Fit]:
        """Returns the fits that every process has. A fit with a map also serves for its mean."""
        kept = {block: self._kept.get(keys[block]) for block in wanted}
        known = {b: f for b, f in kept.items() if f and (f.weight is not None) >= wanted[b]}
        everywhere = set(wanted).intersection(*current_processes().gather([set(known)]))
        return {block: fit for block, fit in known.items() if block in everywhere}

    def _fitted(self, sums: Sums, keys: Mapping[int, Hashable]) -> dict[int, Fit]:
        found: dict[int, Fit] = {}
        blocks, processes = list(sums), current_processes()
        for begin in range(0, len(blocks), processes.count):
            some = blocks[begin : begin + processes.count]
            mine = some[processes.rank :][:1]
            made = [fit(*sums[block], self._dimensions.num_heads) for block in mine]
            for block, one in zip(some, processes.gather(made), strict=True):
                found[block] = self._kept.put(keys[block], one)
                del sums[block]
        return found

    def _groups(self, blocks: Mapping[int, bool]) -> list[dict[int, bool]]:
        """Blocks ascending, in groups whose sums fit into memory together."""
        room = _ROOM
        if torch.cuda.is_available():
            room = max(room, torch.cuda.mem_get_info()[0] // 4)
        maps = any(blocks.values())
        size = max(1, room // bytes_of_sums(self._dimensions.d) if maps else len(blocks))
        order = list(blocks)
        return [{b: blocks[b] for b in order[i : i + size]} for i in range(0, len(order), size)]

    def _edited(
        self, selection: Selection, fits: Mapping[int, Fit], layout: str
    ) -> AbstractContextManager[None]:
        if not selection:
            return nullcontext()
        plan = self._editable.plan(selection, layout=layout)
        return self._editable.replacements(plan, fits).active()


def _wanted(selection: Iterable[Part]) -> dict[int, bool]:
    """The blocks that a fitted variant is in, ascending, and whether one needs a map."""
    wanted: dict[int, bool] = {}
    for part in sorted(selection):
        variant = variant_of(part.variant)
        if variant.FITTED:
            wanted[part.block] = wanted.get(part.block, False) or variant.KIND == "affine"
    return wanted


def _as_asked(found: Fit, maps: bool) -> Fit:
    """Drops the map if only the mean is wanted."""
    return found if maps else Fit(mean=found.mean)


def fit_checkpoint(
    prepared: Prepared,
    text: Text,
    *,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Fitting:
    """Fits what a prepared export needs.

    **Raises:** `SamplesError` for text that cannot be used, `SourceError` without a tokenizer.
    """
    checkpoint, inventory = prepared.checkpoint, prepared.plan.inventory
    calibration = text.tokenized(load_tokenizer(checkpoint.folder), inventory.dimensions)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(checkpoint, device=device)
    if model.dtype == torch.float16 and device.type == "cpu":
        model = model.float()  # a CPU has no arithmetic of its own for it
    fitter = Fitter(
        model,
        calibration,
        editable=Editable(model, stored_dtype=inventory.dtype),
        layout=prepared.plan.layout.NAME,
        advance=advance,
    )
    fits = fitter.fits(prepared.plan.selection)
    return Fitting(fits, fitter.calibration.record(fits))
