"""Which measure of an edit's cost goes with what benchmarks lose?

    python -m benchmarks.costs lab:pythia
    python -m benchmarks.costs LEARNED/model --corpus LEARNED/heldout.txt --windows 8 \\
        --length 128 --calibration LEARNED/calibration.txt --fit-on 16384 --edits 20 \\
        --include-path TASKS --tasks real_lambada --limit 40

Draws edits as a search composes them: one or two whole blocks, or several heads, each in a variant.
Measures each on held-out text (`evals.measure.edits.costs`), and on benchmarks: by how much the
log-probability of the right answer falls (among the choices, where there are some), and its
accuracy. Prints Spearman's rank correlation of every measure with every benchmark; in parentheses,
the one that is left once the mean KL is known (partial). The tail is divided by its usual multiple
of the mean KL, the median of the edits, where it is compared with the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import spearmanr

from benchmarks.asked import CONTENT, check_asked, hash_files
from evals.data import Samples
from evals.data.inputs import find_calibration_text, require_heldout_texts
from evals.data.windows import cut_windows
from evals.measure.edits.costs import COUNTED, MEASURES
from evals.measure.edits.engine import Engine
from evals.run.lm_eval.running import Benchmarks
from evals.run.lm_eval.tasks import SUITES
from evals.run.models import LoadedModel, open_model
from surgery.fitting.fitter import Fitter
from surgery.output import write_text
from surgery.selection import EditedHeads, Selection, format_selection, variant_name

SEED = 3
VARIANTS = ("identity", "zero", "mean", "linear")


def draw_edits(loaded: LoadedModel, number: int) -> Iterator[Selection]:
    """Edits that differ: whole blocks in turn with heads of several blocks."""
    rng, size, seen = np.random.default_rng(SEED), loaded.dimensions, set[Selection]()
    each = size.num_heads // (size.num_groups or size.num_heads)
    groups = [tuple(range(at, at + each)) for at in range(0, size.num_heads, each)]
    while len(seen) < number:
        if len(seen) % 2:
            blocks = rng.choice(size.num_blocks, 1 + rng.integers(2), replace=False)
            places = [(block, tuple(range(size.num_heads))) for block in blocks]
        else:
            every = [(block, some) for block in range(size.num_blocks) for some in groups]
            most = max(3, len(every) // 8)
            places = [every[at] for at in rng.choice(len(every), 2 + rng.integers(most - 1))]
        parts: dict[tuple[int, tuple[int, ...]], EditedHeads] = {
            (int(block), heads): EditedHeads(
                int(block), heads, VARIANTS[rng.integers(len(VARIANTS))]
            )
            for block, heads in places
        }
        joined: dict[tuple[int, str], list[int]] = {}
        for part in parts.values():
            joined.setdefault((part.block, part.variant), []).extend(part.heads)
        edit = tuple(sorted(EditedHeads(b, tuple(sorted(h)), v) for (b, v), h in joined.items()))
        if edit not in seen and loaded.editable.find_refusal(edit) is None:
            seen.add(edit)
            yield edit


def score(run: dict[str, Any]) -> dict[str, float]:
    """`log p` of the right answer, in nats, and `acc` where it is measured."""
    found, accuracies = [], []
    for sample in run["samples"]:
        values = [float(np.ravel(one)[0]) for one in sample["filtered_resps"]]
        choices = len(values) > 1
        right = int(sample["target"]) if choices else 0
        found.append(values[right] - (logsumexp(values) if choices else 0.0))
        if "acc" in sample:
            accuracies.append(float(sample["acc"]))
    return {"log p": float(np.mean(found))} | (
        {"acc": float(np.mean(accuracies))} if accuracies else {}
    )


def correlate(values: list[float], losses: list[float], known: list[float]) -> tuple[float, float]:
    """Spearman's ρ of values and losses, and the partial one, given `known`."""
    of = {
        pair: float(spearmanr(*pair_of).statistic)
        for pair, pair_of in {
            "vl": (values, losses), "vk": (values, known), "lk": (losses, known)
        }.items()
    }  # fmt: skip
    rest = ((1 - of["vk"] ** 2) * (1 - of["lk"] ** 2)) ** 0.5
    return of["vl"], (of["vl"] - of["vk"] * of["lk"]) / rest if rest > 1e-6 else 0.0


