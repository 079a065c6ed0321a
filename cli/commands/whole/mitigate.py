"""attn-surgery mitigate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.config import config_of, config_option
from cli.evaluating import (
    check_tasks,
    drop_option,
    evaluation_request,
    fewshot_option,
    open_evaluation,
    say_gates,
    task_options,
)
from cli.exporting import evaluate_exports
from cli.options import (
    Number,
    ask,
    attack_options,
    json_option,
    note,
    output_option,
    overwrite_option,
    print_json,
    samples_option,
)
from cli.progress import progress
from cli.searching import choice_options
from surgery.hub.embedded import find_lab


@click.command("mitigate")
@click.argument("model", required=False)
@samples_option("The passages that must not be recovered, as for extract.  [default: a lab's own]")
@click.option(
    "--max-extraction",
    type=Number(0, 1),
    default=0.01,
    show_default=True,
    metavar="X",
    help="Leave at most this share of the passages recovered, by --measure.",
)
@choice_options
@task_options("see --suite", "lab for a lab model, standard for any other")
@fewshot_option
@drop_option
@attack_options
@output_option("Folder to create.", metavar="OUT", required=True)
@config_option("--recipe")
@overwrite_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str | None,
    samples: str | None,
    max_extraction: float,
    output: Path,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Take away what MODEL recites: search, export, verify, attack and evaluate, in one command.

    Finds the edit that leaves at most X of the passages recovered at the least cost (into
    OUT-search), exports it to OUT, proves it, tries every attack on it, and puts report, model card
    and recipe beside it. Interrupted, it goes on where it was when it is started again.

    An embedded model (lab:pythia) needs nothing else; any other --samples and --corpus. Exit code 3
    where the limit, or a gate, is not met: OUT then holds the best that was found.
    """
    if model is None:
        raise click.UsageError("name a MODEL, or give a --recipe that does")
    check_tasks(asked["tasks"], asked["suite"])
    lab = find_lab(model)
    for option, given in (("--samples", samples), ("--corpus", asked["corpus"])):
        if lab is None and not given:
            raise click.UsageError(f"{model} brings none of its own: give {option}")

    from evals.search.request import SearchRequest

    samples = samples or str(lab)
    given = {"model": model, "samples": samples, "max_extraction": max_extraction}
    request = ask(SearchRequest, asked, **given)

    from cli.tables.evaluation import print_evaluation
    from cli.tables.search import export_command, show_search
    from evals.exporting import ExportRequest, run_export
    from evals.search.searching import search
    from surgery.exporting import check_target
    from surgery.output import write_text
    from surgery.record.manifest import RECIPE

    folder = Path(f"{output}-search")
    begun = folder.exists() and output.exists() and not (output / RECIPE).exists()
    if overwrite or not begun:
        check_target(model, output, overwrite=overwrite)
    evaluation = evaluation_request(
        asked,
        models=(model,),
        baseline=model,
        revision=None,
        samples=samples,
        control=request.corpus,
        audit=True,
        max={request.measure: max_extraction, **asked["max_recovered"]},
    )
    materials = open_evaluation(evaluation, [(model, request.revision)])  # mistakes come first
    note("1 of 3: search")
    found = search(request, folder, overwrite=overwrite, say=note, progress=progress)
    if found is None:
        return
    result, choice = found
    met = result["selected"] is not None
    if met and not as_json:
        again = export_command(model, request.revision, folder / "plan.json", request.calibration)
        show_search(result, again)
    elif not met:
        note(f"no edit meets {max_extraction:g} ({request.measure}): the best follows")
    note("2 of 3: export")
    given = {"model": model, "plan": choice, "output": output, "overwrite": overwrite}
    export = ask(ExportRequest, asked, **given, variant=None)
    keep = begun and not overwrite
    prepared, made = run_export(export, keep=keep, say=note, progress=progress)
    if made is None:
        note(f"{output}: was exported before")
    note("3 of 3: verify, attack, evaluate")
    report = evaluate_exports(prepared.model, materials, output)
    write_text(output / RECIPE, config_of(ctx))
    passed = say_gates(report) and met
    whole = report.settings.limit is None  # a part of the benchmarks is nothing to publish
    following = f"attn-surgery push {output} OWNER/NAME" if passed and whole else None
    if as_json:
        print_json(
            {
                "output": str(output),
                "passed": passed,
                "search": result,
                "report": report.to_dict(),
                "next": following,
            }
        )
    else:
        print_evaluation(report, output)
    if not passed:
        note(f"{output}: the limits are not met: see report.html there")
        raise click.exceptions.Exit(3)
    if following is not None:
        note(f"next: {following}")
