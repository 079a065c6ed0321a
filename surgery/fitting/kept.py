"""Keeps what would fill memory in unnamed temporary files, so that no run leaves any behind.

They are in `TMPDIR`. Shape letters: B windows, T tokens, d width.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from surgery.errors import OutputError
from surgery.untrusted import guard
from surgery.variants import Fit

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


class KeptStates:
    """Hidden states [B, T, d], batch after batch, to be read again in the same order."""

    def __init__(self) -> None:
        with _explain_full_disk():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object
        weakref.finalize(self, self._file.close)
        self._kinds: list[tuple[torch.Size, torch.dtype, torch.device]] = []

    def append(self, states: torch.Tensor) -> None:
        """Writes states. Raises `OutputError` if the disk is full."""
        self._kinds.append((states.shape, states.dtype, states.device))
        with _explain_full_disk():
            self._file.write(states.contiguous().cpu().view(torch.uint8).numpy().data)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields the states, each on its device."""
        self._file.seek(0)
        for shape, dtype, device in self._kinds:
            data = np.fromfile(self._file, np.uint8, shape.numel() * dtype.itemsize)
            yield torch.from_numpy(data).view(dtype).view(shape).to(device)


def _map_to_disk(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with _explain_full_disk(), tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        mapped = np.memmap(file, array.dtype, "c", shape=array.shape)
    plain: npt.NDArray[np.float32] = mapped.view(np.ndarray)
    return plain


@contextmanager
def _explain_full_disk() -> Iterator[None]:
    fix = "set TMPDIR to a folder with more room"
    with guard(OutputError, "no room for fits", tempfile.gettempdir(), fix):
        yield
