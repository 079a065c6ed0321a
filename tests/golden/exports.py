"""What exports write: the SHA-256 of each weight file, and config.json, for each case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fits import record_of

from surgery.exporting import write
from surgery.preparing import Fitting, prepare
from surgery.variants import Fit

from .models import read, write_model

LABS = ("lab:pythia", "lab:gpt-neo")
COMPACT = ("gpt_neox", "gpt_neo", *LABS)
FULL = ("gpt_neox", "gpt_neo", "llama-full", "qwen2-full", "phi-full", *LABS)
"""Models in which no two heads share keys and values."""
REFUSED = ("gpt_neo", "lab:gpt-neo", "gemma2")
"""Models in whose unchanged architecture no token can attend to itself alone."""
IN_FORMATS = ("gpt_neox", "llama", "qwen3")
VARIANTS = ("identity", "zero", "mean", "linear")


def list_cases() -> Iterator[str]:
    """`MODEL SPEC VARIANT LAYOUT [DTYPE] [SHARDS]`."""
    kinds = [*LABS, *read("models.json")]
    for kind in kinds:
        for variant in VARIANTS:
            layouts = ("stock", "compact") if kind in COMPACT else ("stock",)
            for layout in layouts:
                if layout == "stock" and variant in ("identity", "linear") and kind in REFUSED:
                    continue
                yield f"{kind} 1 {variant} {layout}"
            heads = variant == "zero" or kind in FULL
            if heads and (variant == "zero" or kind not in REFUSED):
                yield f"{kind} 1.0 {variant} stock"
    for kind in IN_FORMATS:
        for dtype in ("bfloat16", "float16"):
            for variant in VARIANTS:
                yield f"{kind} 0-1 {variant} stock {dtype}"
    for kind in IN_FORMATS:
        yield f"{kind} 0,2 identity stock float32 3"
        yield f"{kind} last:2 zero stock bfloat16 2"


def random_fit(heads: int, size: int, d: int, seed: int) -> Fit:
    """Maps as good as any to store."""
    draw = np.random.RandomState(seed).standard_normal
    return Fit(
        mean=draw((heads, size)).astype(np.float32),
        weight=(draw((heads, size, d)) * d**-0.5).astype(np.float32),
        bias=draw((heads, size)).astype(np.float32),
        ridge=1e-4,
        r2=0.5,
    )


def export(case: str, folder: Path) -> dict[str, Any]:
    """Exports one case into a folder, and returns what it wrote; or the error."""
    kind, spec, variant, layout, *how = case.split()
    dtype, shards = [*how, "float32", "1"][:2] if len(how) != 1 else [*how, "1"]
    source = kind if kind in LABS else write_model(folder / "source", kind, dtype, int(shards))
    prepared = prepare(source, spec, variant=variant, layout=layout)
    sizes = prepared.plan.dimensions
    fits = {
        block: random_fit(sizes.num_heads, sizes.head_size, sizes.d, block)
        for block in prepared.plan.fitted
    }
    out = folder / "out"
    write(prepared, out, fitting=Fitting(fits, record_of(fits)))
    weights = sorted(out.glob("*.safetensors"))
    return {
        "weights": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in weights},
        "config": json.loads((out / "config.json").read_text()),
    }
