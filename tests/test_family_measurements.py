"""Contract: everything that measures a model works on every family, and measures what is exported.

Groups of heads, head sizes of their own, windows, norms of queries and keys, norms after attention:
passes are taken up at any block, edits measured, fitted, and estimated, with the numbers that the
library's own pass gives. Every command runs on one folder of each family.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Outcome, attn_surgery
from decoders import (
    BLOCKS,
    CONFIGS,
    HEADS,
    MORE,
    SIZE,
    few_first,
    write_decoder,
)
from grids import find_edit, read_search, read_sweep, take, value
from hub_commands import TOKEN, session
from hub_uploads import UploadHub
from local_tasks import write_tasks
from reciting import generate, members_and_others, recited_rows, write_rows
from tiny_tokenizer import TEXT, tiny_tokenizer
from torch.nn import functional

from evals.choose.sweep.opened import list_edits
from evals.choose.sweep.report import SweepResult
from evals.choose.sweep.request import SweepRequest
from evals.choose.units import list_units
from evals.data import Samples
from evals.measure.edits.engine import Engine
from evals.measure.memorization.extraction import extract
from evals.run.resuming import run_from_block, run_tokens
from surgery.fitting.calibration import Calibration
from surgery.fitting.fitter import Fitter
from surgery.in_memory import Editable, short_circuit
from surgery.loading import load_model
from surgery.record.measured import Measured, On, Scalar
from surgery.record.report import Report
from surgery.selection import EditedHeads, Selection, parse_selection
from surgery.variants import VARIANTS

KINDS = tuple(CONFIGS)
TOKENS = np.random.default_rng(0).integers(0, 128, (20, 24), dtype=np.int32)
PREFIX, SUFFIX = 6, 5
LENGTHS = ("--prefix-length", PREFIX, "--suffix-length", SUFFIX, "--device", "cpu")
OTHERS = [kind if kind == "llama" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="session", params=few_first([*KINDS, *MORE]))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("measured")
    return load_model(write_decoder(folder / request.param, request.param, eos_token_id=None))


def edit_of(spec: str, variant: str) -> Selection:
    return parse_selection(spec, variant, BLOCKS, HEADS)


def modules_of(model: Any, block: int) -> tuple[Any, Any]:
    """The projections that read x and z."""
    attention = model.model.layers[block].self_attn
    output = attention.o_proj if hasattr(attention, "o_proj") else attention.dense
    return attention.v_proj, output


@torch.inference_mode()
def test_a_pass_is_taken_up_at_any_block(model: Any) -> None:
    tokens = torch.from_numpy(TOKENS[:3].astype(np.int64))
    whole = run_tokens(model, tokens, keep=range(BLOCKS + 1))
    assert torch.equal(whole.hidden, model.base_model(tokens).last_hidden_state)
    last = getattr(model.model, "norm", None) or model.model.final_layernorm
    assert torch.equal(last(whole.inputs[BLOCKS]), whole.hidden)
    for block in range(BLOCKS):
        run = run_from_block(model, block, whole.inputs[block], keep=range(block, BLOCKS + 1))
        assert torch.equal(run.hidden, whole.hidden)
        assert torch.equal(run.inputs[BLOCKS], whole.inputs[BLOCKS])
    assert torch.equal(whole.hidden, model.base_model(tokens).last_hidden_state)


def random_samples(rows: int = 6, prefix: int = 8) -> Samples:
    return Samples(TOKENS[:rows], prefix, tuple(map(str, range(rows))), "random rows")


def test_edits_are_measured_as_they_are(model: Any) -> None:
    samples = random_samples()
    engine = Engine(model, samples, TOKENS[6:10], batch_size=4)
    edits = [edit_of(spec, "zero") for spec in ("1", "2.3", "0.2-3,2")]
    if Editable(model).find_refusal(edit_of("0,2", "identity")) is None:
        edits.append(edit_of("0,2", "identity"))
    ids = torch.from_numpy(samples.tokens.astype(np.int64))
    for edit, measured in zip(edits, engine.measure(edits), strict=True):
        with short_circuit(model, edit), torch.no_grad():
            logits = model(ids).logits[:, 7:-1]
        nll = functional.cross_entropy(logits.flatten(0, 1), ids[:, 8:].flatten(), reduction="none")
        np.testing.assert_allclose(measured.nll, nll.view(6, -1).mean(-1), rtol=1e-5)
        assert measured.heldout_kl.min() > 0


def test_rows_are_decoded_as_the_library_decodes_them(model: Any) -> None:
    """Also beyond a sliding window, where the library's own cache has dropped what was passed."""
    samples = random_samples(8, prefix=14)
    tokens = samples.tokens.copy()
    prefix = torch.from_numpy(tokens[:, :14].astype(np.int64))
    said = generate(model, prefix, 10).numpy()
    tokens[:, 14:] = said
    for row in range(1, 8):  # row 0 stays exact
        place = 14 + row
        tokens[row, place] = (tokens[row, place] + 5) % 128
    altered = Samples(tokens, 14, samples.ids, "made here")
    found = extract(model, altered, full=True, batch_size=8)
    assert found.exact.tolist() == [True] + 7 * [False]
    np.testing.assert_array_equal(found.decoded, said)


