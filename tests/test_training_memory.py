"""Contract: what training may use is what its process may use, and the optimizer's peak counts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from surgery.training import training

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("limits", "room"),
    [
        ([], MACHINE),
        (["max\n"], MACHINE),
        (["1000000\n"], 1_000_000),
        (["max", "2000"], 2_000),
        (["9223372036854771712\n"], MACHINE),
    ],
    ids=str,
)
def test_a_container_has_less_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: list[str], room: int
) -> None:
    paths = [tmp_path / str(number) for number in range(2)]
    for path, limit in zip(paths, limits, strict=False):
        path.write_text(limit)
    monkeypatch.setattr(training, "_LIMITS", tuple(map(str, paths)))
    model: Any = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    assert training._measure_room(model) == room


@pytest.mark.parametrize(("on_gpu", "hardened", "each"), [
    (False, False, 16), (True, False, 20), (False, True, 32), (True, True, 36),
])  # fmt: skip
def test_the_optimizer_takes_more_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, hardened: bool, each: int
) -> None:
    """The roots of all second moments at once. On the CPU, it takes them one by one."""
    weight = SimpleNamespace(is_meta=False, is_cuda=on_gpu, numel=lambda: 100)
    config = SimpleNamespace(hidden_size=10)
    model: Any = SimpleNamespace(config=config, parameters=lambda: [weight])
    schedule = training.Schedule(1, hardened=hardened)
    for room, rank in ((100 * each, 0), (100 * each - 1, training.RANK)):
        monkeypatch.setattr(training, "_measure_room", lambda model, room=room: room)
        assert schedule.settle(model).rank == rank
