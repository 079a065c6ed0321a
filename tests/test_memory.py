"""Contract: a process may use what its control groups allow, which may be less than the machine."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from surgery import memory

CPU = torch.device("cpu")
MACHINE = psutil.virtual_memory().total
V2, V1 = "memory.max", "memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("groups", "limits", "room"),
    [
        (None, {}, MACHINE),
        ("0::/\n", {V2: "max\n"}, MACHINE),
        ("0::/\n", {V2: "1000000\n"}, 1_000_000),
        ("0::/jobs/one\n", {"jobs/one/memory.max": "3000", "jobs/memory.max": "2000"}, 2_000),
        ("0::/elsewhere\n", {V2: "1000"}, 1_000),  # a container sees its own group as the root
        ("4:memory:/one\n0::/\n", {"memory/one/memory.limit_in_bytes": "5000"}, 5_000),
        ("4:cpu,memory:/\n", {V1: "9223372036854771712\n"}, MACHINE),
        ("3:cpuset:/\n", {V2: "1", V1: "1"}, MACHINE),  # says nothing of memory
        ("0::/../..\n", {V2: "7000"}, 7_000),
    ],
    ids=str,
)
def test_a_container_has_less_than_its_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str | None,
    limits: dict[str, str],
    room: int,
) -> None:
    root, names = tmp_path / "cgroup", tmp_path / "names"
    if groups is not None:
        names.write_text(groups)
    for path, limit in limits.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(limit)
    monkeypatch.setattr(memory, "_GROUPS", names)
    monkeypatch.setattr(memory, "_ROOT", root)
    assert memory.measure_memory(CPU) == room


def test_what_is_left_is_what_the_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    used = psutil.Process().memory_info().rss
    free = psutil.virtual_memory().available
    monkeypatch.setattr(memory, "_read_limits", lambda: iter([used + free // 2]))
    assert free // 4 < memory.measure_free_memory(CPU) < free * 3 // 4
    monkeypatch.setattr(memory, "_read_limits", lambda: iter([4 * used]))
    assert memory.measure_free_memory(CPU, 2) < 1.5 * used, "two use twice as much, and share"
    monkeypatch.setattr(memory, "_read_limits", lambda: iter([1]))
    assert memory.measure_free_memory(CPU) == 0


def test_what_torch_keeps_of_freed_tensors_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a training, torch may hold most of a GPU, and use it again for the next."""
    asked = torch.device("cuda:1")
    for name, found in (
        ("mem_get_info", (3_000, 80_000)),
        ("memory_reserved", 70_000),
        ("memory_allocated", 20_000),
    ):
        answers = {asked: found}
        monkeypatch.setattr(torch.cuda, name, answers.__getitem__)
    assert memory.measure_free_memory(asked) == 3_000 + 70_000 - 20_000