def test_context_vectors_are_fitted(model: Any) -> None:
    if Editable(model).find_refusal(edit_of("1", "linear")) is not None:
        pytest.skip("such attention cannot be linear")
    windows = np.random.default_rng(1).integers(0, 128, (40, 64), dtype=np.int32)
    fitter = Fitter(model, Calibration(windows, (), spread=False))
    seen: list[torch.Tensor] = []
    _, output = modules_of(model, 1)
    hook = output.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        for rows in np.split(windows, 4):
            model(torch.from_numpy(rows.astype(np.int64)))
    hook.remove()
    d = model.config.hidden_size
    fit = fitter.fit([EditedHeads(1, tuple(range(HEADS)), "linear")])[1]
    assert fit.weight is not None
    assert fit.weight.shape == (HEADS, SIZE, d)
    assert fit.r2 is not None
    mean = torch.cat(seen).flatten(0, 1).mean(0).view(HEADS, SIZE)
    np.testing.assert_allclose(fit.mean, mean, atol=1e-4)


# --- what is offered ------------------------------------------------------------------------------


def test_groups_are_units_of_a_search_and_of_a_sweep() -> None:
    pieces = [part.heads for part in list_units(1, 4, "mixed", ["zero"], 2)]
    assert pieces == [(0, 1, 2, 3), (0, 1), (2, 3), (0,), (1,), (2,), (3,)]
    assert [part.heads for part in list_units(1, 2, "heads", ["zero"])] == [(0,), (1,)]
    assert [part.heads for part in list_units(1, 2, "mixed", ["zero"], 1)] == [(0, 1), (0,), (1,)]
    request = SweepRequest.of(model="m", samples="s", heads=True)
    found = {s[0].heads: kind for s, kind in list_edits(1, 4, ["zero"], request, 2).items()}
    assert found.pop((0, 1, 2, 3)) == "block"
    assert found == {
        **dict.fromkeys([(0, 1), (2, 3)], "group"),
        **dict.fromkeys([(0,), (1,), (2,), (3,)], "head"),
    }


# --- commands -------------------------------------------------------------------------------------


