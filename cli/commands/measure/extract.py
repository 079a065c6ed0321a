"""attn-surgery extract"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cli.options import (
    FILE,
    Number,
    control_option,
    json_option,
    length_options,
    note,
    output_option,
    overwrite_option,
    print_json,
    revision_option,
    running_options,
    samples_option,
)
from cli.progress import progress
from cli.tables.extraction import print_extraction
from evals.inputs import heldout_texts, open_model, open_passages


@click.command("extract")
@click.argument("model")
@samples_option("The passages to test: see below.", required=True)
@click.option("--baseline", metavar="MODEL", help="The unedited model: compare on the same rows.")
@revision_option
@length_options
@click.option(
    "--metrics",
    type=click.Choice(["exact", "full"]),
    default="exact",
    show_default=True,
    help="exact: one pass, no decoding. full: also near matches, free-running scores, entropy, "
    "probabilistic extraction and min-k++.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="Sampling scheme of probabilistic extraction.",
)
@click.option(
    "--temperature",
    type=Number(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Likewise.",
)
@control_option(
    "Text the model was not trained on, as for collect, measured beside the samples; may be "
    "repeated.  [default: a lab model's own, or the samples' non-members]"
)
@running_options
@click.option("--rows", type=FILE, metavar="FILE", help="Also write one JSON line a row.")
@output_option("Also write the JSON object.", FILE, metavar="FILE")
@overwrite_option
@click.option("--show-text", is_flag=True, help="Put the passages' text into the rows.")
@json_option
def command(
    model: str,
    samples: str,
    baseline: str | None,
    metrics: str,
    top_k: int,
    temperature: float,
    controls: tuple[Path, ...],
    rows: Path | None,
    output: Path | None,
    overwrite: bool,
    show_text: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Test which of SAMPLES the MODEL recites: it is given each prefix, and must say the suffix.

    MODEL is a folder, a Hub id, or an embedded model (lab:pythia, lab:gpt-neo). SAMPLES is
    FILE.npy (token ids), PREFIX.npy,SUFFIX.npy, a .jsonl, .json, .csv, .tsv or .parquet file
    (tokens, or prefix and suffix, or text; optionally id, count, member), a .txt file (one passage
    a line), a folder of these, hf:DATASET:SPLIT:COLUMN, or lab:pythia or lab:gpt-neo.

    Runs on many processes under `accelerate launch`, with the same result. Results hold ids,
    scores and hashes, and no text unless asked for.
    """
    if rows is not None and rows == output:
        raise click.UsageError("--rows and --output name the same file")

    from evals.memorization.comparison import Protocol, measure, report
    from evals.memorization.summary import rows as row_records
    from evals.models import check_precision
    from evals.running.predictions import Sampling
    from evals.running.processes import Processes
    from evals.running.request import Measuring
    from evals.samples.windows import control_windows
    from surgery.hub.finding import find_model
    from surgery.output import check_output, write_lines

    for file, argument in ((rows, "rows"), (output, "output")):
        if file is not None:
            check_output(file, overwrite=overwrite, argument=argument)
    running = Measuring.of(asked)
    passages = open_passages(samples, running)
    texts = heldout_texts(controls, model, baseline, samples)
    processes = Processes.launched(say=note)
    found = None if baseline is None else find_model(baseline)  # measured last, so found first
    loaded = open_model(model, running, processes, running.revision, say=note)
    tokenized, windows = passages.tokenized(loaded.tokenizer), None
    if texts and (controls or loaded.tokenizer is not None):
        windows = control_windows(texts, loaded.tokenizer, tokenized.tokens.shape[1])
    sampling = Sampling(top_k, temperature)
    protocol = Protocol(tokenized, windows, metrics == "full", sampling, running.batch_size)
    total = len(tokenized) + (0 if windows is None else len(windows))
    with progress(f"extract {model}", total) as advance:
        edited = measure(loaded, protocol, processes=processes, advance=advance)
    tokenizer, before = loaded.tokenizer if show_text else None, None
    if found is not None:
        del loaded  # one model in memory at a time
        original = open_model(found, running, processes, say=note)
        check_precision(original.dtype, *(edited.provenance[key] for key in ("dtype", "model")))
        same = replace(protocol, batch_size=edited.test.batch_size)
        with progress(f"extract {baseline}", total) as advance:
            before = measure(original, same, processes=processes, advance=advance)
    if not processes.is_main:
        return
    result = report(edited, before)
    for warning in result["warnings"]:
        note(f"warning: {warning}")
    if rows is not None:
        records = row_records(
            edited.test, baseline=None if before is None else before.test, tokenizer=tokenizer
        )
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        write_lines(rows, lines, overwrite=overwrite)
    if output is not None:
        text = json.dumps(result, indent=2, ensure_ascii=False)
        write_lines(output, [text], overwrite=overwrite)
    if as_json:
        print_json(result)
    else:
        print_extraction(result)
