"""Exports with any variant, and their models, to be compared bit for bit.

Fitted variants get maps drawn at random, as good as any to store.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.exporting import Export, write
from surgery.loading import load_model
from surgery.preparing import Fitting, prepare
from surgery.record.manifest import BlockFit, CalibrationRecord, TextSource
from surgery.variants import Fit


def random_fit(num_heads: int, d: int, *, head_size: int | None = None, seed: int = 0) -> Fit:
    """A fit of a block of that shape."""

    def draw(*shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return generator.normal(scale=scale, size=shape).astype(np.float32)

    generator = np.random.default_rng(seed)
    size = head_size or d // num_heads
    return Fit(
        mean=draw(num_heads, size),
        weight=draw(num_heads, size, d, scale=d**-0.5),
        bias=draw(num_heads, size),
        ridge=1e-4,
        r2=0.5,
    )


def random_fits(
    blocks: Iterable[int], num_heads: int, d: int, head_size: int | None = None
) -> dict[int, Fit]:
    return {block: random_fit(num_heads, d, head_size=head_size, seed=block) for block in blocks}


def export_with_any(
    source: Path, spec: Any, output: Path, *, variant: str = "identity", layout: str = "auto"
) -> Export:
    """`surgery.export`, with random fits where the variant needs some."""
    prepared = prepare(source, spec, variant=variant, layout=layout)
    sizes = prepared.plan.dimensions
    fits = random_fits(prepared.plan.fitted, sizes.num_heads, sizes.d, sizes.head_size)
    return write(prepared, output, fitting=Fitting(fits, record_of(fits)))


def load_aligned(path: Path, **options: Any) -> Any:
    """A model whose weights lie in memory of their own.

    Where they lie in a file decides which kernel multiplies a single token, and so the last bit.
    """
    model = load_model(path, **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def record_of(fitted: Iterable[int]) -> CalibrationRecord | None:
    """What a manifest says of such fits; None where there are none."""
    blocks = {block: BlockFit(ridge=1e-4, r2=0.5) for block in fitted}
    if not blocks:
        return None
    return CalibrationRecord(
        sources=[TextSource(name="random numbers")],
        tokens=1,
        window=1,
        sha256="0" * 64,
        blocks=blocks,
    )
