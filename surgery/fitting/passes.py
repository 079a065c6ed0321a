"""Sums blocks' attention inputs and context vectors over calibration text.

Shape letters: B windows, T tokens, d width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from surgery.errors import OutputError
from surgery.families import Dimensions, Family
from surgery.fitting.calibration import ROWS, Calibration
from surgery.fitting.moments import Moments
from surgery.fitting.some_blocks import find_layers, run_only
from surgery.loading import place_ids
from surgery.processes import count_for_all, current_processes
from surgery.untrusted import reraise_as

_HELD_OUT = 5
"""Every fifth window is held out to choose the ridge penalty."""
_SLICES = 8
"""Slices of the text. Each is summed alone, so that totals do not depend on the processes."""

Number = TypeVar("Number", bound=np.generic)
Sums = dict[int, tuple[Moments, Moments]]
KeptStates = list[tuple[torch.Tensor, torch.device]]
"""Hidden states [B, T, d], batch after batch, and the device of each."""
States = dict[int, KeptStates]
"""By slice, for this process's slices."""


@dataclass(frozen=True)
class Passes:
    """Runs text through a model of these `dimensions`, slice by slice.

    Each of the current processes has its own slices. `advance`: called with the number of tokens
    done.
    """

    model: Any
    family: Family
    dimensions: Dimensions
    calibration: Calibration
    advance: Callable[[int], None]

    @torch.inference_mode()
    def sum_blocks(
        self,
        first: int,
        states: States | None,
        blocks: Mapping[int, bool],
        keep: int | None,
    ) -> tuple[Sums, States]:
        """Returns sums over all text for `blocks` (→ with maps?), and the inputs of block `keep`.

        The pass begins at block `first` with its inputs, `states`, or else with the text. It goes
        only as deep as needed.
        """
        sums: Sums = {}
        kept: States = {}
        processes = current_processes()
        for begin in range(0, _SLICES, processes.count):
            own: Sums = {}
            for number in range(begin, min(begin + processes.count, _SLICES)):
                if not processes.is_own(number):
                    continue
                if keep is not None:
                    kept[number] = []
                given = None if states is None else states[number]
                own = self._sum_slice(number, first, given, blocks, keep, kept.get(number))
            for block in blocks:
                for part in processes.gather([own.pop(block)] if own else []):
                    for total, more in zip(sums.setdefault(block, part), part, strict=True):
                        if total is not more:
                            total.include(more)
        return sums, kept

    def _sum_slice(
        self,
        number: int,
        first: int,
        states: KeptStates | None,
        blocks: Mapping[int, bool],
        keep: int | None,
        kept: KeptStates | None,
    ) -> Sums:
        """Does what `sum_blocks` does, for one slice."""
        sums: Sums = {}
        train = torch.empty(0, dtype=torch.bool)

        def add(block: int, x: torch.Tensor, z: torch.Tensor) -> None:
            if block not in sums:
                empty = partial(
                    Moments,
                    self.dimensions.d,
                    z.device,
                    context=self.dimensions.context,
                    maps=blocks[block],
                )
                sums[block] = empty(), empty()
            for moments, rows in zip(sums[block], (train, ~train), strict=True):
                chosen = rows.to(z.device)
                moments.add(x[chosen].flatten(0, 1), z[chosen].flatten(0, 1))

        with ExitStack() as stack:
            stack.enter_context(self._watch(blocks, add, keep, kept))
            if states is not None:
                stack.enter_context(run_only(self.model, first))
            for rows, tokens, entry in self._read_slice(number, states):
                train = (rows + 1) % _HELD_OUT != 0
                with suppress(_DeepEnough):
                    self.model.base_model(**entry, use_cache=False)
                count_for_all(self.advance)(tokens.numel())
        return sums

    def _read_slice(
        self, number: int, states: KeptStates | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
        """Yields a slice's batches: window numbers [B], windows [B, T], model arguments."""
        batches = list(enumerate(self.calibration.batches()))
        size = -(-len(batches) // _SLICES)
        for place, (index, windows) in enumerate(batches[number * size : (number + 1) * size]):
            tokens = torch.from_numpy(windows.astype("int64"))
            rows = ROWS * index + torch.arange(len(tokens))
            if states is None:
                yield rows, tokens, {"input_ids": place_ids(self.model, tokens)}
            else:
                given, device = states[place]
                yield rows, tokens, {"inputs_embeds": given.to(device)}

    @contextmanager
    def _watch(
        self,
        blocks: Collection[int],
        add: Callable[[int, torch.Tensor, torch.Tensor], None],
        keep: int | None,
        kept: KeptStates | None,
    ) -> Iterator[None]:
        """Passes x [B, T, d] and z [B, T, c] of `blocks` to `add`; ends the pass at the last."""
        xs: dict[int, torch.Tensor] = {}
        deepest = max(blocks)

        def take_x(block: int, module: Any, args: tuple[Any, ...]) -> None:
            xs[block] = args[0]

        def take_z(block: int, module: Any, args: tuple[Any, ...]) -> None:
            add(block, xs.pop(block), args[0])
            if block == deepest and (keep is None or keep <= deepest):
                raise _DeepEnough

        def take_states(module: Any, args: tuple[Any, ...]) -> None:
            assert kept is not None
            kept.append(_keep_states(args[0]))
            if keep not in blocks:
                raise _DeepEnough

        with ExitStack() as hooks:
            for block in blocks:
                for name, take in zip(self.family.reading(block), (take_x, take_z), strict=True):
                    module = self.model.get_submodule(name)
                    hooks.callback(module.register_forward_pre_hook(partial(take, block)).remove)
            if keep is not None:
                module = find_layers(self.model)[keep]
                hooks.callback(module.register_forward_pre_hook(take_states).remove)
            yield


class _DeepEnough(Exception):  # noqa: N818  # not an error: the rest of the pass is not needed
    pass


def _keep_states(states: torch.Tensor) -> tuple[torch.Tensor, torch.device]:
    """Returns a copy in a file, and the device of the states."""
    data = map_to_disk(states.contiguous().cpu().view(torch.uint8).numpy())
    return torch.from_numpy(data).view(states.dtype), states.device


def map_to_disk(array: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Returns a copy in an unnamed file of TMPDIR, so that no run leaves any behind."""
    folder, fix = tempfile.gettempdir(), "set TMPDIR to a folder with more room"
    with reraise_as(OutputError, "no room for fits", folder, fix), tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        mapped = np.memmap(file, array.dtype, "c", shape=array.shape)
    plain: npt.NDArray[Number] = mapped.view(np.ndarray)
    return plain
