"""Compares rivals that each got what a search gets: the same half to choose by, and the same time.

    python -m benchmarks.rivals.fair lab:pythia --seconds 240 --output FAIR
    python -m benchmarks.rivals.fair MODEL --samples SAMPLES.jsonl --text OTHER.txt \\
        --heldout HELDOUT.txt --helper PUBLIC --tasks "" --seconds 600 --output FAIR

Each rival has up to 16 settings, and the search's rule chooses one (`methods.py`, beside this).
Deep blocks, the searches, and `erased` are ours. Then all are measured on the half of the passages
that was held back, which no method saw:

- the most that an attack without training recovers, with its name, what `relearn` does at learning
  rates of 1e-4 and 1e-3, and what `relearn-benign` does;
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

`--seed` decides which passages are held back, and whatever a method draws. `--dtype bfloat16` makes
the passes faster on a large model: rivals then train float32 weights by bfloat16 passes, and what
they made is measured in bfloat16.

A run that was interrupted goes on with the next rival. Several may share an output, each with a
`--method` of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.rivals.bed import read_seconds
from benchmarks.rivals.measuring import RELEARNED, make_bench
from benchmarks.rivals.methods import METHODS, SEARCHES, SWAP, Made, Workshop, write_json
from benchmarks.rivals.token_swap import check_helper
from evals.data import load_samples
from evals.lab import calibration_texts
from evals.measure.attacks.sibling import find_sibling
from evals.measure.edits.costs import MEASURES
from evals.run.models import LoadedModel, open_model
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel

FILE = click.Path(exists=True, path_type=Path)
RUNS = "runs"
"""The folder of what was measured, with a file for each method."""


@click.command()
@click.argument("model")
@click.option("--samples", help="Passages with their counts. Default: a lab model's own.")
@click.option("--text", multiple=True, type=FILE, help="Other text. Default: a lab model's own.")
@click.option("--heldout", multiple=True, type=FILE, help="Default: a lab model's own.")
@click.option("--helper", help="The second model of token-swap, which is left out without it.")
@click.option("--tasks", default="lab_next_line,lab_copy", show_default=True)
@click.option("--include-path", multiple=True, type=click.Path(path_type=Path))
@click.option("--limit", type=int, help="Documents of a task.")
@click.option(
    "--method", "only", multiple=True, type=click.Choice(METHODS), metavar="NAME",
    help="Only the base and these. Repeatable.",
)  # fmt: skip
@click.option("--seconds", default=240.0, show_default=True, help="Processor time of a rival.")
@click.option("--search", "more", default="", help="More options of the searches, as typed.")
@click.option("--seed", default=0, show_default=True, help="Of all methods and of the halves.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True
)
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    model: str, samples: str | None, text: tuple[Path, ...], heldout: tuple[Path, ...],
    helper: str | None, tasks: str, include_path: tuple[Path, ...], limit: int | None,
    only: tuple[str, ...], seconds: float, more: str, seed: int, dtype: str, output: Path,
) -> None:  # fmt: skip
    """Choose a setting of every method, measure all, and print a table."""
    if "--seed" in more.split():
        raise click.UsageError("--search has a --seed, and all methods share one: give --seed")
    asked = {
        "model": model, "samples": samples, "text": text, "heldout": heldout, "helper": helper,
        "tasks": tasks, "limit": limit, "seconds": seconds, "search": more, "seed": seed,
        "dtype": dtype,
    }  # fmt: skip
    runs = read_runs(output, asked)
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
    for flag, files in (("--calibration", text), ("--corpus", heldout)):
        given += [word for file in files for word in (flag, str(file))]
    fits = list(text) or [output / "calibration.txt"]
    if not text:
        fits[0].write_text("\n\n".join(calibration_texts()))
    workshop = Workshop(loaded, bench.bed, seconds, given, fits, second, output)
    for name, run in choose_methods(workshop.list_methods(), only, runs).items():
        begun = read_seconds()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            made = run()
        took = read_seconds() - begun
        if name == "erased-and-cut":
            took += runs["erased"]["seconds"]
        runs[name] = {"seconds": took, "setting": made.setting}
        if made.model is not None:
            runs[name] |= bench.measure(made.model.to(passes), made.cut)
        write_json(output / RUNS / f"{name}.json", runs[name])
        click.echo(f"{name}: {runs[name]}", err=True)
    print_table(runs)
    for line in list_longer(runs, seconds):
        click.echo(line, err=True)


def read_runs(output: Path, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Method → what an earlier run with the same options found.

    Raises `UsageError` if the output is of other options.
    """
    (output / RUNS).mkdir(parents=True, exist_ok=True)
    wanted, path = json.loads(json.dumps(asked, default=str)), output / "asked.json"
    if not path.exists():
        write_json(path, wanted)
    earlier = json.loads(path.read_text())
    if different := [name for name in wanted if earlier.get(name) != wanted[name]]:
        what = f"{output} holds a run with another --{different[0]}, {earlier.get(different[0])}"
        raise click.UsageError(f"{what}: give that, or another --output")
    files = {name: output / RUNS / f"{name}.json" for name in METHODS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


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
    if missing := wanted - methods.keys():
        raise click.UsageError(f"{', '.join(sorted(missing))} needs a second model: give --helper")
    left = {name: run for name, run in methods.items() if name in wanted and name not in runs}
    if "erased-and-cut" in left and not {"erased"} & (left.keys() | runs.keys()):
        raise click.UsageError("erased-and-cut needs the result of erased: name both")
    return left


def list_longer(runs: Mapping[str, Mapping[str, Any]], seconds: float) -> list[str]:
    """Says which searches took longer than a rival was given, as that is not fair to rivals."""
    return [
        f"{name} took {runs[name]['seconds']:.0f} s, and each rival had {seconds:.0f} s: for an "
        f"equal time, repeat the rivals in a new folder with --seconds {runs[name]['seconds']:.0f}"
        for name in SEARCHES
        if name in runs and runs[name]["seconds"] > seconds
    ]


def print_table(runs: dict[str, dict[str, Any]]) -> None:
    """Prints Markdown."""
    for row in make_rows(runs):
        click.echo("| " + " | ".join(row) + " |")


def make_rows(runs: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """The head, and a row for each method. A method that is not finished has no figures."""
    base = runs["not edited"]
    relearned = [f"relearn {rate:g}" for rate in RELEARNED]
    trained = [*relearned, "relearn-benign", "revive", "graft"]
    shares = ["no training", *trained, "any, seen", "any, not seen"]
    measured = [name for name in shares if any(run.get(name) is not None for run in runs.values())]
    known = {"seconds", "setting", "by", "membership", "never trained", *shares, *MEASURES}
    tasks = [name for name in base if name not in known]
    columns = [*measured, "membership", "never trained, nats", *MEASURES, *tasks]
    yield ["", *columns, "seconds", "setting"]
    yield ["---"] * (len(columns) + 3)
    for name, run in sorted(runs.items(), key=lambda one: METHODS.index(one[0])):
        ends = [f"{run['seconds']:.0f}", run["setting"]]
        if "no training" not in run:
            yield [f"`{name}`", *[""] * len(columns), *ends]
            continue
        cells = [_format(run.get(share), "{:.1%}") for share in measured]
        cells[0] += f" ({run['by']})"
        yield [
            f"`{name}`",
            *cells,
            _format(run.get("membership"), "{:.2f}"),
            _format(run["never trained"], "{:+.2f}"),
            *(f"{run[cost]:.3f}" for cost in MEASURES),
            *(f"{100 * (run[task] - base[task]):+.1f}" for task in tasks),
            *ends,
        ]


def _format(value: float | None, form: str) -> str:
    """Empty for what was not measured."""
    return "" if value is None else form.format(value)


if __name__ == "__main__":
    main()
