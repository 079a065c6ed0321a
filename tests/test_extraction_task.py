"""The lm-eval task finds what `extract` finds, row by row, through plain `lm_eval`.

The command `lm_eval` runs in its own process with `--include_path`, offline; its exact match and
NLL are those of `extract` on the same rows. Rows that text cannot carry are left out by rule,
counted, and never scored otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reciting import generate
from tiny_tokenizer import TEXT, tiny_model, tiny_tokenizer

from evals.data import Samples, load_samples
from evals.measure.memorization.extraction import extract
from evals.run.lm_eval.tasks import INCLUDE_PATH
from evals.tasks.extraction.passages import load, make_documents, score
from surgery.errors import SamplesError

PREFIX, SUFFIX = 6, 5


@pytest.fixture(scope="module")
def recited(tmp_path_factory) -> tuple[Path, Path]:
    """A model folder and samples of it: prefixes from a text, suffixes the model's own or altered.

    Suffixes are drawn until their text keeps their tokens, but for two rows that cannot.
    """
    import torch

    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    model = tiny_model()
    model.save_pretrained(folder)
    ids = tokenizer(TEXT)["input_ids"]
    rows = []
    for start in range(60):
        prefix = ids[start : start + PREFIX]
        said = generate(model, torch.tensor([prefix]), SUFFIX)[0].tolist()
        if start % 3 == 0:
            said = ids[start + PREFIX : start + PREFIX + SUFFIX]
        text = tokenizer.decode(prefix)
        keeps = tokenizer.encode(tokenizer.decode(prefix + said)) == prefix + said
        if keeps and text == text.rstrip() and tokenizer.encode(text) == prefix:
            rows.append({"id": f"row-{start}", "tokens": prefix + said})
        elif sum(row["id"].startswith("torn") for row in rows) < 2:
            rows.append({"id": f"torn-{start}", "tokens": prefix + said})
    samples = folder / "samples.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, samples


def lm_eval(folder: Path, metadata: dict | None, tmp_path: Path, **environment: str) -> dict:
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf"),
        *("--model_args", f"pretrained={folder},dtype=float32", "--device", "cpu"),
        *("--tasks", "discoverable_extraction", "--include_path", str(INCLUDE_PATH)),
        *("--batch_size", "8", "--output_path", str(tmp_path), "--log_samples"),
    ]
    if metadata is not None:
        command += ["--metadata", json.dumps(metadata)]
    done = subprocess.run(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logged = next(tmp_path.rglob("samples_*.jsonl")).read_text().splitlines()
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]
    return {"rows": list(map(json.loads, logged)), **results["discoverable_extraction"]}


@pytest.mark.slow
@pytest.mark.parametrize("by_environment", [False, True])
def test_lm_eval_and_extract_agree_row_by_row(recited, tmp_path, by_environment):
    from surgery.loading import load_model

    folder, source = recited
    metadata = {"samples": str(source), "prefix_length": PREFIX, "suffix_length": SUFFIX}
    environment = {}
    if by_environment:
        environment["ATTN_SURGERY_SAMPLES"] = str(metadata.pop("samples"))
    theirs = lm_eval(folder, metadata, tmp_path, **environment)
    samples = load_samples(str(source), prefix_length=PREFIX, suffix_length=SUFFIX)
    kept = np.asarray([name.startswith("row") for name in samples.ids])
    ours = extract(load_model(folder, dtype="float32"), samples.select(kept))

    rows = {row["doc"]["id"]: row for row in theirs["rows"]}
    assert sorted(rows) == sorted(ours.samples.ids)
    assert [rows[name]["exact_match"] == 1.0 for name in ours.samples.ids] == ours.exact.tolist()
    nll = [rows[name]["suffix_nll"] for name in ours.samples.ids]
    np.testing.assert_allclose(nll, ours.nll, rtol=1e-4)
    assert theirs["exact_match,none"] == pytest.approx(ours.exact.mean())
    assert 0 < ours.exact.sum() < len(rows)
    assert theirs["rows_left_out,none"] == 2


def samples_of(rows: list[list[int]], members: list[bool] | None = None) -> Samples:
    return Samples(
        np.asarray(rows, dtype=np.int32),
        PREFIX,
        tuple(map(str, range(len(rows)))),
        "made here",
        members=None if members is None else np.asarray(members),
    )


def test_only_rows_that_text_can_carry():
    tokenizer = tiny_tokenizer()
    ids = tokenizer(TEXT)["input_ids"]
    good = ids[: PREFIX + SUFFIX]
    torn = [*good]
    space = tokenizer.encode("\n")
    torn[PREFIX - 1 : PREFIX] = space  # the prefix ends in white space
    found = make_documents(samples_of([good, torn]), tokenizer)
    assert [(row["id"], row["left_out"], row["length"]) for row in found] == [("0", 1, SUFFIX)]
    assert found[0]["prefix"] + found[0]["suffix"] == tokenizer.decode(good)
    with pytest.raises(SamplesError) as error:
        make_documents(samples_of([torn]), tokenizer)
    assert str(error.value) == "made here: no passage keeps its tokens as text"


def test_non_members_are_not_documents():
    good = tiny_tokenizer()(TEXT)["input_ids"][: PREFIX + SUFFIX]
    found = make_documents(samples_of([good, good], [False, True]), tiny_tokenizer())
    assert [row["id"] for row in found] == ["1"]


def test_scores():
    assert score({"length": 4, "left_out": 0}, [(-2.0, True)]) == {
        "exact_match": 1.0,
        "suffix_nll": 0.5,
        "rows_left_out": 0,
    }


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.delenv("ATTN_SURGERY_SAMPLES", raising=False)
    with pytest.raises(SamplesError) as error:
        load(pretrained="anything")
    assert str(error.value) == (
        "discoverable_extraction: the task needs samples; give --metadata "
        """'{"samples": "…"}' or ATTN_SURGERY_SAMPLES"""
    )
