"""Times matrix products in each number format on one core: python -m benchmarks.number_formats

What a format takes, relative to float32, decides in which dtype models are measured on a CPU
(`surgery.editing.loading.has_arithmetic`).
"""

from __future__ import annotations

import torch
from torch.utils.benchmark import Timer

SHAPES = (768, 576, 576), (768, 576, 1536)
"""Tokens, inputs, outputs: 768 tokens through projections of a model of 135M parameters."""


def main() -> None:
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for shape in SHAPES:
        seconds = {}
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            tokens = torch.randn(shape[:2]).to(dtype)
            weight = torch.randn(shape[1:]).to(dtype)
            timer = Timer("tokens @ weight", globals={"tokens": tokens, "weight": weight})
            seconds[dtype] = timer.blocked_autorange(min_run_time=0.5).median
        ratios = (f"{dtype} {took / seconds[torch.float32]:.1f}" for dtype, took in seconds.items())
        print(f"{shape}: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
