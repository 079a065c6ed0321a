"""Contract: lm-eval itself runs on a result, stock and compact, and scores it as the reference.

The command `lm_eval` runs in its own process, offline, on a task file made here; the reference is
the source model short-circuited in memory, scored through lm-eval's Python API.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from local_tasks import write_tasks

import surgery
from evals.lab import find_lab_folder
from surgery.loading import load_model, load_tokenizer

pytestmark = pytest.mark.slow

BLOCKS = "3,5"
TASK = "local_continuation"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def run_lm_eval(model: Path, task: Path, output: Path, **model_args: Any) -> dict[str, float]:
    arguments = {"pretrained": model, "dtype": "float32", **model_args}
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf"),
        *("--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())),
        *("--tasks", TASK, "--include_path", str(task)),
        *("--device", "cpu", "--batch_size", "2", "--output_path", str(output)),
    ]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(output / "home")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = output.rglob("results*.json")
    scores = json.loads(results.read_text())["results"][TASK]
    return {name: scores[f"{name},none"] for name in ("perplexity", "acc")}


def reference(model: Any, task: Path, tokenizer: Any) -> dict[str, float]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2),
        tasks=[TASK],
        task_manager=TaskManager(include_path=str(task)),
        bootstrap_iters=0,
    )
    scores = results["results"][TASK]
    return {name: scores[f"{name},none"] for name in ("perplexity", "acc")}


@pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of their own affairs
@pytest.mark.parametrize(
    ("lab", "variant", "layout"),
    [
        ("pythia", "identity", "stock"),
        ("pythia", "identity", "compact"),
        ("gpt-neo", "zero", "stock"),
        ("gpt-neo", "identity", "compact"),
    ],
)
def test_command_scores_an_export_as_the_reference(
    lab: str, variant: str, layout: str, task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    surgery.export(find_lab_folder(lab), BLOCKS, output=out, variant=variant, layout=layout)
    remote = {"trust_remote_code": True} if layout == "compact" else {}
    scores = run_lm_eval(out, task, tmp_path / "results", **remote)

    model = load_model(find_lab_folder(lab)).float()
    tokenizer = load_tokenizer(find_lab_folder(lab))
    with surgery.short_circuit(model, BLOCKS, variant):
        expected = reference(model, task, tokenizer)
    assert scores["acc"] == expected["acc"]
    # one rounding of a float16 checkpoint's product is all that compact may differ by
    tolerance = 1e-2 if (lab, layout) == ("pythia", "compact") else 1e-5
    assert scores["perplexity"] == pytest.approx(expected["perplexity"], rel=tolerance)
    assert reference(model, task, tokenizer) != expected
