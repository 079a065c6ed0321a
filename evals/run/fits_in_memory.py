"""Tells before a model is loaded that this machine cannot hold it."""

from __future__ import annotations

import torch

from surgery.checkpoint.inventory import Inventory
from surgery.errors import MeasurementError
from surgery.memory import measure_memory
from surgery.processes import current_processes


def check_fits(inventory: Inventory, dtype: torch.dtype, place: torch.device) -> None:
    """Raises `MeasurementError` if the weights alone are larger than the memory of `place`.

    On the CPU, that is what this process may use: a container has less than its machine.
    """
    needed = inventory.num_parameters * dtype.itemsize
    if place.type == "cuda":
        where = "the GPU"
    else:
        where = "this machine"
        needed *= current_processes().count
    there = measure_memory(place)
    if needed <= there:
        return
    name = str(dtype).removeprefix("torch.")
    less = "" if dtype.itemsize < 4 else ", or half of it with `dtype=bfloat16`"
    raise MeasurementError(
        f"the model does not fit into the memory of {where}",
        expected=f"at least {needed / 1e9:,.1f} GB for its weights in {name}{less}",
        got=f"{there / 1e9:,.1f} GB",
        fix="use a larger machine, or `device=all`, which spreads it over several GPUs; only "
        "`export` of `variant=identity` or zero works without loading it",
    )
