"""Contract: `audit` says what an attacker gets of base, edited model and control, and keeps limits.

Figures follow from the attacks' own flags; a missed limit is exit code 3 with all of the output;
mistakes are one line before a model is loaded; nothing is overwritten unasked; no text is shown.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from command_line import attn_surgery
from reciting import recited_rows, write_rows
from results import compare, count, read_report, take, without_times
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from cli.main import main
from evals.data import Samples
from evals.data.held_back import ChoiceCounts, HeldBack
from evals.jobs.asking import MeasureRequest
from evals.jobs.evaluating import run_measurement
from evals.lab import samples_path
from evals.measure.attacks.attack import UNTRAINED, AttackOutcome, Setting
from evals.measure.attacks.names import make_attack
from evals.measure.attacks.result import Outcomes, measure_outcomes
from evals.measure.attacks.rows import list_recovered
from evals.measure.attacks.trying import AttackPlan, AuditedModel
from evals.measure.naming import name_figures
from evals.run.batching import row_ranges
from evals.run.statistics import bound_share, wilson
from surgery import export
from surgery.card.measurements import Line, show
from surgery.record.measured import Measured, find
from surgery.record.report import Report

LENGTHS = ("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")


@pytest.fixture(scope="module")
def edited(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "edited"
    export("lab:pythia", "4-5", output=folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Every fourth passage of the lab: 84 that the model was trained on, and 15 others."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(samples_path("pythia").read_text().splitlines(keepends=True)[::4]))
    return path


@pytest.fixture(scope="module")
def audited(edited, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited") / "out"
    outcome = attn_surgery(
        *(
            "audit",
            edited,
            "--baseline",
            "lab:pythia",
            "--attack",
            "cheap",
            "--attack",
            "quantized:4",
        ),
        *(
            "--samples",
            rows,
            "--attack",
            "membership",
            "--max",
            "hints:4=0.8",
            "--max",
            "greedy=0.5",
        ),
        *("--output", folder, "--json", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome
    return read_report(outcome), folder


def test_rates_and_intervals(audited) -> None:
    report, _ = audited
    samples = report.samples
    assert samples is not None
    assert (samples.rows, take(report, "recited").n) == (99, 84)
    for name in [name for name in report.names if name.startswith("recovered.")]:
        assert {"setting", "source", "cost"} <= report.names[name].details.keys()
        assert report.names[name].hint
        control = take(report, name, on="never trained on")
        assert control.n == 15
        assert "seconds" in take(report, name).details
        for row in (take(report, name, "base", "all"), take(report, name, on="all"), control):
            hits = row.details["count"]
            assert row.value == hits / row.n
            assert row.ci95 == wilson(hits, row.n)
            assert row.details["bound"] == bound_share(hits, row.n)
            assert row.runs is None, "nothing here trains"
    assert count(report, "greedy") <= count(report, "hints:1") <= count(report, "hints:4")
    assert count(report, "any") >= count(report, "prefix")
    greedy = take(report, "recovered.greedy")
    assert (count(report, "greedy", "base"), greedy.details["count"]) == (63, 0)
    assert greedy.change.lost == 63
    assert count(report, "greedy", on="never trained on") == 0
    names = {one.name for one in report.figures}
    assert [name for name in names if name.startswith("membership.")] == ["membership.loss"]


def test_only_an_edit_is_attacked_on_what_nobody_saw(tmp_path) -> None:
    """What attacks on the base recover there is in no figure, and would take as long again."""
    model = tiny_model()
    save_tiny(tmp_path / "base", model)
    export(tmp_path / "base", "0", output=tmp_path / "edited")
    samples = write_rows(tmp_path / "s.jsonl", recited_rows(model, 12))
    (tmp_path / "text.txt").write_text(TEXT)
    given = {"samples": str(samples), "heldout": (tmp_path / "text.txt",), "device": "cpu"}
    lengths = {"prefix_length": 6, "suffix_length": 5, "attack": ("greedy",)}
    models = {"models": (str(tmp_path / "edited"),), "baseline": str(tmp_path / "base")}
    found = run_measurement(MeasureRequest.of(command="audit", **models, **given, **lengths))
    attacked = {of: {*one.audited.control} for of, one in found.results.items()}
    assert attacked == {"base": set(), "edited": {"greedy"}}


def test_rows_name_what_each_attack_recovers(edited, rows, tmp_path) -> None:
    """By ids and hashes, without text, and in sum what the audit says."""
    call = ("audit", edited, "--baseline", "lab:pythia", "--attack", "any", "--attack", "hints:4")
    call = (*call, "--samples", rows, "--rows", tmp_path / "rows.jsonl")
    outcome = attn_surgery(*call, "--json", "--device", "cpu")
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    known = {one["id"] for one in map(json.loads, rows.read_text().splitlines()) if one["member"]}
    assert {row["id"] for row in found} == known
    assert all(row["counted"] and row["listed"] for row in found)
    keys = {"id", "hash", "counted", "listed", "taught", "recovered_by", "recovered"}
    assert all(row.keys() == keys for row in found)
    for row in found:
        assert row["recovered_by"] == [
            name for name, by in row["recovered"].items() if by["edited"]
        ]
    report = read_report(outcome)
    for attack in ("any", "hints:4"):
        for model in ("base", "edited"):
            flags = [row["recovered"][attack][model] for row in found]
            assert flags.count(True) == count(report, attack, model)
            assert len(flags) == take(report, f"recovered.{attack}", model).n
    attn_surgery(*call).assert_error("rows.jsonl", "--overwrite")
    inside = (*call[:-1], tmp_path / "out" / "rows.jsonl", "--output", tmp_path / "out")
    attn_surgery(*inside).assert_error("lies in the folder of the result", "--rows")


def test_fewer_draws_of_the_edit_count_as_many_of_the_base() -> None:
    """`revive` only reads a base without cuts, so that this can pay for more draws."""
    samples = Samples(np.arange(12, dtype=np.int32).reshape(3, 4), 2, tuple("abc"), "test")
    plan = AttackPlan(samples, samples.tokens, ("revive",))

    def make(draws: int, recovered: bool) -> AuditedModel:
        flags = np.full((draws, 3), recovered)
        outcome = AttackOutcome(flags, np.ones_like(flags))
        return AuditedModel({"revive": outcome}, {}, {"revive": 1.0}, {})

    rows = compare(plan, make(5, True), make(2, False))
    base, edited = (find(rows, "recovered.revive", of) for of in ("base", "edited"))
    assert (base.runs, edited.runs) == (2, 2)
    assert (base.value, edited.value) == (1, 0)


def test_a_row_of_an_attack_in_draws() -> None:
    """Recovered in any draw counts; what the attacker held in all of them is neither."""
    tried = np.array([[True, True, False, True], [True, False, False, True]])
    recovered = np.array([[False, True, True, False], [True, True, True, False]])
    samples = Samples(np.arange(16, dtype=np.int32).reshape(4, 4), 2, tuple("abcd"), "test")
    plan = AttackPlan(samples, samples.tokens, ("relearn", "membership"))
    model = AuditedModel({"relearn": AttackOutcome(recovered, tried)}, {}, {}, {})
    every = np.ones(4, dtype=np.bool_)
    left = HeldBack(every, every, ChoiceCounts(), ~every)
    found = list(list_recovered(plan, {"edited": model}, left))
    assert [row["recovered"] for row in found] == [
        {"relearn": {"edited": told}} for told in (True, True, None, False)
    ]


def test_rows_take_the_setting_that_the_figures_take() -> None:
    """A setting that writes passages which no model saw does not count."""
    strong, weak = Setting("all weights", 1e-3, 20), Setting("all weights", 1e-4, 20)

    def make(nothing: list[int], weakly: list[int], strongly: list[int]) -> AttackOutcome:
        flags = (np.isin(np.arange(3), which) for which in (nothing, weakly, strongly))
        settings = dict(zip((UNTRAINED, weak, strong), flags, strict=True))
        every = np.logical_or.reduce(list(settings.values()))
        return AttackOutcome(every, np.ones(3, dtype=np.bool_), variants=settings)

    samples = Samples(np.arange(12, dtype=np.int32).reshape(3, 4), 2, tuple("abc"), "test")
    plan = AttackPlan(samples, samples.tokens, ("relearn-strongest",))
    model = AuditedModel(
        {"relearn-strongest": make([], [1], [0, 1, 2])},
        {"relearn-strongest": make([], [], [2])},
        {"relearn-strongest": 1.0},
        {},
    )
    every = np.ones(3, dtype=np.bool_)
    left = HeldBack(every, every, ChoiceCounts(), ~every)
    rows = list(list_recovered(plan, {"base": model, "edited": model}, left))
    told = [row["recovered"]["relearn-strongest"]["edited"] for row in rows]
    assert told == [False, True, False]
    figure = find(compare(plan, model, model), "recovered.relearn-strongest")
    assert figure.details["count"] == sum(told)
    part = np.array([True, False, True])  # the others chose the edit
    model = replace(model, passages={"relearn-strongest": make([], [1], [0])}, control={})
    left = HeldBack(part, every, ChoiceCounts(), ~every)
    rows = list(list_recovered(plan, {"base": model, "edited": model}, left))
    told = [row["recovered"]["relearn-strongest"]["edited"] for row in rows]
    assert told == [True, False, False], "the strongest on what the figures count"


def test_edits_that_were_attacked_unlike_say_so() -> None:
    """A figure has one n, of the first edit: where others differ, each says its own."""
    attack, left = make_attack("revive"), np.zeros((5, 4), dtype=np.bool_)
    tried = ~left
    tried[0, 0] = False  # learned again
    few, many = AttackOutcome(left[:1], tried[:1]), AttackOutcome(left, tried)
    once, often = (
        find(measure_outcomes(attack, Outcomes(one, one), "edited", "all"), "recovered.revive")
        for one in (few, many)
    )

    def say(*edits: Measured) -> tuple[str, list[str]]:
        named = name_figures(edits)
        line = Line("recovered.revive", named["recovered.revive"], None, edits)
        report = Report.model_construct(names=named, figures=[])
        return line.named.label, [show(report, line, one).note for one in edits]

    assert say(once, once) == ("recovered by revive, one run", ["", ""])
    assert say(once, often) == (
        "recovered by revive, mean of 1 to 5 runs",
        ["one run, n = 3", "mean of 5 runs, n = 4"],
    )


def test_help_names_every_attack() -> None:
    from evals.measure.attacks.names import FORMS

    shown = attn_surgery("audit", "--help").stdout.partition("--attack")[2].partition("--draws")[0]
    whole = re.sub(r"-\n\s+", "-", shown)  # a line may end at a hyphen
    named = set(re.findall(r"[a-z][a-z-]*", whole))
    assert {name.partition(":")[0] for name in FORMS} <= named


@pytest.mark.slow
def test_a_twin_is_the_yardstick(edited, tmp_path) -> None:
    """An untrained model of the same form never saw the passages."""
    from evals.run.models import open_model

    model = open_model("lab:pythia").model
    twin = type(model)(model.config)
    twin.half().save_pretrained(tmp_path / "twin")
    outcome = attn_surgery(
        *("audit", edited, "--baseline", "lab:pythia", "--attack", "any", "--attack", "hints:4"),
        *("--twin", tmp_path / "twin", "--json", "--device", "cpu"),
    )
    report = read_report(outcome)
    for attack in ("any", "hints:4"):
        rows = [take(report, f"recovered.{attack}", of) for of in ("edited", "twin")]
        after, never = (row.value for row in rows)
        assert never == 0
        above = rows[0].above_twin
        assert above.difference == pytest.approx(after)
        assert above.ci95[0] <= after <= above.ci95[1]
        assert 0 < above.p_value <= 1
    missing = ("--baseline", "lab:pythia", "--twin", tmp_path / "none")
    attn_surgery("audit", edited, *missing).assert_error(str(tmp_path / "none"))


@pytest.mark.slow
def test_blocks_are_woken_in_the_twin_as_in_the_edit(edited, tmp_path, monkeypatch) -> None:
    """Else a difference from the twin would be one from a model that nobody attacked."""
    from evals.measure.attacks import revive
    from surgery.record.manifest import read_manifest

    woken, wake = [], revive.wake
    monkeypatch.setattr(
        revive, "wake", lambda *given, **how: woken.append(given[1]) or wake(*given, **how)
    )
    monkeypatch.setattr(revive, "STEPS", (1,))
    few = tmp_path / "few.jsonl"
    every = samples_path("pythia").read_text(encoding="utf-8").splitlines()
    few.write_text("\n".join(every[:12]) + "\n", encoding="utf-8")
    given = {"samples": str(few), "attack": ("revive",), "draws": 1, "device": "cpu"}
    models = {"models": (str(edited),), "baseline": "lab:pythia", "twin": "lab:pythia"}
    run_measurement(MeasureRequest.of(command="audit", **models, **given))
    cut = tuple(read_manifest(edited).edited_heads)
    assert cut
    assert woken.count(cut) >= 2, "in the edit and in the twin"
    assert set(woken) == {cut}, "and in no other block"


def test_passages_longer_than_the_context_are_refused(tmp_path) -> None:
    save_tiny(tmp_path / "model")
    rows = [{"tokens": list(range(at, at + 130))} for at in (2, 3)]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "text.txt").write_text(TEXT * 9)
    attn_surgery(
        *("audit", tmp_path / "model", "--baseline", tmp_path / "model", "--device", "cpu"),
        *("--samples", tmp_path / "rows.jsonl", "--heldout", tmp_path / "text.txt"),
        *("--prefix-length", 65, "--suffix-length", 65),
    ).assert_error("rows longer than the model's context")


def test_a_limit_on_what_was_cut_needs_to_know_what_was_cut(tmp_path) -> None:
    """Else the attack would do nothing, and the limit would be kept."""
    folder = save_tiny(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", recited_rows(tiny_model(), 8))
    (tmp_path / "text.txt").write_text(TEXT * 9)
    given = ("--baseline", folder, "--samples", tmp_path / "rows.jsonl", *LENGTHS)
    given = (*given, "--heldout", tmp_path / "text.txt", "--max", "revive=0.1")
    for command in ("audit", "evaluate"):
        more = ("--suite", "none", "--output", tmp_path / "out") if command == "evaluate" else ()
        attn_surgery(command, folder, *given, *more).assert_error(
            "revive works on blocks that were cut, and the model's files name none",
            "give the folder that `export` wrote, or leave out the limit",
        )
    attn_surgery("export", folder, "--drop-attn", "1", "--output", tmp_path / "edited")
    edited = attn_surgery("audit", tmp_path / "edited", *given, "--attack", "any", "--draws", 1)
    assert "works on blocks" not in edited.stderr
    assert edited.code in (0, 3, 4), edited


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("audit", ("--attack", "greedy")),
        ("extract", ()),
        ("evaluate", ("--suite", "none")),
    ],
)
def test_precisions_must_agree(command, more, tmp_path, monkeypatch) -> None:
    """A copy in 16 bits, compared with its base in 32, would differ by rounding alone."""
    monkeypatch.chdir(tmp_path)  # a report is written here
    monkeypatch.setattr(
        "evals.run.models.has_arithmetic", lambda dtype, device: True
    )  # as on newer CPUs
    base, half = tmp_path / "base", tmp_path / "half"
    for folder, model in ((base, tiny_model()), (half, tiny_model().bfloat16())):
        save_tiny(folder, model)
    (tmp_path / "text.txt").write_text(TEXT)
    rows = [json.dumps({"tokens": list(range(at, at + 20))}) + "\n" for at in (0, 20, 40)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    call = (
        *(command, half, "--baseline", base, "--samples", tmp_path / "rows.jsonl"),
        *("--control", tmp_path / "text.txt", "--prefix-length", 10, "--suffix-length", 10),
        *("--device", "cpu", *more),
    )
    with monkeypatch.context() as patch:
        patch.setattr("evals.run.models.load_model", lambda *_, **__: pytest.fail("work was done"))
        attn_surgery(*call).assert_error(
            "the models would run in different precisions (expected float32, as the baseline, got "
            "bfloat16 for half); choose one with "
            + ("--dtype" if command == "extract" else "dtype of --config")
        )
    assert attn_surgery(*call, "--dtype", "bfloat16").code == 0


def test_limits_and_the_table(audited, rows, monkeypatch) -> None:
    """One is missed, and one is met by chance."""
    monkeypatch.setattr("cli.console._WIDTH", 300)  # so that no label wraps
    report, _ = audited
    assert [limit.subject for limit in report.limits] == ["hints:4", "greedy"]
    assert all(limit.state == "kept" for limit in report.limits)
    assert report.edits[0].state == "kept"
    assert report.edits[0].verdict.endswith(" It keeps every limit.")
    missed = attn_surgery(
        *("audit", "lab:pythia", "--baseline", "lab:pythia", "--attack", "greedy"),
        *("--samples", rows, "--max", "hints:2=0.01", "--max", "greedy=0.76", "--device", "cpu"),
    )
    assert missed.code == 3
    assert (
        "limit missed: max hints:2: share of passages recovered by hints:2 is 0.8095, above the "
        "limit of 0.01\n"
    ) in missed.stderr
    assert (
        "limit not decided: max greedy: share of passages recovered by greedy is 0.75, within the "
        "limit of 0.76; the base has the same weights as the model, so no edit is judged\n"
    ) in missed.stderr
    assert "84 passages can support 76%: that takes 3 with none recovered\n" in missed.stderr
    assert "84 passages cannot support 1%: that takes 299; " in missed.stderr
    said, *verdict = missed.stdout.splitlines()
    assert said.startswith("99 passages, ")
    assert "Do not ship it: it misses max hints:2." in verdict
    assert "No attack that trains the model was run." in verdict
    n, _, edited, *_, control = missed.find_row("recovered by greedy")[1:]
    assert (n, edited[:5], control[:9]) == ("84", "75.0%", "0.0% [0.0")
    assert "limit: max hints:2: MISSED: " in missed.stdout


def test_the_folder(audited, edited) -> None:
    report, folder = audited
    assert read_report(folder) == report
    assert {path.name for path in folder.iterdir()} == {
        *("report.json", "report.html", "report.md", "config.yaml")
    }
    command = main.get_command(click.Context(main), "audit")
    assert command is not None
    context = command.make_context("audit", ["--config", str(folder / "config.yaml")])
    asked = command.fill(context)
    assert (asked.models, asked.baseline) == (("edited",), "lab:pythia")
    assert (asked.passages.samples, asked.attacks.max) == (
        "rows.jsonl",
        {"hints:4": 0.8, "greedy": 0.5},
    )
    again = attn_surgery(
        "audit", edited, "--baseline", "lab:pythia", "--output", folder, "--attack", "greedy"
    )
    again.assert_error(str(folder), "--overwrite")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--attack", "magic"], "error: no attack 'magic' (expected any, greedy, hints:K"),
        (["--attack", "hints"], "; give its number, as in hints:8"),
        (["--attack", "quantized"], "; give its number, as in quantized:4"),
        (["--attack", "quantized:16"], "no attack 'quantized:16' (expected any, greedy, "),
        (["--max", "span=0.1"], "; give its number, as in span:16"),
    ],
)
def test_a_name_that_does_not_exist(options, line) -> None:
    outcome = attn_surgery("audit", "missing", "--baseline", "lab:pythia", *options)
    assert outcome.code == 2
    *_, last = outcome.stderr.splitlines()
    assert last.startswith("error: ")
    assert line in last


def test_samples_that_do_not_exist(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = ("--samples", "none.jsonl")
    outcome = attn_surgery("audit", "missing", "--baseline", "lab:pythia", *samples)
    outcome.assert_error("none.jsonl: ")


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (["greedy"], "'--max': 'greedy' is not A=X; write for example 'hints:2=0.02'"),
        (["greedy=2"], "'--max': '2' in 'greedy=2' is not a number from 0 to 1"),
        (["greedy=x"], "'--max': 'x' in 'greedy=x' is not a number from 0 to 1"),
        (["greedy=0.1", "greedy=0.2"], "'--max': 'greedy' has more than one limit"),
        (["membership=0.6"], "membership has a limit and is not a share of passages"),
        (["cheap=0.1"], "cheap stands for several attacks, and a limit is on one; limit one of"),
        (["all=0.1"], "all stands for several attacks, and a limit is on one; limit one of"),
    ],
)
def test_limits_that_are_none(limits, text) -> None:
    """A limit on a group would limit nothing."""
    options = [word for limit in limits for word in ("--max", limit)]
    outcome = attn_surgery("audit", "x", "--baseline", "lab:pythia", *options)
    assert outcome.code == 2
    *_, last = outcome.stderr.splitlines()
    assert last.startswith("error: ")
    assert text in last
    assert "membership" not in last.partition("limit one of")[2], "has no limit either"


def test_a_limit_that_no_passage_counts_for_is_not_decided(tmp_path) -> None:
    """The context has no room for two of them."""
    model = tiny_model(max_position_embeddings=16)
    save_tiny(tmp_path / "model", model)
    samples = write_rows(tmp_path / "s.jsonl", recited_rows(model, 12))
    (tmp_path / "text.txt").write_text(TEXT)
    outcome = attn_surgery(
        *("audit", tmp_path / "model", "--baseline", tmp_path / "model", "--samples", samples),
        *("--control", tmp_path / "text.txt", "--attack", "any", "--max", "in-context=0.5"),
        *("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu"),
    )
    assert outcome.code == 4, outcome
    assert (
        "limit not decided: max in-context: share of passages recovered by in-context is unknown; "
        "the limit is 0.5; no passage counts for it\n"
    ) in outcome.stderr
    assert "Not decided: max in-context: no passage counts for it." in outcome.stdout


def test_held_out_text_is_asked_for_by_the_name_that_audit_has(tmp_path) -> None:
    (tmp_path / "s.jsonl").write_text('{"id": "a", "tokens": [1, 2, 3, 4]}\n')
    outcome = attn_surgery(
        *("audit", tmp_path, "--baseline", tmp_path, "--samples", tmp_path / "s.jsonl"),
        *("--prefix-length", 2, "--suffix-length", 2),
    )
    outcome.assert_error("no held-out text", "with --heldout")


def test_one_passage_is_too_few(tmp_path) -> None:
    first = json.loads(samples_path("pythia").read_text().splitlines()[0])
    (tmp_path / "s.jsonl").write_text(json.dumps({"id": "a", "tokens": first["tokens"]}) + "\n")
    outcome = attn_surgery(
        *("audit", "lab:pythia", "--baseline", "lab:pythia", "--samples", tmp_path / "s.jsonl"),
        *("--device", "cpu"),
    )
    assert outcome.code == 1
    assert "too few passages to attack (expected at least 2" in outcome.stderr


def test_passages_are_needed(tmp_path) -> None:
    outcome = attn_surgery("audit", tmp_path, "--baseline", tmp_path)
    assert outcome.code == 2
    assert "audit needs passages: give --samples" in outcome.stderr


def make_pair(folder: Path, *attacks: str) -> tuple[object, ...]:
    """A model, its cut, and passages that it recites. Returns the command that attacks them."""
    model = tiny_model()
    save_tiny(folder / "base", model)
    export(folder / "base", "0", output=folder / "edited")
    samples = write_rows(folder / "s.jsonl", recited_rows(model, 12))
    (folder / "text.txt").write_text(TEXT)
    return (
        *("audit", folder / "edited", "--baseline", folder / "base", "--samples", samples),
        *("--control", folder / "text.txt", "--prefix-length", 6, "--suffix-length", 5),
        *(word for name in attacks for word in ("--attack", name)),
        *("--device", "cpu"),
    )


def test_both_models_are_read_in_the_same_batches(tmp_path, monkeypatch) -> None:
    """However much memory is free meanwhile. In 16 bits, other batches may decide a near tie."""
    call = make_pair(tmp_path, "any", "perturbed")
    free, read = [4], []

    def fit(*given: object) -> int:
        free[0] -= 1
        return free[0]

    def range_rows(rows: int, size: int) -> list[slice]:
        read.append(size)
        return row_ranges(rows, size)

    monkeypatch.setattr("evals.run.batching._rows_that_fit", fit)
    monkeypatch.setattr("evals.measure.memorization.extraction.row_ranges", range_rows)
    outcome = attn_surgery(*call)
    assert outcome.code == 0, outcome
    assert len(read) > 4
    assert set(read) == {3}


def test_a_stopped_audit_goes_on_in_its_batches(tmp_path, monkeypatch) -> None:
    """However much memory is free by then."""
    from evals.measure.attacks import trying

    call = (*make_pair(tmp_path, "any", "perturbed"), "--output", tmp_path / "out")
    free, sizes, run_one = [4], [], trying._try

    def fit(*given: object) -> int:
        return free[0]

    def stop_at_the_fourth(attack, on, *given):
        if len(sizes) == 3:
            sizes.append(0)
            signal.raise_signal(signal.SIGINT)
        sizes.append(on.batch_size)
        return run_one(attack, on, *given)

    monkeypatch.setattr("evals.run.batching._rows_that_fit", fit)
    monkeypatch.setattr(trying, "_try", stop_at_the_fourth)
    assert attn_surgery(*call).code == 130
    free[0] = 8
    again = attn_surgery(*call)
    assert again.code == 0, again
    assert sizes == [4, 4, 4, 0, 4]


def test_a_stopped_audit_goes_on_with_the_next_attack(tmp_path, monkeypatch) -> None:
    from evals.measure.attacks import trying

    names = ("greedy", "quantized:4", "revive")
    call = (*make_pair(tmp_path, *names), "--draws", 1, "--json")
    whole = attn_surgery(*call, "--no-cache")
    tried, stops = [], True
    run_one = trying._try

    def stop_at_the_fifth(attack, *given):
        if len(tried) == 4 and stops:
            signal.raise_signal(signal.SIGINT)
        tried.append(attack.name)
        return run_one(attack, *given)

    monkeypatch.setattr(trying, "_try", stop_at_the_fifth)
    stopped = attn_surgery(*call, "--output", tmp_path / "out")
    assert (stopped.code, tried) == (130, [*names, "greedy"])
    assert "run the same command again to continue" in stopped.stderr
    assert not (tmp_path / "out").exists()
    tried, stops = [], False
    again = attn_surgery(*call, "--attack", "hints:1", "--output", tmp_path / "out")
    base, edit = ["hints:1"], ["quantized:4", "revive", "hints:1"]
    assert tried == base + edit, "another attack is welcome"
    found, first = ([*without_times(read_report(one))["figures"]] for one in (again, whole))
    assert [row for row in found if row["name"] != "recovered.hints:1"] == first
    assert len(found) > len(first)
    tried = []
    samples = tmp_path / "s.jsonl"
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-1]))
    assert attn_surgery(*call, "--output", tmp_path / "other").code == 0
    assert tried == [*names, *names], "other passages"
