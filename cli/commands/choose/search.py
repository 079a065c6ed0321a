"""attn-surgery search"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.inputs import calibration_text, fitter_for, needed_texts, open_model
from cli.options import (
    calibration_option,
    corpus_option,
    json_option,
    length_options,
    note,
    overwrite_option,
    print_json,
    revision_option,
    running_options,
    samples_option,
)
from cli.progress import progress
from cli.tables.search import export_command, show_search
from surgery.variants import VARIANTS

if TYPE_CHECKING:
    from evals.search.units import Grain


@click.command("search")
@click.argument("model")
@samples_option
@click.option(
    "--max-extraction",
    type=click.FloatRange(0, 1),
    metavar="X",
    help="Leave at most this share of the passages recovered, at the least held-out KL: 0.01.",
)
@click.option(
    "--max-loss-increase",
    type=click.FloatRange(min=0, min_open=True),
    metavar="Y",
    help="Leave as few as can be, with held-out loss at most Y nats per token higher.",
)
@click.option(
    "--grain",
    type=click.Choice(["blocks", "heads", "mixed"]),
    default="mixed",
    show_default=True,
    help="What is chosen: whole blocks, single heads, or both.",
)
@click.option(
    "--measure",
    default="any",
    show_default=True,
    metavar="M",
    help="What counts as recovered: any (by greedy, hints:2, prefix or sampling:100), greedy (word "
    "for word), hints:K (with at most K wrong tokens corrected), prefix, sampling:N, span:M: see "
    "docs/threat-model.md.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(list(VARIANTS)),
    help="What a block or head may become; may be repeated.  [default: all where there is "
    "calibration text, else identity and zero]",
)
@corpus_option
@calibration_option
@click.option(
    "--layout",
    type=click.Choice(["auto", "stock", "compact"]),
    default="auto",
    show_default=True,
    help="Choose only what this layout can hold; auto: what either can.",
)
@click.option(
    "--max-evaluations",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="How many edits to measure at most. Where there are no more than that, all are; else only "
    "those that estimates propose.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Decides which rows are held back."
)
@revision_option
@length_options
@running_options
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to create: plan.json, search.json and a picture.  [default: NAME-search]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from what DIR holds: nothing is measured twice, and more with a larger "
    "--max-evaluations.",
)
@overwrite_option
@json_option
def command(
    model: str,
    samples: str,
    max_extraction: float | None,
    max_loss_increase: float | None,
    grain: Grain,
    measure: str,
    variants: tuple[str, ...],
    corpora: tuple[Path, ...],
    calibration: tuple[str, ...],
    layout: str,
    max_evaluations: int,
    seed: int,
    revision: str | None,
    prefix_length: int | None,
    suffix_length: int | None,
    dtype: str,
    device: str | None,
    device_map: str | None,
    batch_size: int | None,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find the blocks and heads of MODEL whose edit meets a goal at the least cost.

    Give one goal: --max-extraction or --max-loss-increase. MODEL and SAMPLES are as for extract.
    The edit is chosen on one half of the samples and of the held-out text, and reported on the
    other. `attn-surgery export MODEL --plan DIR/plan.json` makes it.

    What was measured before an interruption is kept beside DIR, and taken up by the same command.

    Where nothing meets the goal the exit code is 1, and DIR holds what was found, without a plan.
    """
    from evals.files import Journal
    from evals.memorization.recovery import measure_of
    from evals.running.processes import Processes
    from evals.samples import open_samples
    from evals.samples.windows import control_windows
    from evals.search.folder import owned, write_search
    from evals.search.goals import MaxExtraction, MaxLossIncrease
    from evals.search.report import missed, plan_of, question, search_report
    from evals.search.resuming import measured_before, point_from_json
    from evals.search.run import Task, run
    from surgery.output import check_output

    if (max_extraction is None) == (max_loss_increase is None):
        raise click.UsageError("give one goal: --max-extraction X or --max-loss-increase Y")
    try:
        counted = measure_of(measure)
    except ValueError as error:
        raise click.UsageError(f"--measure: {error}") from None
    folder = output or Path(f"{re.split('[:/]', model.rstrip('/'))[-1]}-search")
    resume = resume and folder.exists()
    check_output(folder, owned, overwrite=overwrite or resume, say=note)
    fits = bool(calibration) or model.startswith("lab:")
    default = [name for name, variant in VARIANTS.items() if fits or not variant.FITTED]
    chosen_variants = tuple(dict.fromkeys(variants or default))
    passages = open_samples(samples, prefix_length=prefix_length, suffix_length=suffix_length)
    texts = needed_texts(corpora, model)
    calibrated = calibration_text(calibration, model, chosen_variants)
    processes = Processes.launched()
    loaded = open_model(
        model,
        revision=revision,
        dtype=dtype,
        device=device or processes.device,
        device_map=device_map,
    )
    tokenized = passages.tokenized(loaded.tokenizer)
    task = Task(
        loaded=loaded,
        samples=tokenized,
        windows=control_windows(texts, loaded.tokenizer, tokenized.tokens.shape[1]),
        goal=MaxLossIncrease(max_loss_increase or 0.0)
        if max_extraction is None
        else MaxExtraction(max_extraction),
        measure=counted,
        grain=grain,
        variants=chosen_variants,
        layout=layout,
        seed=seed,
        max_evaluations=max_evaluations,
        batch_size=batch_size,
        processes=processes,
    )
    offered, warnings = task.offered
    for warning in warnings if processes.is_main else ():
        note(f"warning: {warning}")
    alone = [loaded.editable.plan((unit,), layout=layout) for unit in offered]
    fitter = fitter_for(alone, calibrated, loaded, layout=layout)
    asked = question(task, fitter)
    journal = Journal(folder.parent / f".{folder.name}.progress", asked)
    earlier = measured_before(folder, asked) if resume else {}
    earlier |= {point.selection: point for point in journal.read(point_from_json)}
    if earlier and processes.is_main:
        note(f"{len(earlier)} edits were measured before")
    with (
        progress(f"estimate {model}", None) as looked,
        progress(f"search {model}", max_evaluations * task.rows) as advance,
    ):
        chosen = run(
            task,
            fitter,
            advance=advance,
            looked=looked,
            journal=journal if processes.is_main else None,
            earlier=processes.agree(earlier),
        )
    if not processes.is_main:
        return
    result = search_report(task, chosen, fitter, warnings)
    plan = plan_of(task, chosen, result)
    result["plan"] = None if plan is None else str(folder / "plan.json")
    write_search(folder, result, plan, overwrite=overwrite or resume)
    journal.remove()
    if plan is None:
        raise missed(result, folder)
    if as_json:
        print_json(result)
    else:
        needed = calibration if result["calibration"] else ()  # of what was chosen
        show_search(result, export_command(model, revision, folder / "plan.json", needed))
