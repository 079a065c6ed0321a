"""How near response estimates come to what is measured, for single heads, sets and whole blocks.

    python benchmarks/estimates.py lab:pythia
    python benchmarks/estimates.py DIR --samples FILE --corpus FILE --calibration FILE --output DIR

Edits are drawn at random, variants mixed within a set; each is then measured on the same windows
and passages, fitted anew where others stand below it. Printed are Spearman's rank correlation of
the estimated and the measured KL divergence on held-out text and the quartiles of their ratio, and
the rank correlation of the estimated change of margins with the measured rise of the passages'
negative log-likelihood. `--output` saves all points as a picture.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import spearmanr

from evals.drawing import draw
from evals.edits.engine import Engine
from evals.inputs import calibration_text, fitter_for, needed_texts
from evals.memorization.recovery import recovery_of
from evals.models import open_model
from evals.running.processes import Processes
from evals.samples import load_samples
from evals.samples.windows import control_windows
from evals.search.estimates import look
from evals.search.halves import Half
from evals.search.units import clash, merged, possible, units
from surgery.families import family_of
from surgery.selection import Part, Selection
from surgery.variants import VARIANTS

SETS = {"single heads": 1, "pairs of heads": 2, "sets of 5 heads": 5}
MARKERS = {"single heads": ".", "pairs of heads": "x", "sets of 5 heads": "^", "whole blocks": "s"}


def drawn(heads: list[Part], size: int, number: int, rng: np.random.Generator) -> list[Selection]:
    """Random sets of that many heads, none twice."""
    found: dict[Selection, None] = {}
    while len(found) < number:
        some = [heads[index] for index in rng.choice(len(heads), size, replace=False)]
        if not any(clash(a, b) for i, a in enumerate(some) for b in some[:i]):
            found[merged(some)] = None
    return list(found)


def units_of(selection: Selection, every: Iterable[Part]) -> list[Part]:
    """The parts that are units, and the single heads of others."""
    whole = set(every)
    return [
        unit
        for part in selection
        for unit in (
            [part] if part in whole else [Part(part.block, (h,), part.variant) for h in part.heads]
        )
    ]


def evenly(rows: Any, most: int) -> Any:
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def quartiles(values: Iterable[float]) -> str:
    low, median, high = np.quantile(list(values), [0.25, 0.5, 0.75])
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


@click.command()
@click.argument("model")
@click.option("--samples")
@click.option("--corpus", multiple=True, type=Path)
@click.option("--calibration", multiple=True)
@click.option("--variant", "variants", multiple=True, type=click.Choice(list(VARIANTS)))
@click.option("--rows", default=128, help="Windows, and passages.")
@click.option("--edits", default=40, help="Random sets of each size, and of whole blocks.")
@click.option("--output", type=Path)
def main(
    model: str,
    samples: str | None,
    corpus: tuple[Path, ...],
    calibration: tuple[str, ...],
    variants: tuple[str, ...],
    rows: int,
    edits: int,
    output: Path | None,
) -> None:
    """Compare estimates with what is measured on MODEL."""
    chosen = tuple(variants or VARIANTS)
    loaded = open_model(model, device="cpu")
    found = load_samples(samples or model, tokenizer=loaded.tokenizer)
    passages = found.spread(found.trained_on, rows)
    texts = needed_texts(corpus, model)
    windows = control_windows(texts, loaded.tokenizer, found.tokens.shape[1], most=rows)
    config = loaded.model.config.to_dict()
    sizes = family_of(config).dimensions(config)
    every = units(sizes.num_blocks, sizes.num_heads, "mixed", chosen)
    every, _ = possible(every, loaded.editable.refusal)
    blocks = [part for part in every if len(part.heads) == sizes.num_heads]
    heads = [part for part in every if len(part.heads) == 1]
    text = calibration_text(calibration, model, chosen)
    fitter = fitter_for([loaded.editable.plan((block,)) for block in blocks], text, loaded)
    fits = {} if fitter is None else fitter.fits_alone(range(sizes.num_blocks), chosen)

    begun = time.process_time()
    looked = look(
        loaded.model,
        Half(passages, windows),
        np.ones(len(passages), dtype=np.bool_),
        every,
        (),
        recovery_of("greedy"),
        fits,
        processes=Processes(),
    )
    spent = time.process_time() - begun
    click.echo(
        f"{model}: {sizes.num_blocks} blocks of {sizes.num_heads} heads, {', '.join(chosen)}; "
        f"{len(windows)} windows and {len(passages)} passages of {windows.shape[1]} tokens; all "
        f"{len(heads)} heads and {len(blocks)} blocks estimated in {spent:.1f} s of CPU time"
    )
    rng = np.random.default_rng(0)
    engine = Engine(loaded.model, passages, windows, fitter=fitter, layout="auto")
    base = engine.base.nll.mean()
    points: dict[str, np.ndarray] = {}
    sets = {name: drawn(heads, size, edits, rng) for name, size in SETS.items()}
    some = rng.permutation(len(blocks))[:edits]
    sets["whole blocks"] = [(blocks[index],) for index in some]
    for name, selections in sets.items():
        begun = time.process_time()
        found = engine.measure(selections)
        spent = time.process_time() - begun
        points[name] = np.array(
            [
                [
                    figures["kl"],
                    one.heldout_kl.mean(),
                    figures["margin"],
                    one.nll.mean() - base,
                ]
                for one in found
                for figures in [looked.figures(units_of(one.selection, every))]
            ]
        )
        kl, true_kl, margin, rise = points[name].T
        click.echo(
            f"  {name:16} n {len(found):3}: KL rank correlation {spearmanr(kl, true_kl)[0]:.3f}, "
            f"estimated / measured {quartiles(kl / true_kl)}; margins and NLL "
            f"{spearmanr(margin, rise)[0]:.3f}; measured in {spent:.1f} s"
        )
    if output is not None:
        picture(points, model, output)


def picture(points: dict[str, np.ndarray], model: str, folder: Path) -> None:
    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for axes in (left, right):  # before there are limits
            axes.set_xscale("log")
            axes.set_yscale("log")
        for name, (kl, true_kl, margin, rise) in ((n, p.T) for n, p in points.items()):
            style = {"linestyle": "none", "marker": MARKERS[name], "markersize": 4, "alpha": 0.8}
            left.plot(true_kl, kl, label=name, **style)
            right.plot(rise, margin, **style)
        ends = left.get_xlim(), left.get_ylim()
        left.axline((1e-3, 1e-3), (1, 1), color="0.6", linewidth=0.8, zorder=0)
        left.set(xlim=ends[0], ylim=ends[1])
        left.set_xlabel("measured KL, nats per token")
        left.set_ylabel("estimated KL, nats per token")
        right.set_xlabel("measured rise of the passages' NLL, nats")
        right.set_ylabel("estimated change of margins, nats²")
        figure.legend(loc="outside lower center", ncols=len(points))

    folder.mkdir(parents=True, exist_ok=True)
    short = Path(model).name
    title = f"{short}: estimated and measured edits"
    draw(paint, folder, "estimates-" + short.replace("lab:", ""), title=title, size=(7.5, 4.0))


if __name__ == "__main__":
    main()
