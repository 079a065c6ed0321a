"""attn-surgery extract"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.requests import request_command
from cli.tables.figures import print_report
from cli.terminal import print_json
from evals.jobs.asking import MeasureRequest, take


@request_command("extract", MeasureRequest, **take("extract"))
@options.one_model
@options.rows
@options.output("Also write the JSON object to this file.", options.FILE, metavar="FILE")
@options.overwrite
@options.json
def command(
    request: MeasureRequest,
    rows: Path | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Test which of SAMPLES MODEL recites: it gets each prefix and must complete the suffix.

    MODEL is a folder, a Hub id, or a lab model (lab:pythia, lab:gpt-neo). SAMPLES is one of: a
    .npy file of token ids; PREFIX.npy,SUFFIX.npy; a .jsonl, .json, .csv, .tsv, or .parquet file
    with columns tokens, or prefix and suffix, or text (optional: id, count, member, secret); a
    .txt file with one passage a line; a folder of such tables (but .json) and .txt files; any of
    these with :COLUMN; hf:DATASET:SPLIT:COLUMN; hubble:SUBSET, pythia-evals:SPLIT, or
    lm-extraction:FOLDER; lab:pythia or lab:gpt-neo. Text may be compressed (.gz, .zst).

    If a search chose the edit on some of the passages, or it was taught some, the figures are for
    the others.

    Under `accelerate launch`, several processes share the work, with the same result. Results hold
    ids, scores, and hashes, and text only if you pass --show-text.
    """
    if rows is not None and output is not None and rows.resolve() == output.resolve():
        raise click.UsageError("--rows and --output name the same file")
    if request.show_text and rows is None:
        raise click.UsageError("--show-text needs --rows")

    from evals.jobs.evaluating import run_measurement

    found = run_measurement(request, output, rows=rows, overwrite=overwrite)
    if as_json:
        print_json(found.report.to_dict())
    print_report(found.report, table=not as_json)
