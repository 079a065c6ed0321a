"""Contract: `benchmarks.speed` reports what two models really hold, and speeds with their noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import neox_config, write_checkpoint

from benchmarks.speed import SPEEDS, compare_speed, compute_ratios, summarize_rounds
from surgery import export
from surgery.editing.loading import load_model

ROWS, PROMPT = 2, 12


@pytest.mark.slow
def test_what_is_reported(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", neox_config(torch_dtype="float32"))
    export(base, "0,2", layout="compact", output=tmp_path / "edited")
    asked = {"prompt_tokens": PROMPT, "new_tokens": 3, "batch_size": ROWS, "rounds": 3}
    result = compare_speed(str(base), str(tmp_path / "edited"), device="cpu", **asked)
    for name in ("base", "edited"):
        model = load_model(tmp_path / name)
        output = model(torch.zeros(ROWS, PROMPT, dtype=torch.long), use_cache=True)
        layers = output.past_key_values.layers
        held = [t for layer in layers for t in (layer.keys, layer.values) if t is not None]
        figures = result[name]
        assert figures["parameters"] == sum(p.numel() for p in model.parameters())
        assert figures["cache_bytes"] == sum(t.nbytes for t in held)
        assert figures["peak_memory_bytes"] > 4 * figures["parameters"]
        assert all(len(figures[key]["rounds"]) == 3 for key in SPEEDS)
        assert all(figures[key]["min"] > 0 for key in SPEEDS)
    assert result["ratios"]["cache_bytes"] == 0.5
    assert result["settings"].items() >= {"dtype": "float32", "device": "cpu", **asked}.items()


@pytest.mark.parametrize(("edited", "is_noise"), [((5.0, 6.0, 7.0), False), ((3.0, 9.0, 9), True)])
def test_a_difference_is_noise_where_the_ranges_touch(
    edited: tuple[float, ...], is_noise: bool
) -> None:
    amounts = {"cache_bytes": 0, "parameters": 4, "peak_memory_bytes": 4}
    before, after = (
        {**dict.fromkeys(SPEEDS, summarize_rounds(list(rounds))), **amounts}
        for rounds in ((1.0, 2.0, 4.0), edited)
    )
    ratios = compute_ratios(before, after)
    assert ratios[SPEEDS[0]]["rounds"] == [edited[0], edited[1] / 2, edited[2] / 4]
    assert ratios[SPEEDS[0]]["within_noise"] is is_noise
    assert (ratios["parameters"], ratios["cache_bytes"]) == (1, None)
