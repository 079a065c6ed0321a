"""Compares attention surgery with its rivals on one model, one set of passages, and all attacks.

    python -m benchmarks.rivals lab:pythia --output rivals
    python -m benchmarks.rivals data/deep --samples data/deep/records.jsonl \\
        --text data/deep/calibration.txt --heldout data/deep/heldout.txt --suite lab \\
        --output rivals

Every rival sees the half of the passages that `attn-surgery search` chooses on, and stops once the
attack `any` recovers at most 1 % of them, or after `--seconds`. A run that was interrupted goes on
with the next rival. Its result is an ordinary folder.
`attn-surgery evaluate` then measures all of them on the other half. NAME+search-any is a rival's
result with the edit that `search-any` chose.
Without `--seconds` of their own, searches take what they take; the table says how long.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import torch
from safetensors.torch import load_file

from benchmarks.rivals.bed import Bed, Rival, read_seconds, run_passes, write_samples
from benchmarks.rivals.kfac import kfac
from benchmarks.rivals.pruning import pruning
from benchmarks.rivals.surgery import cut_also, cut_deep_blocks, run_command, search
from benchmarks.rivals.table import ATTACKS, print_table
from benchmarks.rivals.training import finetune_control, gradient_difference, npo
from benchmarks.rivals.vector_editing import vector_editing
from evals.data import Samples, load_samples
from evals.data.held_back import split_halves
from evals.data.inputs import read_heldout_texts
from evals.data.windows import cut_windows
from evals.lab import calibration_texts
from evals.run.models import LoadedModel, open_model
from surgery.checkpoint.source import TOKENIZER

RIVALS: dict[str, Rival] = {
    "finetune-control": finetune_control,
    "gradient-difference": gradient_difference,
    "npo": npo,
    "kfac": kfac,
    "pruning": pruning,
    "vector-editing": vector_editing,
}
SEARCHES = {
    "search-any": ("any=0.01",),
    "search-relearn": ("any=0.01", "relearn=0.05"),
}
BOTH = ("npo", "kfac", "pruning", "vector-editing")
"""Rivals whose results also get the edit of `search-any`."""
LENGTH = 128
"""Tokens of a window of other text."""
FILE = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("model")
@click.option("--samples", help="Passages with their counts. Default: a lab model's own.")
@click.option(
    "--text", multiple=True, type=FILE, help="Other text to train on. Default: a lab model's own."
)
@click.option("--heldout", multiple=True, type=FILE, help="Text that shows the cost.")
@click.option("--rival", "names", multiple=True, help="Only these. Repeatable.")
@click.option(
    "--seconds", default=300.0, show_default=True, help="The most processor time for one rival."
)
@click.option("--limit", default=0.01, show_default=True, help="Stop at this share recovered.")
@click.option(
    "--suite",
    help="Benchmarks, or none. Default: lab for a lab model, standard for any other.",
)
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16"]),
    help="Of all passes. Weights that are trained stay in float32.",
)
@click.option("--search", "more", default="", help="More options of the searches, as typed.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    model: str,
    samples: str | None,
    text: tuple[Path, ...],
    heldout: tuple[Path, ...],
    names: tuple[str, ...],
    seconds: float,
    limit: float,
    suite: str | None,
    dtype: str,
    more: str,
    output: Path,
) -> None:
    """Make a folder with each rival, measure all, and print a table."""
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # as the searches, which are timed alike
    loaded = open_model(model, dtype=dtype)
    passages = load_samples(samples or model, tokenizer=loaded.tokenizer)
    bed, held_back = make_bed(model, loaded, passages, text, heldout)
    rest = output / "held_back.jsonl"
    write_samples(held_back, rest)
    fits = list(text) or [output / "calibration.txt"]
    if not text:
        fits[0].write_text("\n\n".join(calibration_texts()))
    options = ["--samples", samples or model, "--dtype", dtype, "--cost", "kl", *shlex.split(more)]
    for flag, values in (("--calibration", text), ("--corpus", heldout)):
        options += [word for value in values for word in (flag, str(value))]
    jobs: dict[str, Callable[[Path], None]] = {
        **{
            name: partial(run_rival, rival, bed, seconds, limit, dtype)
            for name, rival in RIVALS.items()
        },
        "deep-blocks": partial(cut_deep_blocks, loaded.model, bed, limit),
        **{name: partial(search, limits, bed, options, fits) for name, limits in SEARCHES.items()},
        **{
            f"{name}+search-any": partial(
                cut_also, output / name, output / "search-any-search", fits
            )
            for name in BOTH
        },
    }
    done = output / "runs.json"
    runs: dict[str, dict[str, float]] = json.loads(done.read_text()) if done.exists() else {}
    for name in [name for name in names or jobs if name not in runs]:
        begun = read_seconds()
        jobs[name](output / name)
        runs[name] = {
            "seconds": read_seconds() - begun,
            "changed": measure_changed(bed.folder, output / name),
        }
        click.echo(f"{name}: {runs[name]['seconds']:.0f} s", err=True)
        done.write_text(json.dumps(runs, indent=2) + "\n")
    run_command(
        "evaluate", *(str(output / name) for name in runs), "--baseline", model,
        "--samples", str(rest), *(word for one in heldout for word in ("--control", str(one))),
        *(word for one in (*ATTACKS, "membership") for word in ("--attack", one)),
        "--draws", "1", "--output", str(output / "report"), "--dtype", dtype,
        *(("--no-benchmarks",) if suite == "none" else ("--suite", suite) if suite else ()),
    )  # fmt: skip
    print_table(output)


def make_bed(
    model: str,
    loaded: LoadedModel,
    passages: Samples,
    text: Sequence[Path],
    heldout: Sequence[Path],
) -> tuple[Bed, Samples]:
    """The bed, and the passages that are held back, with those that no model was trained on."""
    texts = read_heldout_texts(text) if text else calibration_texts()
    windows = cut_windows(texts, loaded.tokenizer, LENGTH, most=2048)
    control = cut_windows(read_heldout_texts(heldout, model), loaded.tokenizer, 64)
    first, _ = split_halves(passages, control, 0)
    left = [row not in set(first.samples.ids) for row in passages.ids]
    bed = Bed(model, loaded.found.folder, loaded.tokenizer, first.samples, windows)
    return bed, passages.select(torch.tensor(left).numpy())


def run_rival(
    rival: Rival, bed: Bed, seconds: float, limit: float, dtype: str, output: Path
) -> None:
    """Runs a rival on a fresh copy of the model and saves the result as an ordinary folder."""
    tuned = open_model(bed.model, dtype="float32").model.requires_grad_(True)
    begun = read_seconds()
    with run_passes(getattr(torch, dtype)):
        for _ in rival(tuned, bed):
            recovered = bed.measure_recovered(tuned)
            spent = read_seconds() - begun
            click.echo(f"{output.name}: {spent:.0f} s, {recovered:.1%} recovered", err=True)
            if recovered <= limit or spent > seconds:
                break
    tuned.save_pretrained(output)
    for name in TOKENIZER:
        if (bed.folder / name).exists():
            shutil.copy(bed.folder / name, output)


def measure_changed(base: Path, edited: Path) -> float:
    """The share of the edited weights' numbers that differ from the base's."""
    before, after = (
        {name: tensor for file in sorted(folder.glob("*.safetensors"))
         for name, tensor in load_file(file).items()}
        for folder in (base, edited)
    )  # fmt: skip
    different = sum(
        tensor.numel() if name not in before or before[name].shape != tensor.shape
        else int((before[name].to(tensor.dtype) != tensor).sum())
        for name, tensor in after.items()
    )  # fmt: skip
    return different / sum(tensor.numel() for tensor in after.values())


if __name__ == "__main__":
    main()
