"""How much memory a process may use: of a container, less than its machine has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_GROUPS = Path("/proc/self/cgroup")
"""Where Linux names the control groups of a process: "NUMBER:CONTROLLERS:/PATH" (`cgroups(7)`)."""
_ROOT = Path("/sys/fs/cgroup")


def measure_memory(device: Any) -> int:
    """The memory of a `torch.device`, in bytes; on the CPU, what this process may use of it."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    import psutil

    return min([int(psutil.virtual_memory().total), *_read_limits()])


def measure_free_memory(device: Any, processes: int = 1) -> int:
    """What is left of `measure_memory`, in bytes; on the CPU, for each of so many processes that
    use as much as this one. On a GPU, with what torch keeps of freed tensors, to use it again."""
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    import psutil

    used = processes * int(psutil.Process().memory_info().rss)
    left = (max(0, limit - used) for limit in _read_limits())
    return min([int(psutil.virtual_memory().available), *left]) // processes


def _read_limits() -> Iterator[int]:
    """The limits of this process's groups and of those around them, in bytes.

    A container sees its own group as the root, whatever the path says. "max" is no limit.
    """
    if not _GROUPS.is_file():
        return
    for line in _GROUPS.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (
            (_ROOT / "memory", "memory.limit_in_bytes") if controllers else (_ROOT, "memory.max")
        )
        inner = root / group.strip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(root) and (file := folder / name).is_file():
                limit = file.read_text().strip()
                if limit.isdecimal():
                    yield int(limit)
