"""Keeps what would fill memory in unnamed temporary files, so that no run leaves any behind.

They are in `TMPDIR`. Shape letters: B windows, T tokens, d width.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from surgery.errors import OutputError
from surgery.untrusted import guard
from surgery.variants import Fit

Number = TypeVar("Number", bound=np.generic)
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
        """Keeps a fit and returns the kept copy. Raises `OutputError` if the disk is full."""
        if fit.weight is not None:
            fit = replace(fit, weight=_map_to_disk(fit.weight))
        self._fits[key] = fit
        while self._count_bytes() > self._room and len(self._fits) > 1:
            self._fits.popitem(last=False)
        return fit

    def _count_bytes(self) -> int:
        return sum(fit.weight.nbytes for fit in self._fits.values() if fit.weight is not None)


KeptStates = list[tuple[torch.Tensor, torch.device]]
"""Hidden states [B, T, d], batch after batch, and the device of each."""


def keep_states(states: torch.Tensor) -> tuple[torch.Tensor, torch.device]:
    """Returns a copy in a file, and the device of the states. Raises `OutputError`."""
    data = _map_to_disk(states.contiguous().cpu().view(torch.uint8).numpy())
    return torch.from_numpy(data).view(states.dtype), states.device


def _map_to_disk(array: npt.NDArray[Number]) -> npt.NDArray[Number]:
    folder, fix = tempfile.gettempdir(), "set TMPDIR to a folder with more room"
    with guard(OutputError, "no room for fits", folder, fix), tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        mapped = np.memmap(file, array.dtype, "c", shape=array.shape)
    plain: npt.NDArray[Number] = mapped.view(np.ndarray)
    return plain
