"""Blank pictures, for tests that do not look at them: painting would take most of their time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def blank_pictures() -> Iterator[None]:
    """Every chart is saved and embedded as ever, with nothing on it."""
    from matplotlib.figure import Figure

    from evals.table.charts.chart import Chart

    @contextmanager
    def open_blank(*arguments: Any, **options: Any) -> Iterator[Figure]:
        yield Figure(figsize=(1, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "open", open_blank)
        yield