class Bed:
    """A tiny model that recites most of 30 passages, with texts and benchmarks, in one folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, tokenizer = folder, tiny_tokenizer()
        self.model = write_decoder(
            folder / "model", kind, vocab_size=len(tokenizer), eos_token_id=None
        )
        tokenizer.save_pretrained(self.model)
        model = load_model(self.model)
        self.samples = write_rows(folder / "samples.jsonl", members_and_others(model))
        texts = {tokenizer.decode(row["tokens"]): row["tokens"] for row in recited_rows(model, 40)}
        kept = [{"text": text} for text, ids in texts.items() if tokenizer.encode(text) == ids]
        self.recited = write_rows(folder / "recited.jsonl", kept)
        self.text = folder / "text.txt"
        self.text.write_text(TEXT * 8)
        self.calibration = folder / "calibration.txt"
        words = np.random.default_rng(0).choice(TEXT.split(), 9_000)
        self.calibration.write_text(" ".join(words))
        self.tasks = write_tasks(folder / "tasks")

    def run(self, command: str, model: Path, *options: object) -> Outcome:
        done = attn_surgery(command, model, *options)
        assert done.code == 0, done.stderr
        return done

    def extract(self, model: Path) -> Report:
        more = ("--samples", self.samples, "--metrics", "full", "--control", self.text, "--json")
        return Report.model_validate(self.run("extract", model, *more, *LENGTHS).json)

    def sweep(self, *options: object) -> SweepResult:
        texts = (
            "--corpus",
            self.text,
            "--calibration",
            self.calibration,
            "--samples",
            self.samples,
        )
        return read_sweep(self.run("sweep", self.model, *texts, *LENGTHS, *options, "--json"))


def read(report: Report, name: str, of: str = "edited") -> Measured:
    """A figure that must be there."""
    row = report.find(name, of)
    assert row is not None, (name, of)
    return row


def count(report: Report, name: str = "recited", of: str = "edited") -> Scalar:
    return read(report, name, of).details["count"]


@pytest.fixture(scope="module", params=OTHERS)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return Bed(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.slow
def test_a_sweep_gives_the_figures_of_exported_models(bed: Bed, tmp_path: Path) -> None:
    swept = bed.sweep("--heads", "--estimate", "--variant", "zero", "--variant", "linear")
    assert take(swept, "recited").details["count"] == 24
    specs = {(edit.spec, edit.variant) for edit in swept.edits}
    assert {(one.spec, one.variant) for one in swept.estimates} >= {
        (edit.spec, edit.variant) for edit in swept.edits if edit.kind != "last"
    }
    for edit in swept.edits:
        assert value(swept, "kl", edit.of) > 0, edit.spec
        assert value(swept, "estimated_kl", edit.of) > 0
    asked = [("1", "linear"), ("1.2-3", "linear"), ("2.1", "zero")]
    for spec, variant in [pair for pair in asked if pair in specs]:
        out = tmp_path / f"{spec}-{variant}"
        fitted = ("--calibration", bed.calibration) if variant == "linear" else ()
        named = ("--drop-attn", spec, "--variant", variant, *fitted, "--output", out)
        bed.run("export", bed.model, *named)
        alone = bed.extract(out)
        of = find_edit(swept, spec, variant).of
        for name in ("recited", "next_token_accuracy"):
            assert value(swept, name, of) == read(alone, name).value
        loss = value(swept, "suffix_nll", of)
        assert loss == pytest.approx(read(alone, "suffix_nll").value, rel=1e-6)
        assert bed.run("verify", out, "--source", bed.model, "--json").json["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("bed", ["llama", "olmo3"], indirect=True)
def test_a_sweep_of_everything_is_drawn(bed: Bed, tmp_path: Path) -> None:
    tasks = ("--tasks", "local_choice", "--include-path", bed.tasks)
    swept = bed.sweep("--heads", "--ranges", *tasks, "--output", tmp_path / "swept")
    assert {edit.kind for edit in swept.edits} == {"block", "last", "range", "group", "head"}
    assert {edit.variant for edit in swept.edits} == set(VARIANTS)
    assert (tmp_path / "swept" / "sweep.png").is_file()


@pytest.mark.parametrize(
    "grain", [pytest.param(grain, marks=pytest.mark.slow) for grain in ("mixed", "blocks", "heads")]
)
def test_a_search_s_plan_is_exported_and_proved(bed: Bed, tmp_path: Path, grain: str) -> None:
    texts = ("--corpus", bed.text, "--calibration", bed.calibration, "--samples", bed.samples)
    goal = ("--max-extraction", 0.4, "--max-evaluations", 12, "--grain", grain)
    done = bed.run(
        "search", bed.model, *texts, *goal, *LENGTHS, "--json", "--output", tmp_path / "found"
    )
    found = read_search(done)
    assert value(found, "recovered.any", found.selected) <= 0.4
    out = tmp_path / "out"
    fitted = ("--calibration", bed.calibration) if found.calibration else ()
    plan = ("--plan", tmp_path / "found" / "plan.json")
    bed.run("export", bed.model, *plan, *fitted, "--output", out)
    assert bed.run("verify", out, "--source", bed.model, "--json").json["ok"]
    rows = {json.loads(line)["id"]: line for line in bed.samples.read_text().splitlines()}
    halves: dict[On, list[str]] = {
        "chosen on": found.chosen_on_ids,
        "held back": found.held_back_ids,
    }
    for on, ids in halves.items():
        some = tmp_path / f"{on[0]}.jsonl"
        some.write_text("".join(rows[name] + "\n" for name in ids))
        done = bed.run("extract", out, "--samples", some, *LENGTHS, "--json")
        recited = read(Report.model_validate(done.json), "recited").value
        assert recited == value(found, "recited", found.selected, on)


@pytest.fixture(scope="module")
def edited(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks without attention, in whatever layout holds them."""
    out = tmp_path_factory.mktemp("edited") / "edited"
    bed.run("export", bed.model, "--drop-attn", "0,2", "--output", out)
    return out


