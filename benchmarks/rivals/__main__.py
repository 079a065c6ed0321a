"""Compares rivals that each got what a search gets: the same half to choose by, and the same time.

    python -m benchmarks.rivals lab:pythia --seconds 240 --output RIVALS
    python -m benchmarks.rivals MODEL --samples SAMPLES.jsonl --text OTHER.txt \\
        --heldout HELDOUT.txt --helper PUBLIC --tasks "" --seconds 600 --output RIVALS

Each rival has up to 16 settings, and the search's rule chooses one (`methods.py`, beside this).
Deep blocks, the searches, and `erased` are ours. Then all are measured on the half of the passages
that was held back, which no method saw:

- the most that an attack without training recovers, with its name, and what `relearn` does, at the
  learning rate and the number of steps that recover most;
- for those who know the edit: `revive`, where blocks were cut, and with --helper `graft`, with the
  second model as the sibling, in one draw each;
- the highest AUC of a membership score, passages against those that no model was trained on, or 1
  less it, as a model that has forgotten too much gives them away, too;
- `any` on the half that the method saw, and on the half that it did not: the same attack;
- by how much the loss rises on passages that no model was trained on, as a method may silence their
  form;
- the four costs on the half of the held-out text that is held back, and points of benchmarks.

TokenSwap decodes with a second model, `--helper`, which never learned the passages. It changes no
weight. So `relearn` fine-tunes the model without the helper, as whoever holds the weights would.

`--seed` decides which passages are held back, and whatever a method draws, but for healing.
`--dtype bfloat16` makes the passes faster on a large model: rivals then train float32 weights by
bfloat16 passes, and what they made is measured in bfloat16.

A run that was interrupted goes on with the next rival. Several may share an output, each with a
`--method` of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.asked import CONTENT, check_asked, hash_files
from benchmarks.rivals.bed import read_seconds, run_passes
from benchmarks.rivals.choosing import measure_relearned, run_relearn
from benchmarks.rivals.measuring import make_bench
from benchmarks.rivals.methods import (
    AFTER,
    METHODS,
    OURS,
    SWAP,
    TWIN,
    UNCHANGED,
    Made,
    Workshop,
    write_json,
)
from benchmarks.rivals.table import RUNS, print_table, read_runs
from benchmarks.rivals.token_swap import check_helper
from evals.data import load_samples
from evals.lab import calibration_texts
from evals.measure.attacks.sibling import find_sibling
from evals.run.models import LoadedModel, open_model
from surgery.checkpoint.content import hash_file
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.training.student import cast_weights

FILE = click.Path(exists=True, path_type=Path)
SHARED = (
    "--seed", "--choose", "--leave-out", "--samples", "--prefix-length", "--suffix-length",
    "--skip-short", "--heldout", "--corpus", "--dtype",
)  # fmt: skip
"""Options of a search on which it depends what is held back, or that all methods share."""


@click.command()
@click.argument("model")
@click.option("--samples", help="Passages with their counts. Default: a lab model's own.")
@click.option("--text", multiple=True, type=FILE, help="Other text. Default: a lab model's own.")
@click.option("--heldout", multiple=True, type=FILE, help="Default: a lab model's own.")
@click.option("--helper", help="The second model of token-swap, which is left out without it.")
@click.option("--twin", help="A model that never saw the passages, as one more row.")
@click.option("--tasks", default="lab_next_line,lab_copy", show_default=True)
@click.option("--include-path", multiple=True, type=click.Path(path_type=Path))
@click.option("--limit", type=int, help="Documents of a task.")
@click.option(
    "--method", "only", multiple=True, type=click.Choice(METHODS), metavar="NAME",
    help="Only the base and these. Repeatable.",
)  # fmt: skip
@click.option("--seconds", default=240.0, show_default=True, help="Processor time of a rival.")
@click.option(
    "--settings",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Of a rival's settings, try so many, as --seed draws them.",
)
@click.option("--search", "more", default="", help="More options of the searches, as typed.")
@click.option("--seed", default=0, show_default=True, help="Of all methods and of the halves.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True
)
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    model: str, samples: str | None, text: tuple[Path, ...], heldout: tuple[Path, ...],
    helper: str | None, twin: str | None, tasks: str, include_path: tuple[Path, ...],
    limit: int | None, only: tuple[str, ...], seconds: float, settings: int, more: str, seed: int,
    dtype: str, output: Path,
) -> None:  # fmt: skip
    """Choose a setting of every method, measure all, and print a table."""
    if own := {word.partition("=")[0] for word in more.split()}.intersection(SHARED):
        what = f"--search has {min(own)}, which all methods share"
        raise click.UsageError(f"{what}: leave it out there")
    check_asked(output, {
        "model": model, "samples": samples, "text": text, "heldout": heldout, "helper": helper,
        "twin": twin, "tasks": tasks, "include_path": include_path, "limit": limit,
        "seconds": seconds, "settings": settings, "search": more, "seed": seed, "dtype": dtype,
        CONTENT: hash_files(samples, *text, *heldout),
    })  # fmt: skip
    (output / RUNS).mkdir(exist_ok=True)
    runs = read_runs(output)
    torch.set_num_threads(1)
    passes: torch.dtype = getattr(torch, dtype)
    loaded = open_model(model, dtype=dtype, device="cpu")
    loaded.model.requires_grad_(False)
    second = open_helper(helper, loaded)
    passages = load_samples(samples or model, tokenizer=loaded.tokenizer)
    bench = make_bench(
        model, loaded, passages, text, heldout, tasks, include_path, limit, seed, passes
    )
    bench = replace(bench, sibling=find_base(helper, loaded))
    given = ["--samples", samples or model, "--dtype", dtype, "--seed", str(seed), *more.split()]
    fits = list(text) or [output / "calibration.txt"]
    if not text:  # one file for what a search fits and for its export
        fits[0].write_text("\n\n".join(calibration_texts()))
    fitted = "--variant" not in more or {"mean", "linear"} & set(more.replace("=", " ").split())
    for flag, files in (("--calibration", fits if fitted else ()), ("--corpus", heldout)):
        given += [word for file in files for word in (flag, str(file))]
    workshop = Workshop(loaded, bench.bed, seconds, given, fits, second, twin, output, settings)
    for name, run in choose_methods(workshop.list_methods(), only, runs).items():
        begun = read_seconds()
        with run_passes(passes):
            made = run()
        took = read_seconds() - begun
        if name in AFTER:
            took += runs[AFTER[name]]["seconds"]
        runs[name] = {"seconds": took, "setting": made.setting, "code": hash_code()}
        if made.model is not None:
            edited, left = cast_weights(made.model, passes), made.left
            if left is None and name not in UNCHANGED:
                given = bench.bed.samples, bench.bed.text
                left = measure_relearned(
                    edited, *given, run_relearn(loaded.model, *given).trainings
                )
            runs[name] |= {"left": left, "any alone": made.cheapest}
            runs[name] |= bench.measure(edited, made.cut)
        write_json(output / RUNS / f"{name}.json", runs[name])
        click.echo(f"{name}: {runs[name]}", err=True)
    print_table([runs])
    for line in list_longer(runs, seconds):
        click.echo(line, err=True)


def hash_code() -> str:
    """Tells versions of this comparison apart: the hash of its files, shortened."""
    hashes = (hash_file(file) for file in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]


def open_helper(name: str | None, loaded: LoadedModel) -> Any:
    """The second model of TokenSwap, or None, which it says."""
    if name is None:
        click.echo(f"{SWAP}: left out, as it needs a second model (--helper)", err=True)
        return None
    helper = open_model(name, dtype=str(loaded.model.dtype).removeprefix("torch."), device="cpu")
    check_helper(loaded, helper)
    return helper.model.requires_grad_(False)


def find_base(helper: str | None, loaded: LoadedModel) -> ResolvedModel | None:
    """The second model, if attention can be copied back from it. If not, it says why."""
    try:
        return find_sibling(helper, [loaded.found])
    except MeasurementError as error:
        click.echo(f"graft: left out: {error}", err=True)
        return None


def choose_methods(
    methods: Mapping[str, Callable[[], Made]],
    only: Collection[str],
    runs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Callable[[], Made]]:
    """Those that are left to run. The table always needs the base.

    Raises `UsageError` for a method that lacks what it needs.
    """
    wanted = {"not edited", *only} if only else set(methods)
    for name, option in ((SWAP, "helper"), (TWIN, "twin")):
        if name in wanted - methods.keys():
            raise click.UsageError(f"{name} needs another model: give --{option}")
    left = {name: run for name, run in methods.items() if name in wanted and name not in runs}
    for name, first in AFTER.items():
        if name in left and first not in left.keys() | runs.keys():
            raise click.UsageError(f"{name} needs the result of {first}: name both")
    return left


def list_longer(runs: Mapping[str, Mapping[str, Any]], seconds: float) -> list[str]:
    """Says which of our methods took longer than a rival was given, as that is not fair."""
    return [
        f"{name} took {runs[name]['seconds']:.0f} s, and each rival had {seconds:.0f} s: for an "
        f"equal time, repeat the rivals in a new folder with --seconds {runs[name]['seconds']:.0f}"
        for name in OURS
        if name in runs and runs[name]["seconds"] > seconds
    ]


if __name__ == "__main__":
    main()
