"""Measuring a repeated model as the report of the original was made, and comparing the figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.evaluating import evaluation_options, make_plan, recorded_texts
from cli.inputs import lab_of
from cli.options import note, unasked
from cli.progress import progress
from surgery.checkpoint.foreign import guard
from surgery.errors import MeasurementError, SamplesError
from surgery.hub.embedded import PREFIX

if TYPE_CHECKING:
    from evals.evaluation.plan import Plan
    from evals.evaluation.report import Report
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import Manifest, TextSource


@dataclass(frozen=True)
class Figure:
    """A recorded figure with its 95 % interval, and what it is when it is measured again."""

    name: str
    recorded: float
    ci95: tuple[float, float]
    repeated: float

    @property
    def ok(self) -> bool:
        """Whether the repeated figure is in the recorded interval, or the very same."""
        low, high = self.ci95
        return low <= self.repeated <= high or self.repeated == self.recorded

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "ci95": list(self.ci95), "ok": self.ok}


def plan_again(report: Report, samples: str | None, controls: Sequence[Path]) -> Plan:
    """The evaluation that a report records, before any work is done.

    **Arguments:** `samples`, `controls`: where its passages and held-out text are, since a report
    names files without their paths; by default in the current folder.

    **Raises:** `SamplesError` for what is not here or is not what was recorded, `MeasurementError`
    for figures that contradict each other, and for tasks that cannot be loaded: no code is run that
    a report brings.
    """
    from evals.publication.report import check_figures

    check_figures(report, "report.json", MeasurementError)
    settings = report.settings
    lab = lab_of(*(text.name for text in settings.controls))
    asked: dict[str, Any] = {
        **unasked(evaluation_options),
        "tasks": ",".join(settings.tasks),
        "num_fewshot": settings.num_fewshot,
        "limit": settings.limit,
        "samples": samples or _here(settings.samples),
        "prefix_length": settings.prefix_length,
        "suffix_length": settings.suffix_length,
        "controls": () if lab else _same(settings.controls, controls),
        "attacks": tuple(settings.attacks),
        "dtype": settings.dtype,
        "batch_size": settings.batch_size,
    }
    return make_plan(asked, lab, cached=False)


def measured_again(
    report: Report, plan: Plan, edited: Path, source: ResolvedModel, manifest: Manifest
) -> list[Figure]:
    """Evaluates the folder `edited` against its source, as the report says, or that one's source.

    **Raises:** `MeasurementError` when the baseline was a folder that is not here, `SamplesError`
    for other passages than the recorded ones; errors of `evals.evaluation.evaluation.evaluate`.
    """
    from evals.evaluation.evaluation import evaluate
    from surgery.hub.finding import find_model

    with guard(MeasurementError, "cannot be measured again", "report.json"):
        base = _baseline(report, source, manifest)
        recorded = dict(_figures(report.to_dict()))
    models = [find_model(edited)], find_model(*base)
    again = evaluate(*models, plan, say=note, progress=progress)[0].report
    hashes = [made.provenance.samples_sha256 for made in (report, again)]
    if hashes[0] != hashes[1]:
        raise SamplesError(
            "are not the passages that were recorded",
            where=again.settings.samples,
            expected=f"tokens of SHA-256 {str(hashes[0])[:12]}",
            got=str(hashes[1])[:12],
        )
    found = dict(_figures(again.to_dict()))
    missing = next((name for name in recorded if name not in found), None)
    if missing is not None:
        what = f"records {missing}, which its settings do not measure"
        raise MeasurementError(what, where="report.json")
    return [Figure(name, *figure, found[name][0]) for name, figure in recorded.items()]


def _here(recorded: str | None) -> str | None:
    """Recorded samples: an embedded model's, a data set on the Hub, or files of that name."""
    if recorded is None or recorded.startswith((PREFIX, "hf:")):
        return recorded
    if not all(Path(file).is_file() for file in recorded.split(",")):
        raise SamplesError(
            "the passages that were measured are not here",
            where=recorded,
            fix="name them with --samples",
        )
    return recorded


def _same(recorded: Sequence[TextSource], given: Sequence[Path]) -> tuple[Path, ...]:
    """What names the held-out text, which must have the recorded hashes."""
    from surgery.hub.datasets import PREFIX as HUB
    from surgery.reading.corpus import open_corpus

    files = tuple(given) or tuple(Path(text.name) for text in recorded)
    for file in files:
        if not (given or str(file).startswith(HUB) or file.is_file()):
            raise SamplesError(
                "the held-out text that was measured is not here",
                where=file,
                fix="name it with --control",
            )
    if [text.sha256 for text in recorded_texts(open_corpus(files))] != [
        text.sha256 for text in recorded
    ]:
        raise SamplesError(
            "is not the held-out text that was recorded",
            where=", ".join(map(str, files)),
            expected=", ".join(f"{text.name} ({str(text.sha256)[:12]})" for text in recorded),
        )
    return files


def _baseline(
    report: Report, source: ResolvedModel, manifest: Manifest
) -> tuple[str | ResolvedModel, str | None]:
    """What the report compares with: the source that was repeated, or an earlier one of a chain."""
    base = report.provenance.base
    if base["content"] == manifest.edit.source.content:
        return source, None
    if base["commit"] is None and not base["model"].startswith(PREFIX):
        raise MeasurementError(
            f"compares with {base['model']}, a folder that is not the source of this edit",
            where="report.json",
            fix="reproduce without --evaluate, and evaluate against a copy of it",
        )
    return base["model"], base["commit"]


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, tuple[float, float]]]]:
    from evals.memorization.measures import HEADLINE

    for name, task in report["tasks"].items():
        yield f"{name} {task['metric']} difference", (task["difference"], task["ci95"])
    if (extraction := report["extraction"]) is not None:
        for measure in (one for one in HEADLINE if one.said):
            figure = extraction[measure.name]
            middle = figure["rate"] if "rate" in figure else figure["mean"]
            yield f"extraction {measure.name}", (middle, figure["ci95"])
    for attack in (report["audit"] or {}).get("attacks", ()):
        if "paired" in attack:  # membership has areas, whose intervals are of two groups
            yield f"attack {attack['name']}", (attack["edited"]["rate"], attack["edited"]["ci95"])
    if (heldout := report["heldout"]) is not None:
        difference = heldout["difference"]
        yield "held-out loss difference", (difference["mean"], difference["ci95"])
