"""Contract: what training may use is what its process may use, and the optimizer's peak counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from surgery.training import training


@pytest.mark.parametrize(("on_gpu", "hardened", "each"), [
    (False, False, 16), (True, False, 20), (False, True, 32), (True, True, 36),
])  # fmt: skip
def test_the_optimizer_takes_more_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, hardened: bool, each: int
) -> None:
    """The roots of all second moments at once. On the CPU, it takes them one by one."""
    weight = SimpleNamespace(is_meta=False, is_cuda=on_gpu, numel=lambda: 100)
    config = SimpleNamespace(hidden_size=10)
    model: Any = SimpleNamespace(config=config, parameters=lambda: [weight], device=None)
    schedule = training.Schedule(1, hardened=hardened)
    for room, rank in ((100 * each, 0), (100 * each - 1, training.RANK)):
        monkeypatch.setattr(training, "measure_memory", lambda device, room=room: room)
        assert schedule.settle(model).rank == rank
