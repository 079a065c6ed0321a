"""attn-surgery evaluate"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.evaluation_table import print_evaluation
from cli.measuring import running_options
from cli.options import json_option, note, print_json, resolve_model, revision_option
from cli.progress import progress

if TYPE_CHECKING:
    from evals.benchmarks import Benchmarks
    from evals.gates import DropLimit

FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def _drop_limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
    from evals.gates import parse_drop_limit

    try:
        return [parse_drop_limit(value) for value in values]
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


@click.command("evaluate")
@click.argument("model")
@click.option("--baseline", metavar="BASE", help="The model before the edit; required.")
@revision_option
@click.option(
    "--tasks", metavar="A,B", help="lm-eval tasks, groups or patterns.  [default: see --suite]"
)
@click.option(
    "--suite",
    type=click.Choice(["standard", "lab"]),
    help="standard: lambada_openai, hellaswag, piqa, winogrande, arc_easy. lab: three that need "
    "no download.  [default: lab for a lab model, standard for any other]",
)
@click.option(
    "--include-path",
    "include_paths",
    type=FOLDER,
    multiple=True,
    metavar="DIR",
    help="Also look for task files here; may be repeated.",
)
@click.option(
    "--num-fewshot",
    type=click.IntRange(min=0),
    metavar="N",
    help="Examples before each question.  [default: the task's own]",
)
@click.option(
    "--limit",
    type=_Limit(),
    metavar="N",
    help="Only the first N documents of each task, or a share.",
)
@click.option(
    "--samples", metavar="SAMPLES", help="Passages to test, as for extract.  [default: a lab's own]"
)
@click.option("--prefix-length", type=int, metavar="N", help="Tokens given.  [default: 32]")
@click.option("--suffix-length", type=int, metavar="N", help="Tokens asked for.  [default: 32]")
@click.option(
    "--control",
    "controls",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Text the models were not trained on; may be repeated.  [default: a lab's own]",
)
@click.option(
    "--max-drop",
    "limits",
    multiple=True,
    callback=_drop_limits,
    metavar="TASK=X",
    help="Gate: TASK (or a pattern: '*') may lose at most X; may be repeated.",
)
@click.option(
    "--max-extraction",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Gate: at most this share of the passages may still be recited.",
)
@click.option(
    "--front", type=FILE, metavar="FILE", help="A search's JSON, shown in the trade-off picture."
)
@click.option(
    "--output", type=FOLDER, metavar="DIR", help="Folder of the report.  [default: NAME-evaluation]"
)
@running_options
@click.option("--no-cache", is_flag=True, help="Run the base's benchmarks again.")
@click.option("--show-text", is_flag=True, help="Put the passages' text into the report.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    baseline: str | None,
    revision: str | None,
    tasks: str | None,
    suite: str | None,
    include_paths: tuple[Path, ...],
    num_fewshot: int | None,
    limit: float | None,
    samples: str | None,
    prefix_length: int | None,
    suffix_length: int | None,
    controls: tuple[Path, ...],
    limits: list[DropLimit],
    max_extraction: float | None,
    front: Path | None,
    output: Path | None,
    dtype: str,
    device: str | None,
    device_map: str | None,
    batch_size: int | None,
    no_cache: bool,
    show_text: bool,
    as_json: bool,
) -> None:
    """Measure what an edit cost and what it bought: benchmarks, extraction, gates, one report.

    MODEL is compared with BASE on the same documents and passages. The folder gets report.html,
    report.md, report.json and lm-eval's own results. Exit code 3 when a gate is missed.
    """
    if baseline is None:
        raise click.UsageError("evaluate compares with the model before the edit: give --baseline")
    if tasks is not None and suite is not None:
        raise click.UsageError("--tasks and --suite exclude each other")
    lab = next((name for name in (model, baseline) if name.startswith("lab:")), None)
    samples = samples or lab
    if max_extraction is not None and samples is None:
        raise click.UsageError("--max-extraction needs passages: give --samples")
    output = output or Path(f"{_short(model)}-evaluation")

    from evals.baseline_cache import BaselineCache, cache_folder
    from evals.evaluation import Plan, Target, evaluate
    from evals.evaluation_files import check_output, output_folder, write_evaluation
    from evals.task_sources import SUITES

    check_output(output)
    names = _listed(tasks) if tasks else SUITES[suite or ("lab" if lab else "standard")]
    benchmarks = _benchmarks(names, limits, include_paths, num_fewshot, limit)
    plan = Plan(
        benchmarks=benchmarks,
        samples=samples,
        prefix_length=prefix_length,
        suffix_length=suffix_length,
        heldout=_heldout(controls, lab),
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        device_map=device_map,
        limits=limits,
        max_extraction=max_extraction,
        cache=BaselineCache(None if no_cache else cache_folder()),
        show_text=show_text,
        front=json.loads(front.read_text(encoding="utf-8")) if front else None,
        commands=[_typed(ctx)],
    )
    found = evaluate(
        Target(*_named(model), revision),
        Target(*_named(baseline)),
        plan,
        say=note,
        progress=progress,
    )
    with output_folder(output) as folder:
        write_evaluation(found, folder)
    for warning in found.report.warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json(found.report.to_dict())
    else:
        print_evaluation(found.report, output)
    failed = [gate for gate in found.report.gates if not gate.ok]
    for gate in failed:
        note(f"gate failed: {gate.name}: {gate.description}")
    if failed:
        ctx.exit(3)


def _short(model: str) -> str:
    """The last part of a model's name, as a folder may be called."""
    return Path(model.replace(":", "-")).expanduser().resolve().name


def _named(model: str) -> tuple[str, str]:
    source, name = resolve_model(model)
    return source, name or model


def _listed(tasks: str) -> list[str]:
    names = [name.strip() for name in tasks.split(",")]
    if not all(names):
        raise click.UsageError(f"--tasks {tasks!r}: a name is empty")
    return list(dict.fromkeys(names))


def _benchmarks(
    names: Any,
    limits: list[DropLimit],
    include_paths: tuple[Path, ...],
    num_fewshot: int | None,
    limit: float | None,
) -> Benchmarks:
    """The loaded tasks; a gate on one that is not among them is a usage error."""
    from evals.benchmarks import Benchmarks
    from evals.gates import check_named

    with progress("loading tasks", None):
        benchmarks = Benchmarks.load(
            names, include_paths=include_paths, num_fewshot=num_fewshot, limit=limit
        )
    try:
        check_named(limits, list(benchmarks.tasks))
    except ValueError as error:
        raise click.UsageError(f"--max-drop: {error}") from None
    return benchmarks


def _heldout(controls: tuple[Path, ...], lab: str | None) -> list[str]:
    from evals.lab import heldout_texts
    from surgery.errors import SamplesError

    if not controls:
        return heldout_texts() if lab else []
    try:
        return [file.read_text(encoding="utf-8") for file in controls]
    except (OSError, UnicodeDecodeError) as error:
        raise SamplesError("control text cannot be read", got=error) from error


def _typed(ctx: click.Context) -> str:
    """The command with the options that were given, to be typed again."""
    words = ["attn-surgery", "evaluate", ctx.params["model"]]
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if not isinstance(parameter, click.Option) or source is not _GIVEN:
            continue
        value = ctx.params[parameter.name or ""]
        if parameter.is_flag:
            words.append(parameter.opts[0])
            continue
        for item in value if parameter.multiple else [value]:
            words += [parameter.opts[0], str(item)]
    return shlex.join(words)


_GIVEN = click.core.ParameterSource.COMMANDLINE
