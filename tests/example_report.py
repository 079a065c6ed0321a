"""A report as `evaluate` writes it: extraction is measured on tiny models, the rest is made up.

Every section is there, and every key that docs/report.md names; the schema has checked it. A test
gives other rows, or other fields of the edit, and gets the whole report of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from blank import blank_pictures
from reciting import PREFIX, SUFFIX, model_named, passages

from evals.data.samples import record_samples
from evals.jobs.asking import MeasureRequest
from evals.jobs.measurement import Measurement
from evals.jobs.measuring import ModelResults
from evals.measure.attacks.names import ATTACKERS, list_untried
from evals.measure.differences import compare_losses
from evals.measure.memorization.protocol import ExtractionResults, Protocol, measure
from evals.measure.memorization.summary import measure_recital
from evals.measure.naming import make_tables, name_figures
from evals.run.lm_eval.tasks import describe_task
from evals.run.models import LoadedModel
from evals.table.limits import ask, ask_tasks, decide, settle
from evals.table.measured import measure_share, measure_value
from evals.table.page import render_pages
from evals.table.words import describe
from surgery.hub.resolved import ResolvedModel
from surgery.onehot import OneHot
from surgery.record.manifest import History, Source, read_manifest
from surgery.record.measured import BASE, EDITED, TWIN, Change, Limit, Measured, On
from surgery.record.report import (
    EditRecord,
    FrontPoint,
    MeasuredModel,
    Provenance,
    Report,
    SamplesRecord,
)
from surgery.record.reports import record_reports

SOURCE, NAME = "neox-parallel", "neox-parallel compact identity"
"""The names of the base and of the edited model."""
TRIED = ("greedy", "relearn", "membership")
RUN = {"dtype": "float32", "device": "cpu", "attn_implementation": "sdpa", "revision": None}


def share(
    name: str,
    count: int,
    n: int,
    of: str = EDITED,
    on: On = "held back",
    before: int | None = None,
    never: int | None = None,
) -> Measured:
    """`count` of `n` passages. `before`: of the base, which gives away the first of them; `never`:
    of the twin."""
    flags = np.arange(n) < count
    base, twin = (None if most is None else np.arange(n) < most for most in (before, never))
    return measure_share(name, flags, of=of, on=on, base=base, twin=twin)


def pair(name: str, before: int, after: int, n: int, on: On = "held back") -> list[Measured]:
    """What the base and the edited model give away of `n` passages."""
    return [share(name, before, n, BASE, on), share(name, after, n, on=on, before=before)]


def attacked(
    attack: str,
    before: int,
    after: int,
    n: int,
    on: On = "held back",
    control: tuple[int, int] | None = None,
    runs: int | None = None,
    **details: Any,
) -> list[Measured]:
    """What an attack recovers of `n` passages: from the base, from the edit, and of the control."""
    name = f"recovered.{attack}"
    rows = pair(name, before, after, n, on)
    rows += [share(name, *control, on="never trained on")] if control else []
    rows = [row.model_copy(update={"runs": runs}) for row in rows]
    rows[1] = rows[1].model_copy(update={"details": {**rows[1].details, **details}})
    return rows


def task(name: str, base: float, edited: float, half: float = 0.02, **known: Any) -> list[Measured]:
    """A task whose difference has an interval of ± `half`."""
    difference, n = edited - base, known.pop("n", 1267)
    lost = difference + half < 0
    outcome = "loss" if lost else "none" if 2 * half <= 0.05 else "inconclusive"
    said = {
        "loss": f"loss of {-difference - half:.2f} to {half - difference:.2f}",
        "none": "no loss shown",
        "inconclusive": f"inconclusive (n = {n:,})",
    }
    details = {
        "test": "mcnemar",
        "outcome": outcome,
        "verdict": said[outcome],
        "resolution": 0.05,
        "drop": -difference,
        "drop_low": -difference - half,
        "drop_high": half - difference,
        "drop_is_relative": False,
        **known,
    }
    ends, p_value = (difference - half, difference + half), 3.2e-9 if lost else 0.3141
    change = Change(difference=difference, ci95=ends, p_value=p_value)
    key = f"task.{name}"
    return [
        measure_value(key, base, of=BASE, n=n),
        measure_value(key, edited, n=n, change=change, **details),
    ]


def area(score: str, base: float, edited: float) -> list[Measured]:
    rows: Any = [(BASE, base), (EDITED, edited)]
    return [
        measure_value(
            f"membership.{score}", value, (value - 0.05, value + 0.02), of=of, n=24,
            overcorrected=False,
        )
        for of, value in rows
    ]  # fmt: skip


def heldout(rise: float = 0.15, n: int = 16, on: On = "held back") -> list[Measured]:
    """The loss on `n` windows of text, which rises by about so much."""
    before = np.random.default_rng(0).normal(4.0, 0.1, n)
    after = before + rise + np.random.default_rng(1).normal(0, 0.01, n)
    return compare_losses("heldout", before, after, on, EDITED, kind="text")


def measure_pair() -> tuple[ExtractionResults, ExtractionResults]:
    """The memorization test of the base and of the edited model."""
    samples = passages(SOURCE, rows=24)
    counts = np.asarray([0, 1, 8, 256] * 6)
    samples = replace(samples, counts=counts, members=counts > 0)
    controls = np.random.default_rng(0).integers(2, 80, (16, PREFIX + SUFFIX)).astype(np.int32)
    protocol = Protocol(samples, controls, full=True)
    base, edited = (
        measure(LoadedModel(ResolvedModel(Path(), source), model_named(name), None), protocol)
        for name in (SOURCE, NAME)
        for source in [Source(model=name, content="a" * 64)]
    )
    return base, edited


@lru_cache
def _recital() -> tuple[list[Measured], SamplesRecord]:
    base, edited = measure_pair()
    rows = list(measure_recital(edited.test, base.test, EDITED, "held back"))
    return rows, record_samples(edited.test.samples)


def recital() -> list[Measured]:
    """The rows of the memorization test."""
    return list(_recital()[0])


def audit() -> list[Measured]:
    """What an audit found: a plain attack, one with stages and no control, and membership."""
    stages = [
        measure_value(f"recovered.relearn {step}", value, of=of, on="held back", n=22, unit="share",
                      near=value)
        for step, *both in ((5, 0.9, 0.1), (10, 0.9, 0.2), (20, 1.0, 0.2727))
        for of, value in zip((BASE, EDITED), both, strict=True)
    ]  # fmt: skip
    return [
        *attacked("greedy", 21, 1, 24, control=(0, 6), seconds=1.5),
        *attacked("relearn", 21, 6, 22, runs=1, seconds=20.25),
        *stages,
        *area("loss", 0.97, 0.5125),
    ]


def tasks() -> list[Measured]:
    relative = {"drop": 1.54, "drop_low": 1.43, "drop_high": 1.65, "drop_is_relative": True}
    return [
        *task("lambada_openai", 0.6123, 0.5871),
        *task("arc/easy~1", 0.312, 0.315),
        *task("perplexity", 24.31, 61.77, 2.6, **relative),
        *task("copy", 0.934, 0.702),
    ]


def every() -> list[Measured]:
    """The rows of all passages, those on which the edit was chosen among them."""
    return [
        share("recited", 40, 48, BASE, "all"),
        share("recited", 1, 48, on="all", before=40),
        *attacked("greedy", 41, 2, 48, "all"),
        *heldout(0.12, 32, "all"),
    ]


def found(**parts: list[Measured]) -> list[Measured]:
    """All rows. A part (`recital`, `audit`, `tasks`, `heldout`, `every`) may be others."""
    makers: Any = {
        "recital": recital, "audit": audit, "tasks": tasks, "heldout": heldout, "every": every,
    }  # fmt: skip
    assert parts.keys() <= makers.keys()
    return [row for name, make in makers.items() for row in parts.get(name, make())]


STEP: dict[str, Any] = {
    "source": {"model": SOURCE, "content": "b" * 64},
    "family": "gpt_neox",
    "num_blocks": 4,
    "num_heads": 4,
    "parts": [
        {"block": 1, "heads": [0, 1, 2, 3], "variant": "identity"},
        {"block": 2, "heads": [0, 1, 3], "variant": "mean"},
        {"block": 3, "heads": [0, 1, 2, 3], "variant": "linear"},
    ],
    "layout": "stock",
    "one_hot": OneHot(3, 2, 276.3125, 104.0, 64),
    "calibration": {
        "sources": [{"name": "calibration.txt", "sha256": "c" * 64}],
        "tokens": 65_536,
        "window": 256,
        "sha256": "d" * 64,
        "blocks": {"2": {"ridge": 100.0, "r2": None}, "3": {"ridge": 0.0001, "r2": 0.6123}},
    },
    "versions": {},
}


def make_edit(**changes: Any) -> dict[str, Any]:
    """The history of one cut. `changes`: of its fields."""
    return {"history": [STEP | changes]}


EDIT = make_edit()
MISSED = make_edit(chosen={"seed": 0, "passages": "a" * 64, "windows": "b" * 64, "met": False})
"""A cut whose search found none that kept its limits."""
PASSAGE: dict[str, Any] = {
    "id": "row-0",
    "hash": "0123456789abcdef" * 4,
    "exact": False,
    "first_divergence": 4,
    "next_token_accuracy": 0.5556,
    "nll": 2.5,
    "count": 8,
    "member": True,
    "baseline": {
        "exact": True,
        "first_divergence": None,
        "next_token_accuracy": 1.0,
        "nll": 0.1,
    },
}


def edit(**changes: Any) -> dict[str, Any]:
    """The fields of an edited model, but for its figures and its sentences."""
    return {
        "of": EDITED,
        "name": NAME,
        "provenance": {"model": NAME, "content": "c" * 64, **RUN},
        "relation": "source",
        "chose": {"passages": 24, "windows": 16, "taught": 0},
        "not_tried": list_untried(TRIED),
        "edit": EDIT,
        "passages": [PASSAGE],
        "warnings": [],
        **changes,
    }


def ask_for(**changes: Any) -> MeasureRequest:
    """The request of the report. `changes`: of its fields."""
    asked: dict[str, Any] = {
        "models": (NAME,),
        "baseline": SOURCE,
        "tasks": ("lambada_openai", "arc/easy~1", "perplexity", "copy"),
        "samples": "passages.jsonl",
        "prefix_length": PREFIX,
        "suffix_length": SUFFIX,
        "heldout": (Path("control.txt"),),
        "max_drop": {"copy": 0.05},
        "max_extraction": 0.25,
        "attack": TRIED,
        "max": {"relearn": 0.2},
        "dtype": "float32",
        "batch_size": 8,
    }
    return MeasureRequest.of(command="evaluate", **{**asked, **changes})


def unlimited(**changes: Any) -> MeasureRequest:
    """The same without limits. `changes`: as for `ask_for`."""
    return ask_for(**{"max_drop": {}, "max_extraction": None, "max": {}, "attack": (), **changes})


def limit_on(
    row: Measured, most: float, base: float | None = 1.0, unclear: str | None = None
) -> Limit:
    """The limit on what an attack recovers. `base`: what it recovers from the base."""
    rows = [row]
    if base is not None:
        rows.append(measure_value(row.name, base, of=BASE, on=row.on, unit="share"))
    asked = ask({row.name.removeprefix("recovered."): most})
    (limit,) = decide(rows, asked, row.of, unclear=unclear)
    return limit


def front() -> tuple[list[FrontPoint], list[Measured]]:
    """Two edits that a search found."""
    points, rows = [], list[Measured]()
    for at, (label, count, rise) in enumerate((("2 identity", 5, 0.1), ("1-2 identity", 2, 0.2))):
        of = f"found-{at + 1}"
        points.append(FrontPoint(of=of, label=label))
        loss = measure_value("heldout", 5 + rise, of=of, on="chosen on", n=16, unit="nats",
                             change=Change(difference=rise), kind="text")  # fmt: skip
        rows += [share("recited", count, 24, of, "chosen on"), loss]
    return points, rows


def make_report(
    rows: Sequence[Measured],
    asked: MeasureRequest | None = None,
    *,
    metrics: Mapping[str, str] | None = None,
    on: On = "held back",
    twin: str | None = None,
    void: str | None = None,
    searched: bool = True,
    samples: bool = True,
    **changes: Any,
) -> Report:
    """The whole report of one edit, of these rows. `metrics`: of tasks, if another than `acc`.

    `changes`: fields of the edit.
    """
    asked = asked or ask_for()
    figures, tested = list(rows), _recital()[1] if samples else None
    names = list(dict.fromkeys(row.name for row in figures))
    tasks = [name.removeprefix("task.") for name in names if name.startswith("task.")]
    known = [_describe_task(name, (metrics or {}).get(name, "acc")) for name in tasks]
    named = name_figures(figures, tested, known)
    points, found = front() if searched and named.keys() >= {"recited", "heldout"} else ([], [])
    figures += found
    sides: list[On | None] = [None]
    sides += ["taught"] if on != "taught" else []
    limits = decide(
        figures,
        ask(asked.attacks.max, asked.extraction.max_extraction),
        EDITED,
        sides,
        unclear=void,
    )
    limits += decide(figures, ask_tasks(asked.benchmarks.max_drop, tasks), EDITED, unclear=void)
    fields = {"line": "", "verdict": "", **edit(**changes)}
    made = EditRecord.model_validate(fields)
    state = settle(one.state for one in limits)
    if state is not None and made.edit is not None and made.edit.missed_alone:
        state = "missed"
    about = {"samples": tested, "control": 6, "text": False, "all_taught": True, "known": True}
    known_base = {"model": SOURCE, "content": "a" * 64, **RUN}
    report = Report(
        command=asked.command,
        names=named,
        figures=figures,
        limits=limits,
        created="2026-03-09T07:05:31+00:00",
        base=MeasuredModel(name=SOURCE, provenance=known_base) if asked.baseline else None,
        twin=twin and MeasuredModel(name=twin, provenance={}),  # type: ignore[arg-type]
        edits=[made.model_copy(update={"state": state})],
        samples=tested,
        attackers=list(ATTACKERS),
        tables=make_tables(named, figures, on=on, **about),
        front=points,
        settings=asked.to_settings(),
        provenance=Provenance(
            seeds={"bootstrap": 20_250_501, "random": 0, "torch": 1234},
            versions={"attn-surgery": "0.1.0", "lm-eval": "0.4.13"},
            baseline_from_cache=True,
            controls=[{"name": "control.txt", "sha256": "f" * 64}],  # type: ignore[list-item]
        ),
    )
    return describe(report)


def _describe_task(name: str, metric: str) -> dict[str, Any]:
    metric = "perplexity" if name == "perplexity" else metric
    return {
        "task": name, "metric": metric, "higher_is_better": {metric: metric != "perplexity"},
        "description": describe_task(name, {}), "num_fewshot": 0, "batch_size": 8, "version": "1.0",
    }  # fmt: skip


def example(**changes: Any) -> Report:
    """The whole report of one edit. `changes`: parts of `found`, and what `make_report` takes."""
    parts = ("recital", "audit", "tasks", "heldout", "every")
    rows = found(**{key: changes.pop(key) for key in parts if key in changes})
    return make_report(rows, **changes)


def twinned() -> Report:
    """With a twin, which recites 1 of 18."""
    never = share("recited", 1, 18, TWIN)
    after = share("recited", 3, 18, before=6, never=1)
    rows = [after if row.key == after.key else row for row in found()]
    return make_report([*rows, never], twin="twin")


def alone() -> Report:
    """Of a model that was audited without a base."""
    rows = (row for row in (*recital(), *audit()) if row.of != BASE)
    asked = MeasureRequest.of(
        command="audit", models=(NAME,), samples="passages.jsonl", attack=TRIED
    )
    changes = {"relation": "not recorded", "chose": {"passages": 0, "windows": 0, "taught": 0}}
    passages = [{**PASSAGE, "baseline": None}]
    rows = [row.model_copy(update={"change": None}) for row in rows]
    return make_report(rows, asked, passages=passages, **changes)


def several(*each: Report) -> Report:
    """The report of the edits of each, which are numbered."""
    first, edits, figures, limits = each[0], [], dict[Any, Measured](), []
    for at, one in enumerate(each, start=1):
        of = f"{EDITED}-{at}"

        def rename(rows: Sequence[Any], of: str = of) -> list[Any]:
            names = {EDITED: of}
            return [row.model_copy(update={"of": names.get(row.of, row.of)}) for row in rows]

        figures |= {row.key: row for row in rename(one.figures)}
        limits += rename(one.limits)
        edits.append(one.edits[0].model_copy(update={"of": of, "name": f"edit-{at}"}))
    update = {"edits": edits, "figures": [*figures.values()], "limits": limits}
    models = [edit.name for edit in edits]
    settings = {**first.settings, "models": models}
    return describe(first.model_copy(update={**update, "settings": settings}))


def example_of(folder: Path, **changes: Any) -> Report:
    """As `example`, of the edited model in the folder, against its source."""
    manifest = read_manifest(folder)
    assert manifest is not None
    known = {"provenance": {"model": NAME, "content": manifest.content, **RUN}}
    return example(**{"edit": History(history=manifest.history), **known, **changes})


def measurement_of(report: Report) -> Measurement:
    """A measurement with this report, and nothing else."""
    nothing: Any = [None, {}, False, None, None, None]
    models = [(BASE, report.base), *((edit.of, edit) for edit in report.edits)]
    results = {of: ModelResults(model, *nothing) for of, model in models if model is not None}
    return Measurement(report, ask_for(), results, None)  # type: ignore[arg-type]


def put_report(folder: Path, report: Report, **more: str) -> None:
    """Writes a report into a model's folder as `evaluate` does. `more`: other files, by name."""
    manifest = read_manifest(folder)
    assert manifest is not None
    with blank_pictures():
        pages = {"report.json": report.to_text(), **render_pages(report), **more}
    for name, text in pages.items():
        (folder / name).write_text(text)
    (folder / "surgery.json").write_text(record_reports(manifest, pages).to_text())


def bare(**changes: Any) -> Report:
    """The least that a report can hold: benchmarks alone, no limits, an edit without a manifest.

    `changes`, as of `example`, add to it.
    """
    nothing: dict[str, Any] = {part: [] for part in ("recital", "audit", "heldout", "every")}
    least: dict[str, Any] = {
        **nothing,
        "tasks": task("copy", 0.934, 0.702),
        "asked": unlimited(),
        "samples": False,
        "edit": None,
        "passages": [],
        "warnings": ["memorization was not measured; to measure it, give passages with --samples"],
        "not_tried": [],
        "chose": {"passages": 0, "windows": 0, "taught": 0},
    }
    return example(**{**least, **changes})
