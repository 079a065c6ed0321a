"""attn-surgery sweep"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.config import config_of
from cli.evaluating import check_tasks, load_tasks, named_tasks, task_options
from cli.options import (
    calibration_option,
    corpus_option,
    json_option,
    measuring_options,
    note,
    output_option,
    overwrite_option,
    print_json,
    samples_option,
)
from cli.progress import progress
from cli.tables.sweep import show_sweep
from evals.inputs import (
    calibration_text,
    fitter_for,
    look_up,
    needed_texts,
    open_model,
    open_passages,
    tokenized,
)
from surgery.hub.embedded import lab_of
from surgery.selection import Part
from surgery.variants import VARIANTS

BOUND_WINDOWS = 32
"""Windows of held-out text for --bounds, at least, where there are so many."""


@click.command("sweep")
@click.argument("model")
@samples_option("The passages, as for extract.", required=True)
@corpus_option
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(list(VARIANTS)),
    help="May be repeated.  [default: identity and zero; all with --calibration]",
)
@click.option(
    "--last/--no-last",
    default=True,
    help="Also the last 2, 3, … blocks together.  [default: yes; each costs what a block costs]",
)
@click.option("--ranges", is_flag=True, help="Also every contiguous range of blocks.")
@click.option("--heads", is_flag=True, help="Also every head alone.")
@calibration_option
@click.option(
    "--exact-only",
    is_flag=True,
    help="Only which passages are recited, much faster: a passage is left at its first wrong "
    "token, and no held-out text is read. Tasks are asked all the same.",
)
@task_options("no tasks", "none")
@measuring_options
@click.option(
    "--bounds",
    "with_bounds",
    is_flag=True,
    help="Also bound what each block's attention adds by mixing tokens, and follow an edit of it "
    "to every later block.",
)
@click.option(
    "--estimate",
    "estimates",
    is_flag=True,
    help="Also estimate what every head and every block would cost and move, from a few passes "
    "over the text. A lab model is then swept in all variants, unless told otherwise.",
)
@output_option(
    "Folder to create: sweep.json, sweep.csv and pictures. A run that was killed is taken up "
    "where it was."
)
@overwrite_option
@json_option
def command(
    model: str,
    samples: str,
    corpus: tuple[Path, ...],
    variants: tuple[str, ...],
    last: bool,
    ranges: bool,
    heads: bool,
    calibration: tuple[str, ...],
    exact_only: bool,
    tasks: str | None,
    suite: str | None,
    include_paths: tuple[Path, ...],
    limit: float | None,
    with_bounds: bool,
    estimates: bool,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure what editing each block of MODEL does: to what it recites, and to held-out text.

    Every block alone and the last k blocks together, in every variant. MODEL and SAMPLES are as for
    extract. With --tasks or --suite, every edit also on lm-eval's benchmarks. Nothing is exported;
    the figures are those that extract and lm_eval give for the exported models.
    """
    if exact_only and (corpus or with_bounds or estimates):
        raise click.UsageError(
            "--exact-only reads no held-out text, so no --corpus, --bounds or --estimate"
        )
    check_tasks(tasks, suite)
    with_tasks_too = tasks is not None or suite is not None
    if not with_tasks_too and (include_paths or limit is not None):
        raise click.UsageError(
            "--include-path and --limit say which tasks: give --tasks or --suite"
        )

    from evals.edits.batch import BASE
    from evals.edits.engine import Engine
    from evals.evaluation.swept import batch_sizes, run_tasks, with_tasks
    from evals.files import Journal
    from evals.running.processes import Processes
    from evals.running.request import Measuring
    from evals.samples.windows import control_windows
    from evals.search.units import possible, units
    from evals.sweep.edits import left_out, swept
    from evals.sweep.estimates import with_estimates
    from evals.sweep.folder import owned, write_sweep
    from evals.sweep.report import Setting, fitted_alone, journal_of, sweep_report, with_divergence
    from surgery.output import check_output

    if output is not None:
        check_output(output, owned, overwrite=overwrite)
    processes = Processes.launched(say=note)
    running = Measuring.of(asked)
    passages = open_passages(samples, running)
    texts = [] if exact_only else needed_texts(corpus, model)
    fitted = calibration or (estimates and lab_of(model))
    default = list(VARIANTS) if fitted else ["identity", "zero"]
    chosen = list(dict.fromkeys(variants)) or default
    calibrated = calibration_text(calibration, model, chosen)
    benchmarks = None
    if with_tasks_too:
        look_up(model, running.revision)  # before its tasks, which may take long to load
        names = named_tasks(tasks, suite or "")
        benchmarks = load_tasks(names, include_paths=include_paths, limit=limit)
    loaded = open_model(model, running, processes, running.revision, say=note)
    rows = tokenized(passages, loaded, note)
    heldout = None
    if not exact_only:
        heldout = control_windows(texts, loaded.tokenizer, rows.tokens.shape[1])
    size = loaded.dimensions
    edits = swept(
        size.num_blocks,
        size.num_heads,
        chosen,
        last=last,
        ranges=ranges,
        heads=heads,
        num_groups=size.num_groups,
    )
    refused = left_out(loaded.editable, edits)
    estimated: tuple[Part, ...] = ()
    if estimates:
        every = units(size.num_blocks, size.num_heads, "mixed", chosen)
        estimated, reasons = possible(every, loaded.editable.refusal)
        refused = {variant: str(why) for (_, variant), why in reasons.items()} | refused
    warnings = [f"single heads with {name} are left out: {why}" for name, why in refused.items()]
    for warning in warnings:
        note(f"warning: {warning}")
    plans = [loaded.editable.plan(edit) for edit in edits]
    fitter = fitter_for(plans, calibrated, loaded, processes=processes, progress=progress)
    engine = Engine(
        loaded.model,
        rows,
        heldout,
        exact_only=exact_only,
        batch_size=running.batch_size,
        processes=processes,
        fitter=fitter,
        editable=loaded.editable,
    )
    setting = Setting(
        loaded,
        rows,
        heldout,
        exact_only,
        engine.batch_size,
        fitted_alone(fitter, edits),
        warnings,
    )
    sizes = {}
    if benchmarks is not None:
        sizes = batch_sizes(benchmarks, loaded, running.batch_size, processes)
    journals: list[Journal] = []
    if output is not None and processes.is_main:  # others need not know what the model is
        journals.append(journal_of(output, setting, edits))
        if benchmarks is not None:
            journals.append(journal_of(output, setting, edits, benchmarks.identify(sizes)))
    journal, task_journal = (*journals, None, None)[:2]
    with progress(f"sweep {model}", engine.work(edits)) as advance:
        measured = engine.measure([BASE, *edits], advance=advance, journal=journal)
    if benchmarks is not None:
        with progress("run tasks", len(edits) + 1) as advance:
            runs = run_tasks(
                benchmarks,
                loaded,
                list(edits),
                sizes,
                fitter=fitter,
                processes=processes,
                advance=advance,
                journal=task_journal,
            )
    found = None
    if estimated and heldout is not None:
        from evals.memorization.recovery import recovery_of
        from evals.search.estimates import look
        from evals.search.halves import Half

        recited = measured[0].exact & rows.trained_on
        with progress("estimate", None) as advance:
            found = look(
                loaded.model,
                Half(rows, heldout),
                recited if recited.any() else rows.trained_on,
                estimated,
                (),
                recovery_of("greedy"),
                {} if fitter is None else fitter.fits_alone(range(size.num_blocks), chosen),
                processes=processes,
                advance=advance,
            )
    if not processes.is_main:
        return
    result = sweep_report(setting, measured, edits)
    for warning in result["warnings"][len(warnings) :]:
        note(f"warning: {warning}")
    if found is not None and heldout is not None:
        result = with_estimates(
            result,
            [BASE, *edits],
            found.figures,
            estimated,
            {"windows": len(heldout), "passages": len(found.margins)},
        )
    if with_bounds and heldout is not None:
        from evals.bounds.divergence import bounds

        windows = heldout[:: max(1, len(heldout) // BOUND_WINDOWS)]
        with progress("bounds", len(windows)) as advance:
            bounded = bounds(loaded.model, windows, advance=advance)
        result = with_divergence(result, bounded.to_json())
    if benchmarks is not None:
        result = with_tasks(result, benchmarks, runs, sizes)
    if output is not None:
        config = config_of(click.get_current_context())
        write_sweep(output, result, overwrite=overwrite, config=config)
    for file in journals:
        file.remove()
    if as_json:
        print_json(result)
    else:
        show_sweep(result)
