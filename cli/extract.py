"""attn-surgery extract"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.extraction_table import print_extraction
from cli.measuring import open_model, running_options
from cli.options import json_option, note, print_json, resolve_model, revision_option
from cli.progress import progress

if TYPE_CHECKING:
    from evals.samples import Tokens
    from evals.subjects import Subject

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("extract")
@click.argument("model")
@click.option(
    "--samples", required=True, metavar="SAMPLES", help="The passages to test: see below."
)
@click.option("--baseline", metavar="MODEL", help="The unedited model: compare on the same rows.")
@revision_option
@click.option(
    "--prefix-length", type=int, metavar="N", help="Tokens given.  [default: 32, or a pair's own]"
)
@click.option(
    "--suffix-length", type=int, metavar="N", help="Tokens asked for.  [default: likewise]"
)
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
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Likewise.",
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text the model was not trained on, measured beside the samples; may be repeated.  "
    "[default: a lab model's own, or the samples' non-members]",
)
@running_options
@click.option("--rows", type=FILE, metavar="FILE", help="Also write one JSON line a row.")
@click.option("--output", type=FILE, metavar="FILE", help="Also write the JSON object.")
@click.option("--show-text", is_flag=True, help="Put the passages' text into the rows.")
@json_option
def command(
    model: str,
    samples: str,
    baseline: str | None,
    revision: str | None,
    prefix_length: int | None,
    suffix_length: int | None,
    metrics: str,
    top_k: int,
    temperature: float,
    controls: tuple[Path, ...],
    dtype: str,
    device: str | None,
    device_map: str | None,
    batch_size: int | None,
    rows: Path | None,
    output: Path | None,
    show_text: bool,
    as_json: bool,
) -> None:
    """Test which of SAMPLES the MODEL recites: it is given each prefix, and must say the suffix.

    MODEL is a folder, a Hub id, or an embedded model (lab:pythia, lab:gpt-neo). SAMPLES is
    FILE.npy (token ids), PREFIX.npy,SUFFIX.npy, FILE.jsonl or FILE.parquet (tokens, or prefix and
    suffix, or text; optionally id, count, member), hf:DATASET:SPLIT:COLUMN, or lab:pythia or
    lab:gpt-neo.

    Runs on many processes under `accelerate launch`, with the same result. Results hold ids,
    scores and hashes, and no text unless asked for.
    """
    from evals.memorization import Protocol, measure, report
    from evals.positions import Sampling
    from evals.processes import Processes
    from evals.samples import load_samples
    from evals.summary import rows as row_records
    from evals.writing import check_writable, write_lines
    from surgery.hub import find_model

    for file in (rows, output):
        if file is not None:
            check_writable(file)
    if baseline is not None:
        find_model(resolve_model(baseline)[0])  # measured last, so looked for first
    processes = Processes.launched()
    running: dict[str, Any] = {
        "dtype": dtype,
        "device": device or processes.device,
        "device_map": device_map,
    }
    subject = open_model(model, revision=revision, **running)
    loaded = load_samples(
        samples,
        tokenizer=subject.tokenizer,
        prefix_length=prefix_length,
        suffix_length=suffix_length,
    )
    windows = _controls(controls, (model, baseline, samples), subject, loaded.tokens.shape[1])
    protocol = Protocol(
        loaded, windows, metrics == "full", Sampling(top_k, temperature), batch_size
    )
    total = len(loaded) + (0 if windows is None else len(windows))
    with progress(f"extract {model}", total) as advance:
        edited = measure(subject, protocol, processes=processes, advance=advance)
    tokenizer, before = subject.tokenizer if show_text else None, None
    if baseline is not None:
        del subject  # one model in memory at a time
        original = open_model(baseline, **running)
        same = Protocol(loaded, windows, protocol.full, protocol.sampling, edited.test.batch_size)
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
        write_lines(rows, (json.dumps(record, ensure_ascii=False) for record in records))
    if output is not None:
        write_lines(output, [json.dumps(result, indent=2, ensure_ascii=False)])
    if as_json:
        print_json(result)
    else:
        print_extraction(result)


def _controls(
    files: tuple[Path, ...], named: tuple[str | None, ...], subject: Subject, length: int
) -> Tokens | None:
    """Windows of the control text that was given, or of the lab's where a lab model is tested."""
    from evals.controls import control_windows
    from evals.lab import heldout_texts
    from surgery.errors import SamplesError

    if files:
        if subject.tokenizer is None:
            raise SamplesError("control text needs a tokenizer", where=subject.name)
        try:
            texts = [file.read_text(encoding="utf-8") for file in files]
        except (OSError, UnicodeDecodeError) as error:
            raise SamplesError("control text cannot be read", got=error) from error
        return control_windows(texts, subject.tokenizer, length)
    if subject.tokenizer is not None and any(name and name.startswith("lab:") for name in named):
        return control_windows(heldout_texts(), subject.tokenizer, length)
    return None
