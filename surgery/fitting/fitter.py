"""Fits blocks to calibration text, each on the inputs it will really see after earlier edits.

Every fit comes of one walk through the blocks: what a block was given is kept for all of the text,
so that no block is run again for those above it.
"""

from __future__ import annotations

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
from surgery.fitting.passes import Passes, States, Sums
from surgery.fitting.sharing import ALONE, Sharing
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

    def fits(self, selection: Sequence[Part], *, processes: Sharing = ALONE) -> dict[int, Fit]:
        """Block → fit, for the blocks of `selection` that a fitted variant is in.

        A block's fit depends on the parts below it, which are fitted first and in force then. It
        has a map where a variant needs one. `processes` share the text, and must all be here: the
        fits are those of one, to the last bit. Raises `CheckpointError` where the model's attention
        is not finite, and as `Editable.plan`.
        """
        processes = self._sharing(processes)
        layout = self._editable.plan(tuple(selection), layout=self._layout).layout.NAME
        wanted = _wanted(selection)
        keys = {}
        for block in wanted:
            below = tuple(sorted(part for part in selection if part.block < block))
            keys[block] = (block, below, layout if below else "")
        found = self._known(keys, wanted, processes)
        missing = [block for block in wanted if block not in found]
        passes, first = self._passes(processes), 0
        states: States | None = None
        for block in missing:
            between = tuple(sorted(part for part in selection if first <= part.block < block))
            with self._edited(between, found, layout):
                keep = None if block == missing[-1] else block
                sums, states = passes.sums(first, states, {block: wanted[block]}, keep)
            found |= self._fitted(sums, keys, processes)
            first = block
        return {block: _as_asked(found[block], maps) for block, maps in wanted.items()}

    def fits_alone(
        self, blocks: Iterable[int], variants: Iterable[str], *, processes: Sharing = ALONE
    ) -> dict[int, Fit]:
        """Block → what `variants` need of it where nothing else is edited.

        For all of `blocks` that attend at all, at the cost of one forward pass and the sums.
        `processes`, and what it raises: as for `fits`.
        """
        processes = self._sharing(processes)
        whole, names = tuple(range(self._dimensions.num_heads)), tuple(variants)
        modules = dict(self._model.named_modules())
        attending = self._family.attending(modules, self._dimensions.num_blocks)
        wanted = _wanted(Part(b, whole, name) for b in blocks if b in attending for name in names)
        keys = {block: (block, (), "") for block in wanted}
        found = self._known(keys, wanted, processes)
        groups = self._groups({b: maps for b, maps in wanted.items() if b not in found})
        passes, first = self._passes(processes), 0
        states: States | None = None
        for number, group in enumerate(groups, 1):
            keep = min(groups[number]) if number < len(groups) else None
            sums, states = passes.sums(first, states, group, keep)
            found |= self._fitted(sums, keys, processes)
            first = keep or 0
        return {block: _as_asked(found[block], maps) for block, maps in wanted.items()}

    def _sharing(self, processes: Sharing) -> Sharing:
        """A GPU sums sooner than sums get from one process to another."""
        return processes if self._model.device.type == "cpu" else ALONE

    def _passes(self, processes: Sharing) -> Passes:
        size, text = self._dimensions, self.calibration
        return Passes(self._model, self._family, size, text, processes, self._advance)

    def _known(
        self, keys: Mapping[int, Hashable], wanted: Mapping[int, bool], processes: Sharing
    ) -> dict[int, Fit]:
        """What is at hand everywhere; a fit with a map serves for its mean too."""
        kept = {block: self._kept.get(keys[block]) for block in wanted}
        known = {b: f for b, f in kept.items() if f and (f.weight is not None) >= wanted[b]}
        everywhere = set(wanted).intersection(*processes.gather([set(known)]))
        return {block: fit for block, fit in known.items() if block in everywhere}

    def _fitted(
        self, sums: Sums, keys: Mapping[int, Hashable], processes: Sharing
    ) -> dict[int, Fit]:
        found: dict[int, Fit] = {}
        blocks = list(sums)
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
        each = bytes_of_sums(self._dimensions.d, self._dimensions.context)
        size = max(1, room // each if maps else len(blocks))
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
    """The same whether a map was at hand or not."""
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
        editable=Editable(
            model, stored_dtype=inventory.dtype, save_as=prepared.plan.family.model_type
        ),
        layout=prepared.plan.layout.NAME,
        advance=advance,
    )
    fits = fitter.fits(prepared.plan.selection)
    return Fitting(fits, fitter.calibration.record(fits))
