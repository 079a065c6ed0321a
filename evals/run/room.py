"""Tells before a model is loaded that this machine cannot hold it."""

from __future__ import annotations

import psutil
import torch

from surgery.checkpoint.inventory import Inventory
from surgery.errors import MeasurementError
from surgery.processes import current_processes


def check_room(inventory: Inventory, dtype: torch.dtype, place: torch.device) -> None:
    """Raises `MeasurementError` if the weights alone are larger than all memory of `place`."""
    needed = inventory.num_parameters * dtype.itemsize
    if place.type == "cuda":
        there, where = torch.cuda.get_device_properties(place).total_memory, "the GPU"
    else:
        there, where = psutil.virtual_memory().total, "this machine"
        needed *= current_processes().count
    if needed <= there:
        return
    name = str(dtype).removeprefix("torch.")
    less = "" if dtype.itemsize < 4 else ", or half of it with `dtype=bfloat16`"
    raise MeasurementError(
        f"the model does not fit into the memory of {where}",
        expected=f"at least {needed / 1e9:,.1f} GB for its weights in {name}{less}",
        got=f"{there / 1e9:,.1f} GB",
        fix="use a larger machine, or `device_map=auto`, which spreads it over several GPUs; only "
        "`export` of `variant=identity` or zero works without loading it",
    )