@click.command()
@click.argument("model")
@click.option("--corpus", multiple=True, type=click.Path(path_type=Path))
@click.option("--calibration", multiple=True)
@click.option("--fit-on", type=int, help="Tokens to fit mean and linear on. Default: as usual.")
@click.option("--tasks", default=",".join(SUITES["lab"]), show_default=True)
@click.option("--include-path", multiple=True, type=click.Path(path_type=Path))
@click.option("--limit", type=int, help="Documents of each task.")
@click.option("--edits", default=32, show_default=True)
@click.option("--windows", default=128, show_default=True)
@click.option("--length", default=64, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder that keeps the figures; goes on there.",
)
def main(model: str, corpus: tuple[Path, ...], calibration: tuple[str, ...], fit_on: int | None,
         tasks: str, include_path: tuple[Path, ...], limit: int | None, edits: int, windows: int,
         length: int, dtype: str, output: Path | None) -> None:  # fmt: skip
    """Rank correlations of four costs of edits of MODEL with what benchmarks lose."""
    torch.set_num_threads(1)
    kept = output and output / "edits.json"
    if output:
        check_asked(output, {
            "model": model, "corpus": corpus, "calibration": calibration, "fit-on": fit_on,
            "tasks": tasks, "include-path": include_path, "limit": limit, "windows": windows,
            "length": length, "dtype": dtype, CONTENT: hash_files(*corpus, *calibration),
        })  # fmt: skip
    loaded = open_model(model, dtype=dtype)
    rows = cut_windows(require_heldout_texts(corpus, model), loaded.tokenizer, length, most=windows)
    text = find_calibration_text(calibration, model, VARIANTS)
    assert text is not None
    calibrated = text.tokenize(loaded.tokenizer, loaded.dimensions, most_tokens=fit_on)
    fitter = Fitter(loaded.model, calibrated, editable=loaded.editable)
    fits = fitter.fit_alone(range(loaded.dimensions.num_blocks), VARIANTS)
    benchmarks = Benchmarks.load(tasks.split(","), include_paths=include_path, limit=limit)
    some = Samples(rows[:1], length // 2, ("a window",), "held-out text")
    engine = Engine(
        loaded.model, some, rows, costs=True, fit=lambda edit: fits,
        editable=loaded.editable,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(kept.read_text()) if kept and kept.exists() else []
    chosen = [(), *draw_edits(loaded, edits)]
    for edit in chosen[len(found) :]:
        (measured,) = engine.measure([edit])
        cut = loaded.model
        if edit:
            cut = loaded.editable.apply(loaded.editable.plan(edit), fits)
        line: dict[str, Any] = {
            "edit": format_selection(edit, loaded.dimensions.num_heads) if edit else "none",
            "variant": variant_name(edit) if edit else "",
            "loss": float(measured.heldout_nll.mean()),
            **measured.costs,
        }
        for name in benchmarks.tasks:
            size = benchmarks.batch_size(name, loaded)
            run = benchmarks.run(name, replace(loaded, model=cut), batch_size=size)
            line |= {f"{name}, {key}": value for key, value in score(run).items()}
        found.append(line)
        click.echo(json.dumps(line), err=True)
        if kept:
            write_text(kept, json.dumps(found, indent=1), overwrite=True)
    print_table(found[: edits + 1])  # more of them may be kept


def print_table(found: list[dict[str, Any]]) -> None:
    """Rank correlations, each as "all (beyond KL)"."""
    base, *edited = found
    scores = [name for name in base if ", " in name]
    losses = {name: [base[name] - one[name] for one in edited] for name in scores}
    costs = {name: [one[name] for one in edited] for name in MEASURES}
    costs["loss"] = [one["loss"] - base["loss"] for one in edited]
    for names in (COUNTED, ("kl", "kl.copied"), ("kl", "kl.repeated")):
        costs["largest of " + ", ".join(names)] = [
            max(one[name] for name in names) for one in edited
        ]
    tail = float(np.median(np.divide(costs["kl.tail"], costs["kl"])))
    costs["largest of all, tail / " + f"{tail:.1f}"] = [
        max(*(one[name] for name in COUNTED), one["kl.tail"] / tail) for one in edited
    ]
    click.echo(f"{len(edited)} edits")
    click.echo("| cost | " + " | ".join(scores) + " |")
    click.echo("| --- |" + " --- |" * len(scores))
    for name, values in costs.items():
        cells = (correlate(values, losses[task], costs["kl"]) for task in scores)
        click.echo(f"| {name} | " + " | ".join(f"{a:.2f} ({b:+.2f})" for a, b in cells) + " |")


if __name__ == "__main__":
    main()