@pytest.mark.usefixtures("few_steps")
def test_an_edited_model_is_measured(bed: Bed, edited: Path, tmp_path: Path) -> None:
    found = bed.extract(edited)
    left = count(found)
    assert isinstance(left, int)
    assert left < 24 == count(bed.extract(bed.model))
    shared = ("--baseline", bed.model, "--samples", bed.samples, "--control", bed.text, *LENGTHS)
    attacks = ("--attack", "greedy", "--attack", "relearn", "--json")
    audited = Report.model_validate(bed.run("audit", edited, *shared, *attacks).json)
    assert count(audited, "recovered.greedy", "base") == 24
    assert count(audited, "recovered.greedy") == left
    assert read(audited, "recovered.relearn").n
    collected = tmp_path / "collected.jsonl"
    bed.run("collect", bed.model, "--corpus", bed.recited, "--output", collected, *LENGTHS)
    done = bed.run("extract", bed.model, "--samples", collected, *LENGTHS, "--json")
    recited = read(Report.model_validate(done.json), "recited")
    assert recited.n
    assert recited.value == 1


def list_tasks(report: Report) -> set[Scalar]:
    """The tasks that a report has figures of."""
    named = (report.names[row.name].details for row in report.figures)
    return {details["task"] for details in named if "task" in details}


@pytest.mark.slow
def test_an_edited_model_is_evaluated(bed: Bed, edited: Path, tmp_path: Path) -> None:
    shared = ("--baseline", bed.model, "--samples", bed.samples, "--control", bed.text, *LENGTHS)
    tasks = ("--tasks", "local_choice,local_whole", "--include-path", bed.tasks)
    out = tmp_path / "evaluated"
    bed.run("evaluate", edited, *shared, *tasks, "--attack", "default", "--output", out)
    report = Report.model_validate_json((out / "report.json").read_text())
    assert list_tasks(report) == {"local_choice", "local_whole"}


@pytest.mark.slow
@pytest.mark.parametrize("bed", ["llama"], indirect=True)
def test_a_model_is_mitigated_and_pushed(bed: Bed, tmp_path: Path) -> None:
    texts = ("--corpus", bed.text, "--calibration", bed.calibration, "--samples", bed.samples)
    tasks = ("--tasks", "local_choice", "--include-path", bed.tasks, "--attack", "quantized:4")
    goal = ("--measure", "greedy", "--max-extraction", 0.4, "--max-evaluations", 12)
    out = tmp_path / "out"
    done = bed.run(
        "mitigate", bed.model, *texts, *LENGTHS, *tasks, *goal, "--output", out, "--json"
    )
    report = Report.model_validate(done.json["report"])
    (edit,) = report.edits
    assert edit.state == "kept"
    assert list_tasks(report) == {"local_choice"}
    assert edit.edit is not None
    assert edit.edit.step.family == "llama"
    assert bed.run("verify", out, "--source", bed.model, "--json").json["ok"]
    with UploadHub() as hub, session(tmp_path, hub.url) as run:
        hub.users[TOKEN] = "me"
        (pushed,) = run("push out me/edited --json", token=TOKEN)
        assert (pushed.code, pushed.err) == (0, "")
        there = hub.repositories["me/edited"].find("main")
        assert there is not None
        listed = json.loads((out / "surgery.json").read_text())["files"]
        for name in ("surgery.json", *(name for name in listed if name != "README.md")):
            assert there.files[name].data == (out / name).read_bytes(), name
