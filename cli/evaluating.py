"""Options that say what is evaluated, how they become a plan, and what becomes of its gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    FOLDER,
    F,
    Number,
    attack_options,
    control_option,
    count_option,
    length_options,
    note,
    samples_option,
    together,
)
from cli.progress import progress
from evals.inputs import heldout_texts, look_up, open_passages

if TYPE_CHECKING:
    from evals.benchmarks.running import Benchmarks
    from evals.evaluation.plan import Plan
    from evals.evaluation.report import Report
    from surgery.reading.corpus import Corpus
    from surgery.record.manifest import TextSource


def _drop_limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
    if not values:
        return ()
    from evals.evaluation.gates import parse_drop_limit

    try:
        return tuple(parse_drop_limit(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class _Limit(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Documents of each task: a whole number, or a share below 1."""

    name = "limit"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if not (0 < limit < 1 or (limit >= 1 and limit.is_integer())):
            self.fail(f"{value!r} is neither a whole number from 1 on nor a share below 1")
        return int(limit) if limit >= 1 else limit


def task_options(default: str, suite: str) -> Callable[[F], F]:
    """--tasks, --suite, --include-path and --limit. `default`, `suite`: what the first two are."""
    return together(
        click.option(
            "--tasks",
            metavar="A,B",
            help=f"lm-eval tasks, groups or patterns.  [default: {default}]",
        ),
        click.option(
            "--suite",
            type=click.Choice(["standard", "lab"]),
            help="standard: lambada_openai, hellaswag, piqa, winogrande, arc_easy. lab: three that "
            f"need no download.  [default: {suite}]",
        ),
        click.option(
            "--include-path",
            "include_paths",
            type=FOLDER,
            multiple=True,
            metavar="DIR",
            help="Also look for task files here; may be repeated.",
        ),
        click.option(
            "--limit",
            type=_Limit(),
            metavar="N",
            help="Only the first N documents of each task, or a share.",
        ),
    )


fewshot_option = count_option(
    "--num-fewshot", None, "Examples before each question.  [default: the task's own]", least=0
)
drop_option = click.option(
    "--max-drop",
    "limits",
    multiple=True,
    callback=_drop_limits,
    metavar="TASK=X",
    help="Gate: TASK (or a pattern: '*') may lose at most X; may be repeated.",
)
evaluation_options = together(
    task_options("see --suite", "lab for a lab model, standard for any other"),
    fewshot_option,
    samples_option("Passages to test, as for extract.  [default: a lab's own]"),
    length_options,
    control_option(
        "Text the models were not trained on: files, folders, or hf:DATASET:SPLIT:COLUMN; may be "
        "repeated.  [default: a lab's own]"
    ),
    drop_option,
    click.option(
        "--max-extraction",
        type=Number(0, 1),
        metavar="X",
        help="Gate: at most this share of the passages may still be recited.",
    ),
    click.option(
        "--audit",
        "with_audit",
        is_flag=True,
        help="Also try attacks; --attack or --max say so too.",
    ),
    attack_options,
)
"""What is measured: tasks, passages, held-out text, and the gates."""


def check_asked(asked: Mapping[str, Any], lab: str | None) -> None:
    """Raises `UsageError` for options that exclude or need each other."""
    check_tasks(asked["tasks"], asked["suite"])
    if asked["max_extraction"] is not None and asked["samples"] is None and lab is None:
        raise click.UsageError("--max-extraction needs passages: give --samples")
    attacks = any(asked[key] for key in ("with_audit", "attacks", "max_recovered"))
    if lab is None and attacks:
        for option, key in (("--samples", "samples"), ("--control", "controls")):
            if not asked[key]:
                raise click.UsageError(f"attacks need passages and held-out text: give {option}")


def attacked(asked: Mapping[str, Any]) -> tuple[str, ...]:
    """The attacks that are run: none unless --audit, --attack or --max asks for them."""
    from evals.attacks.names import choose_attacks

    if not (asked["with_audit"] or asked["attacks"] or asked["max_recovered"]):
        return ()
    return choose_attacks(asked["attacks"], asked["max_recovered"])


