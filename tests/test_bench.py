"""Contract: `compare_speed` reports what the two models really hold, and speeds with their noise.

Parameters and cache bytes equal those counted here on the loaded models; ratios follow from the
rounds; a difference is named only where the ranges of the rounds do not touch; the models run
under the same settings; every mistake is one line. How fast a model is, no test says.
"""

from __future__ import annotations

import re
import sys
import threading
import time
import weakref
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from checkpoints import neo_config, neox_config, write_checkpoint
from command_line import attn_surgery, running
from hypothesis import given
from hypothesis import strategies as st

from cli.terminal import name_options
from evals.measure import speed
from evals.measure.speed import SPEEDS, _compute_ratios, _load, _summarize_turns, compare_speed
from surgery import export
from surgery.editing.loading import has_arithmetic, load_model
from surgery.errors import MeasurementError
from surgery.hub.finding import find_model

ROWS, PROMPT, NEW = 2, 12, 3
SMALL = ["--prompt-tokens", PROMPT, "--new-tokens", NEW, "--batch-size", ROWS, "--rounds", 3]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A GPT-NeoX base, and the same with two of four blocks edited in both layouts."""
    folder = tmp_path_factory.mktemp("bench")
    base = write_checkpoint(folder / "base", neox_config(torch_dtype="float32"))
    found = {"base": base}
    for layout in ("stock", "compact"):
        export(base, "0,2", layout=layout, output=folder / layout)
        found[layout] = folder / layout
    return found


def counted(folder: Path) -> tuple[int, int]:
    """Parameters of the loaded model, and bytes of its cache after the prompt."""
    model = load_model(folder)
    output = model(torch.zeros(ROWS, PROMPT, dtype=torch.long), use_cache=True)
    layers = output.past_key_values.layers
    held = [t for layer in layers for t in (layer.keys, layer.values) if t is not None]
    return sum(p.numel() for p in model.parameters()), sum(t.nbytes for t in held)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["stock", "compact"])
def test_what_is_reported(models, layout) -> None:
    outcome = attn_surgery(
        "bench", models["base"], models[layout], *SMALL, "--json", "--device", "cpu"
    )
    assert outcome.code == 0, outcome
    result = outcome.json
    for part, name in (("base", "base"), ("edited", layout)):
        figures = result[part]
        assert figures["model"] == name  # a folder by its name, never by its path
        assert (figures["parameters"], figures["cache_bytes"]) == counted(models[name])
        assert figures["peak_memory_bytes"] > 4 * figures["parameters"]
        for key in SPEEDS:
            rounds = figures[key]["rounds"]
            assert len(rounds) == 3
            assert figures[key]["min"] == min(rounds) > 0
            assert figures[key]["max"] == max(rounds)
            assert figures[key]["median"] == sorted(rounds)[1]
    bytes_per_block = 2 * ROWS * PROMPT * 64 * 4  # keys and values of d 64 in float32
    assert result["base"]["cache_bytes"] == 4 * bytes_per_block
    left = {"stock": 4, "compact": 2}[layout]
    assert result["edited"]["cache_bytes"] == left * bytes_per_block
    assert result["ratios"]["cache_bytes"] == left / 4
    assert (result["ratios"]["parameters"] < 1) is (layout == "compact")
    settings = result["settings"]
    assert (settings["batch_size"], settings["prompt_tokens"], settings["new_tokens"]) == (2, 12, 3)
    assert (settings["dtype"], settings["device"], settings["rounds"]) == ("float32", "cpu", 3)


@pytest.mark.slow
def test_for_people_and_for_gpt_neo(tmp_path) -> None:
    base = write_checkpoint(tmp_path / "base", neo_config())
    export(base, "last:1", layout="compact", output=tmp_path / "edited")
    outcome = attn_surgery("bench", base, tmp_path / "edited", *SMALL, "--device", "cpu")
    assert outcome.code == 0, outcome
    heading, *lines = outcome.stdout.splitlines()
    assert heading.startswith("2 rows of 12 prompt and 3 new tokens, float32 on cpu")
    rows = (re.split(" {2,}", line.strip(), maxsplit=1) for line in lines if "  " in line.strip())
    figures = {label: figures.split() for label, figures in rows}
    assert figures["key/value cache"][-1] == "0.750"
    assert len(figures["prefill, tokens/s"]) >= 9
    assert set(figures) >= {"decode, tokens/s", "parameters", "peak memory"}


@given(st.lists(st.tuples(*[st.floats(1, 100)] * 2), min_size=3, max_size=6))
def test_ratios_follow_from_the_rounds(pairs) -> None:
    columns = [list(column) for column in zip(*pairs, strict=True)]
    amounts = {"cache_bytes": 4, "parameters": 4, "peak_memory_bytes": 4}
    base, edited = (
        {**dict.fromkeys(SPEEDS, _summarize_turns(column)), **amounts} for column in columns
    )
    ratios = _compute_ratios(base, edited)
    for key in SPEEDS:
        assert ratios[key]["rounds"] == [after / before for before, after in pairs]
        touching = max(columns[0]) >= min(columns[1]) and max(columns[1]) >= min(columns[0])
        assert ratios[key]["within_noise"] is touching
    assert ratios["parameters"] == 1.0
    assert _compute_ratios({**base, "cache_bytes": 0}, edited)["cache_bytes"] is None


def test_the_prompt_must_fit(models) -> None:
    """What the process of a model does first, here in this one."""
    asked = {"prompt_tokens": 256, "new_tokens": 64, "batch_size": 1}
    with pytest.raises(MeasurementError) as caught:
        _load(find_model(str(models["base"])), "auto", "cpu", asked)
    assert name_options(str(caught.value), running("bench")) == (
        "prompt and new tokens do not fit the model (expected at most 256 together, "
        "got 256 + 64); ask for fewer --prompt-tokens or --new-tokens"
    )


def test_a_turn_holds_one_cache_at_a_time_and_decodes_from_a_new_one(monkeypatch) -> None:
    """Else the peak of memory would be of more, and copies would count as decoding."""

    class Cache:
        def __deepcopy__(self, memo: object) -> None:
            raise AssertionError("a copy takes time and memory")

    class Running:
        prompt, new_tokens = torch.zeros(ROWS, PROMPT), NEW

        def __init__(self) -> None:
            self.caches, self.decoded = list[weakref.ref[Cache]](), list[int]()

        def prefill(self) -> tuple[Cache, None]:
            assert all(cache() is None for cache in self.caches)
            time.sleep(0.01)
            cache = Cache()
            self.caches.append(weakref.ref(cache))
            return cache, None

        def decode(self, cache: Cache, token: None) -> None:
            self.decoded.append(id(self.caches[-1]))
            assert self.caches[-1]() is cache
            time.sleep(0.02)

    running = Running()
    monkeypatch.setattr(speed, "_running", running, raising=False)
    monkeypatch.setattr(speed, "SHORTEST", 0.1)
    found = speed._take_turn()
    assert len(running.decoded) == len(set(running.decoded)) >= 3
    assert len(running.caches) - len(running.decoded) >= 5
    assert 0 < found["prefill_tokens_per_second"] <= ROWS * PROMPT / 0.01
    assert 0 < found["decode_tokens_per_second"] <= ROWS * NEW / 0.02
    assert found["peak_memory_bytes"] > 0


def test_mistakes_are_found_before_anything_runs(models, tmp_path) -> None:
    outcome = attn_surgery("bench", models["base"], tmp_path / "none" / "such", "--json")
    outcome.assert_error(str(tmp_path / "none" / "such"))
    with pytest.raises(MeasurementError, match="too few rounds to know the noise"):
        compare_speed(str(models["base"]), str(models["base"]), rounds=2)
    few = attn_surgery("bench", models["base"], models["base"], "--rounds", 2)
    assert few.code == 2
    assert "'--rounds': 2 is not in the range x>=3" in few.stderr


def test_a_device_that_is_not_there(models, monkeypatch) -> None:
    """It is looked for before any process starts."""
    monkeypatch.setattr("evals.measure.speed._start_processes", None)
    outcome = attn_surgery("bench", models["base"], models["base"], "--device", "cuda:99")
    outcome.assert_error("--device: no such device (got cuda:99")


@pytest.mark.slow
@pytest.mark.skipif(
    not has_arithmetic(torch.bfloat16, torch.device("cpu")), reason="both would run in float32"
)
def test_the_same_precision_or_none(models, tmp_path) -> None:
    other = write_checkpoint(tmp_path / "other", neox_config(torch_dtype="bfloat16"))
    outcome = attn_surgery("bench", models["base"], other, *SMALL, "--device", "cpu")
    outcome.assert_error(
        "the models would run in different precisions (expected float32, as the baseline, got "
        "bfloat16 for other); choose one with --dtype"
    )


def test_an_interruption_does_not_wait_for_what_is_measured(models) -> None:
    found = [find_model(models[name]) for name in ("base", "stock")]
    begun = time.monotonic()
    waiting: threading.Thread

    def measure() -> None:
        nonlocal waiting
        with speed._start_processes(found) as ask:
            waiting = threading.Thread(target=lambda: suppress_all(ask, 0, time.sleep, 600))
            waiting.start()
            time.sleep(3)  # until it sleeps
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure()
    waiting.join(timeout=60)
    assert not waiting.is_alive()
    assert time.monotonic() - begun < 120


def suppress_all(ask: Any, *work: Any) -> None:
    with suppress(MeasurementError):
        ask(*work)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_process_that_dies_is_an_error_and_the_other_ends(models) -> None:
    resource_tracker.ensure_running()  # a process of Python's own
    ours = psutil.Process()
    before = set(ours.children())

    def kill_one(_: int) -> None:
        (set(ours.children()) - before).pop().kill()

    with pytest.raises(MeasurementError, match="the process that ran the model ended"):
        compare_speed(
            str(models["base"]),
            str(models["stock"]),
            prompt_tokens=PROMPT,
            new_tokens=NEW,
            device="cpu",
            advance=kill_one,
        )
    assert set(ours.children()) <= before
