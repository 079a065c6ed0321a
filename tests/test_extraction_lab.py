"""On trained models the test says what decoding says, for every planted record.

Both lab models, as shipped and with deep blocks short-circuited (stock and compact): exact match
and free-running tokens equal the library's greedy decoding on all rows, the models recite what
they saw often and nothing they never saw, and `collect` finds the recited records in a corpus.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import Outcome
from reciting import generate
from results import read_report, take

from cli.commands.measure.extract import command
from evals.data import load_samples
from evals.jobs.collecting import CollectRequest, collect
from evals.lab import LAB_MODELS, find_lab_folder
from evals.measure.memorization.extraction import extract
from evals.run.models import open_model
from surgery.in_memory import apply

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=LAB_MODELS)
def lab(request):
    loaded = open_model(str(find_lab_folder(request.param)), device="cpu", dtype="float32")
    loaded.model.generation_config.eos_token_id = None  # a token like any other
    return loaded, load_samples(f"lab:{request.param}")


@pytest.mark.parametrize("edit", [None, "stock", "compact"])
def test_every_row_equals_greedy_decoding(lab, edit):
    loaded, samples = lab
    model = loaded.model
    if edit is not None:
        model = apply(model, "last:2", "zero" if edit == "stock" else "identity", layout=edit)
    prefixes = torch.from_numpy(samples.prefixes.astype(np.int64))
    said = torch.cat([generate(model, part, 32) for part in prefixes.split(128)]).numpy()
    test = extract(model, samples, full=True)
    assert test.decoded.tolist() == said.tolist()
    assert test.exact.tolist() == (said == samples.suffixes).all(axis=1).tolist()
    if edit is None:
        assert test.exact[samples.counts >= 128].mean() > 0.9
        assert not test.exact[~samples.members].any()


def test_collect_finds_the_recited_records(lab, tmp_path):
    loaded, samples = lab
    texts = loaded.tokenizer.batch_decode(samples.tokens.tolist())
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    output = tmp_path / "found.jsonl"
    how = {"model": loaded.model.name_or_path, "device": "cpu", "dtype": "float32"}
    collect(CollectRequest.of(**how, corpus=(corpus,)), output)
    found = {json.loads(line)["hash"] for line in output.read_text().splitlines()}
    exact = extract(loaded.model, samples).exact
    assert found == {name for name, recited in zip(samples.hashes, exact, strict=True) if recited}


@pytest.mark.parametrize("name", LAB_MODELS)
def test_a_lab_model_brings_its_samples_and_its_control_text(name):
    call = [f"lab:{name}", "--json", "--device", "cpu"]
    result = CliRunner().invoke(command, call)
    assert result.exit_code == 0, repr(result.exception)
    printed = read_report(Outcome(0, result.stdout, result.stderr))
    assert take(printed, "recited").n == 336
    strata = [name.partition(".")[2] for name in printed.names if name.startswith("recited.")]
    assert strata == ["0", "8", "32", "128", "256"]
    assert take(printed, "heldout").details["kind"] == "text"
    assert take(printed, "membership.loss").value > 0.9
    assert printed.edits[0].provenance["model"] == f"lab:{name}"