def check_tasks(tasks: str | None, suite: str | None) -> None:
    """Raises `UsageError` where both are given."""
    if tasks is not None and suite is not None:
        raise click.UsageError("--tasks and --suite exclude each other")


def named_tasks(tasks: str | None, suite: str) -> Sequence[str]:
    """The names that `--tasks` lists, or else those of the suite."""
    if tasks is None:
        from evals.benchmarks.tasks import SUITES

        return tuple(SUITES[suite])
    names = [name.strip() for name in tasks.split(",")]
    if not all(names):
        raise click.UsageError(f"--tasks {tasks!r}: a name is empty")
    return tuple(dict.fromkeys(names))


def make_plan(
    asked: Mapping[str, Any],
    lab: str | None,
    *,
    models: Iterable[tuple[str, str | None]] = (),
    cached: bool = True,
    **more: Any,
) -> Plan:
    """The evaluation that the options ask for; tasks are loaded, and gates checked against them.

    `models`, each with its revision, are looked up before that, since tasks may take long to load.

    `asked`: by the names of `evaluation_options`, and of `cli.options.running_options` where the
    command has them. `cached`: the base's benchmarks need not be run again. `more`: further fields
    of `evals.evaluation.plan.Plan`.
    """
    from evals.benchmarks.cache import BaselineCache
    from evals.evaluation.plan import Plan
    from evals.running.request import Measuring
    from surgery.checkpoint.content import cache_folder
    from surgery.reading.corpus import open_corpus
    from surgery.reading.passages import texts
    from surgery.record.manifest import TextSource

    names = named_tasks(asked["tasks"], asked["suite"] or ("lab" if lab else "standard"))
    named = asked["samples"] or lab
    passages = None if named is None else open_passages(named, Measuring.of(asked))
    if asked["controls"]:
        corpus = open_corpus(asked["controls"])
        heldout, controls = texts(corpus), recorded_texts(corpus)
    else:
        heldout, controls = heldout_texts((), lab), [TextSource(name=lab)] if lab else []
    for model, revision in models:
        look_up(model, revision)
    keys = ("dtype", "device", "device_map", "batch_size")
    running = {key: asked[key] for key in keys if key in asked}
    return Plan(
        benchmarks=_benchmarks(asked, names),
        samples=passages,
        heldout=heldout,
        controls=controls,
        limits=asked["limits"],
        max_extraction=asked["max_extraction"],
        attacks=attacked(asked),
        max_recovered=asked["max_recovered"],
        cache=BaselineCache(cache_folder() if cached else None),
        **running,
        **more,
    )


def recorded_texts(corpus: Corpus) -> list[TextSource]:
    """Held-out text as a report records it: files by name and hash, data sets by name alone."""
    from surgery.checkpoint.content import sha256_of
    from surgery.record.manifest import TextSource

    return [
        TextSource(name=f.name, sha256=sha256_of(f.place) if isinstance(f.place, Path) else None)
        for f in corpus.files
    ]


def say_gates(report: Report, *, several: bool = False) -> bool:
    """Names every gate that failed or is inconclusive, on stderr. Returns whether all hold.

    `several`: of one of several models, which is then named.
    """
    whose = f"{report.models.edited}: " if several else ""
    for gate in report.gates:
        if not (gate.ok and gate.conclusive):
            state = "inconclusive" if gate.ok else "failed"
            note(f"{whose}gate {state}: {gate.name}: {gate.description}")
    return all(gate.ok for gate in report.gates)


def load_tasks(names: Sequence[str], **options: Any) -> Benchmarks:
    """As `evals.benchmarks.running.Benchmarks.load`."""
    from evals.benchmarks.running import Benchmarks

    with progress("loading tasks", None):
        return Benchmarks.load(names, **options)


def _benchmarks(asked: Mapping[str, Any], names: Sequence[str]) -> Benchmarks:
    """The loaded tasks; a gate on one that is not among them is a usage error."""
    from evals.evaluation.gates import check_named

    keys = ("include_paths", "limit", "num_fewshot")
    benchmarks = load_tasks(names, **{key: asked[key] for key in keys})
    try:
        check_named(asked["limits"], list(benchmarks.tasks))
    except ValueError as error:
        raise click.UsageError(f"--max-drop: {error}") from None
    return benchmarks
