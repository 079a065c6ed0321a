"""Fits blocks to calibration text, each on the inputs it will really see after earlier edits.

Every fit comes of one walk through the blocks: what a block was given is kept for all of the text,
so that no block is run again for those above it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import torch

from surgery.editing.in_memory import Editable
from surgery.editing.loading import load_model, load_tokenizer, model_ids
from surgery.editing.preparing import Fitting, Prepared
from surgery.fitting.calibration import Calibration, Text
from surgery.fitting.kept import KeptFits, KeptStates
from surgery.fitting.moments import Moments, bytes_of_sums, fit
from surgery.fitting.some_blocks import layers_of, only
from surgery.selection import Part, Selection
from surgery.variants import Fit, variant_of

_HELD_OUT = 5
"""Every fifth window chooses the ridge penalty."""
_ROOM = 1 << 30
"""Bytes for the sums of blocks that are fitted together; more on a device that has more."""

_Sums = dict[int, tuple[Moments, Moments]]


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
        has a map where a variant needs one. Raises `CheckpointError` where the model's attention is
        not finite, and as `Editable.plan`.
        """
        layout = self._editable.plan(tuple(selection), layout=self._layout).layout.NAME
        wanted = _wanted(selection)
        keys = {}
        for block in wanted:
            below = tuple(sorted(part for part in selection if part.block < block))
            keys[block] = (block, below, layout if below else "")
        found = self._known(keys, wanted)
        missing = [block for block in wanted if block not in found]
        states: KeptStates | None = None
        first = 0
        for block in missing:
            between = tuple(sorted(part for part in selection if first <= part.block < block))
            with self._edited(between, found, layout):
                keep = None if block == missing[-1] else block
                sums, states = self._pass(first, states, {block: wanted[block]}, keep)
            found |= self._fitted(sums, keys)
            first = block
        return {block: _as_asked(found[block], maps) for block, maps in wanted.items()}

    def fits_alone(self, blocks: Iterable[int], variants: Iterable[str]) -> dict[int, Fit]:
        """Block → what `variants` need of it where nothing else is edited.

        For all of `blocks` that attend at all, at the cost of one forward pass and the sums. Raises
        `CheckpointError` where the model's attention is not finite.
        """
        whole, names = tuple(range(self._dimensions.num_heads)), tuple(variants)
        modules = dict(self._model.named_modules())
        attending = self._family.attending(modules, self._dimensions.num_blocks)
        wanted = _wanted(Part(b, whole, name) for b in blocks if b in attending for name in names)
        keys = {block: (block, (), "") for block in wanted}
        found = self._known(keys, wanted)
        groups = self._groups({b: maps for b, maps in wanted.items() if b not in found})
        states: KeptStates | None = None
        first = 0
        for number, group in enumerate(groups, 1):
            keep = min(groups[number]) if number < len(groups) else None
            sums, states = self._pass(first, states, group, keep)
            found |= self._fitted(sums, keys)
            first = keep or 0
        return {block: _as_asked(found[block], maps) for block, maps in wanted.items()}

    def _known(self, keys: Mapping[int, Hashable], wanted: Mapping[int, bool]) -> dict[int, Fit]:
        """What is at hand; a fit with a map serves for its mean too."""
        known = {block: self._kept.get(keys[block]) for block in wanted}
        return {b: fit for b, fit in known.items() if fit and (fit.weight is not None) >= wanted[b]}

    def _fitted(self, sums: _Sums, keys: Mapping[int, Hashable]) -> dict[int, Fit]:
        heads = self._dimensions.num_heads
        return {b: self._kept.put(keys[b], fit(*sums.pop(b), heads)) for b in list(sums)}

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

    @torch.inference_mode()
    def _pass(
        self, first: int, states: KeptStates | None, blocks: Mapping[int, bool], keep: int | None
    ) -> tuple[_Sums, KeptStates | None]:
        """Sums over all of the text of `blocks`, with maps or without, and what `keep` was given.

        The pass begins with what block `first` was given, `states`, or with the text where there
        are none, and is as deep as is needed.
        """
        sums: _Sums = {}
        kept = None if keep is None else KeptStates()
        train = torch.empty(0, dtype=torch.bool)

        def add(block: int, x: torch.Tensor, z: torch.Tensor) -> None:
            if block not in sums:
                sums[block] = self._no_sums(z.device, maps=blocks[block])
            for moments, rows in zip(sums[block], (train, ~train), strict=True):
                chosen = rows.to(z.device)
                moments.add(x[chosen].flatten(0, 1), z[chosen].flatten(0, 1))

        with ExitStack() as stack:
            stack.enter_context(self._watched(blocks, add, keep, kept))
            if states is not None:
                stack.enter_context(only(self._model, first))
            number = 0
            for tokens, entry in self._entries(states):
                train = (torch.arange(number, number + len(tokens)) + 1) % _HELD_OUT != 0
                number += len(tokens)
                with suppress(_DeepEnough):
                    self._model.base_model(**entry, use_cache=False)
                self._advance(tokens.numel())
        return sums, kept

    def _no_sums(self, device: torch.device, *, maps: bool) -> tuple[Moments, Moments]:
        d = self._dimensions.d
        return Moments(d, device, maps=maps), Moments(d, device, maps=maps)

    def _entries(
        self, states: Iterable[torch.Tensor] | None
    ) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Windows [B, T] of the text, and what the model is called with for them."""
        given = None if states is None else iter(states)
        for batch in self.calibration.batches():
            tokens = torch.from_numpy(batch.astype("int64"))
            if given is None:
                yield tokens, {"input_ids": model_ids(self._model, tokens)}
            else:
                yield tokens, {"inputs_embeds": next(given)}

    @contextmanager
    def _watched(
        self,
        blocks: Collection[int],
        add: Callable[[int, torch.Tensor, torch.Tensor], None],
        keep: int | None,
        kept: KeptStates | None,
    ) -> Iterator[None]:
        """Hands x and z of `blocks`, each [B, T, d], on to `add` and ends the pass at the last."""
        xs: dict[int, torch.Tensor] = {}
        deepest = max(blocks)

        def take_x(block: int) -> Callable[..., None]:
            def hook(module: Any, args: tuple[Any, ...]) -> None:
                xs[block] = args[0]

            return hook

        def take_z(block: int) -> Callable[..., None]:
            def hook(module: Any, args: tuple[Any, ...]) -> None:
                add(block, xs.pop(block), args[0])
                if block == deepest and (keep is None or keep <= deepest):
                    raise _DeepEnough

            return hook

        def take_states(module: Any, args: tuple[Any, ...]) -> None:
            assert kept is not None
            kept.append(args[0])
            if keep not in blocks:
                raise _DeepEnough

        with ExitStack() as hooks:
            for block in blocks:
                for name, take in zip(self._family.reading(block), (take_x, take_z), strict=True):
                    module = self._model.get_submodule(name)
                    hooks.callback(module.register_forward_pre_hook(take(block)).remove)
            if keep is not None:
                module = layers_of(self._model)[keep]
                hooks.callback(module.register_forward_pre_hook(take_states).remove)
            yield


class _DeepEnough(Exception):  # noqa: N818  # no error: the rest of the forward pass is not needed
    pass


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
        editable=Editable(model, stored_dtype=inventory.dtype),
        layout=prepared.plan.layout.NAME,
        advance=advance,
    )
    fits = fitter.fits(prepared.plan.selection)
    return Fitting(fits, fitter.calibration.record(fits))
