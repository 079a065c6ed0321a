"""attn-surgery extract"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.requests import request_command
from cli.tables import format_figure, print_choice, print_table
from cli.terminal import echo, print_json
from evals.jobs.extracting import ExtractionRequest, run_extraction


@request_command("extract", ExtractionRequest)
@click.argument("model")
@options.option(
    "--rows",
    "FILE",
    "Also write one JSON line for each passage to this file.",
    options.FILE,
    group="output",
)
@options.output("Also write the JSON object to this file.", options.FILE, metavar="FILE")
@options.overwrite
@options.flag("--show-text", "Also write the text of the passages into the rows.", group="output")
@options.json
def command(
    request: ExtractionRequest,
    rows: Path | None,
    output: Path | None,
    overwrite: bool,
    show_text: bool,
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
    if show_text and rows is None:
        raise click.UsageError("--show-text needs --rows")

    text = {"show_text": show_text, "overwrite": overwrite}
    result = run_extraction(request, rows=rows, output=output, **text)
    if result is not None:
        (print_json if as_json else print_extraction)(result)


def print_extraction(result: dict[str, Any]) -> None:
    """Prints the object of `extract --json` as a table, with 95 % intervals in brackets."""
    from evals.data import say_lengths

    before, paired = result.get("baseline"), result.get("paired")
    lengths = say_lengths(*(result[key] for key in ("prefix_length", "suffix_length", "secrets")))
    echo(f"{result['n']} passages, {lengths}; 95 % intervals in brackets")
    print_choice(result)
    if before is None:
        print_table(("", "model"), _make_rows([result]))
    else:
        print_table(("", "baseline", "edited"), _make_rows([before, result]))
    for part, which in (("all_passages", "all passages"), ("taught", "those that were taught")):
        if rest := result.get(part):
            recited = [one for one in rest["recited"].values() if one is not None]
            shares = ", ".join(f"{one['count']} of {one['n']}" for one in recited)
            whose = "base and edited" if len(recited) > 1 else "edited"
            echo(f"of {which}, recited by {whose}: {shares}")
    if paired is None:
        return
    echo(
        f"{paired['forgotten']} no longer recited, {paired['newly_extracted']} newly extracted "
        f"(exact McNemar p = {paired['p_value']:.2g}); difference "
        f"{format_figure(paired['exact_match_difference'], '{:+.1%}')}"
    )
    if "selectivity" in paired:
        echo(f"selectivity {format_figure(paired['selectivity'], '{:+.3f}')} nats/token")


def _make_rows(columns: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    from evals.measure.memorization.measures import MEASURES

    for one in MEASURES:
        figures = [_look_up(column, one.path) for column in columns]
        if one.label and all(figures):
            yield one.label, *(format_figure(figure, one.form) for figure in figures)
    if "control" in columns[0]:
        kind = columns[0]["control"]["kind"]
        yield (
            f"control NLL ({kind})",
            *(format_figure(c["control"]["nll"], "{:.3f}") for c in columns),
        )
    strata = [column.get("by_count", []) for column in columns]
    for parts in zip(*strata, strict=True):
        yield (
            f"exact, count {parts[0]['count']}",
            *(format_figure(part["exact_match"]) for part in parts),
        )


def _look_up(figures: Any, path: Iterable[str]) -> Any:
    for part in path:
        figures = figures.get(part, {})
    return figures
