"""Fits blocks to calibration text, each on the inputs it will really see after earlier edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from surgery.editing.in_memory import plan_for, replacements
from surgery.editing.loading import load_model, load_tokenizer, model_ids
from surgery.editing.preparing import Fitting, Prepared
from surgery.families import family_of
from surgery.fitting.calibration import Calibration, Text
from surgery.fitting.moments import Moments, fit
from surgery.selection import Part, Selection, blocks_of
from surgery.variants import Fit, variant_of

_HELD_OUT = 5
"""Every fifth window chooses the ridge penalty."""


class Fitter:
    """Fits for one model and one calibration text, remembered.

    **Arguments:**

    - `model`: a loaded GPT-NeoX or GPT-Neo model; it is edited for a while and restored.
    - `calibration`: of it, as much as the model's width asks for is read.
    - `stored_dtype`, `layout`: as for `surgery.editing.in_memory.replacements`.
    - `together`: fit all blocks of the unedited model in its first pass, for callers that will ask
      for one after the other; memory is O(d²) for each block.
    - `advance`: called with the number of tokens just read.
    """

    def __init__(
        self,
        model: Any,
        calibration: Calibration,
        *,
        stored_dtype: str | None = None,
        layout: str = "auto",
        together: bool = False,
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self._model, self._stored_dtype, self._layout = model, stored_dtype, layout
        self._together, self._advance = together, advance
        config = model.config.to_dict()
        self._family = family_of(config)
        self._dimensions = self._family.dimensions(config)
        self.calibration = calibration.for_width(self._dimensions.d)
        self._known: dict[tuple[int, Selection, str], Fit] = {}

    def fits(self, selection: Sequence[Part]) -> dict[int, Fit]:
        """Block → fit, for the blocks of `selection` that a fitted variant is in.

        A block's fit depends on the parts below it, which are fitted first and in force then.
        """
        layout = plan_for(self._model, tuple(selection), layout=self._layout).layout.NAME
        found: dict[int, Fit] = {}
        for block in blocks_of(part for part in selection if variant_of(part.variant).FITTED):
            below = tuple(sorted(part for part in selection if part.block < block))
            under = layout if below else ""
            if (block, below, under) not in self._known:
                blocks = self._attending() if self._together and not below else (block,)
                earlier = {b: f for b, f in found.items() if b < block}
                for index, result in self._pass(blocks, below, earlier, layout).items():
                    self._known[index, below, under] = result
            found[block] = self._known[block, below, under]
        return found

    def _attending(self) -> tuple[int, ...]:
        modules = dict(self._model.named_modules())
        blocks = range(self._dimensions.num_blocks)
        return tuple(block for block in blocks if self._names(block)[1] in modules)

    def _names(self, block: int) -> tuple[str, str]:
        """The modules whose inputs are x and z."""
        role: Any = "query_key_value_weight" if self._family.fused else "value_weight"
        names = (self._family.name(role, block), self._family.name("output_weight", block))
        return names[0].removesuffix(".weight"), names[1].removesuffix(".weight")

    @torch.inference_mode()
    def _pass(
        self, blocks: Sequence[int], below: Selection, earlier: dict[int, Fit], layout: str
    ) -> dict[int, Fit]:
        """One pass over the text with the parts `below` in force, as deep as is needed."""
        d, device = self._dimensions.d, self._model.device
        sums = {b: (Moments(d, device), Moments(d, device)) for b in blocks}
        with ExitStack() as stack:
            if below:
                edited = replacements(
                    self._model, below, earlier, layout=layout, stored_dtype=self._stored_dtype
                )
                stack.enter_context(edited.active())
            inputs = stack.enter_context(self._captured(blocks))
            number = 0
            for batch in self.calibration.batches():
                tokens = model_ids(self._model, torch.from_numpy(batch.astype("int64")))
                with suppress(_DeepEnough):
                    self._model.base_model(input_ids=tokens, use_cache=False)
                train = (torch.arange(number, number + len(batch)) + 1) % _HELD_OUT != 0
                number += len(batch)
                for block, (x, z) in inputs.items():
                    for moments, rows in zip(sums[block], (train, ~train), strict=True):
                        chosen = rows.to(x.device)
                        moments.add(x[chosen].flatten(0, 1), z[chosen].flatten(0, 1))
                self._advance(batch.size)
        heads = self._dimensions.num_heads
        return {block: fit(*sums[block], heads) for block in blocks}

    @contextmanager
    def _captured(self, blocks: Sequence[int]) -> Iterator[dict[int, list[torch.Tensor]]]:
        """Block → [x, z], each [B, T, d], of the latest forward pass, which ends at the last z."""
        inputs: dict[int, list[torch.Tensor]] = {}
        deepest = max(blocks)

        def take_x(block: int) -> Callable[..., None]:
            def hook(module: Any, args: tuple[Any, ...]) -> None:
                inputs[block] = [args[0]]

            return hook

        def take_z(block: int) -> Callable[..., None]:
            def hook(module: Any, args: tuple[Any, ...]) -> None:
                inputs[block].append(args[0])
                if block == deepest:
                    raise _DeepEnough

            return hook

        hooks = []
        try:
            for block in blocks:
                for name, take in zip(self._names(block), (take_x, take_z), strict=True):
                    module = self._model.get_submodule(name)
                    hooks.append(module.register_forward_pre_hook(take(block)))
            yield inputs
        finally:
            for hook in hooks:
                hook.remove()


class _DeepEnough(Exception):  # noqa: N818  # no error: the rest of the forward pass is not needed
    pass


def fit_checkpoint(
    prepared: Prepared,
    text: Text,
    *,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Fitting:
    """Fits what a prepared export needs.

    **Raises:** `SamplesError` for text that cannot be used, `SourceError` without a tokenizer.
    """
    folder, inventory = prepared.checkpoint.folder, prepared.plan.inventory
    calibration = text.tokenized(
        load_tokenizer(folder), max_positions=inventory.dimensions.max_positions
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(folder, device=device)
    if model.dtype == torch.float16 and device.type == "cpu":
        model = model.float()  # a CPU has no arithmetic of its own for it
    fitter = Fitter(
        model,
        calibration,
        stored_dtype=inventory.dtype,
        layout=prepared.plan.layout.NAME,
        advance=advance,
    )
    fits = fitter.fits(prepared.plan.selection)
    return Fitting(fits, fitter.calibration.record(fits))
