"""What each of the five results of `mitigate --erase` costs, and what attackers get of it.

    python -m benchmarks.erasing lab:pythia --drop-attn 0 --output DIR
    python -m benchmarks.erasing lab:gpt-neo --drop-attn 1 --output DIR

Leaves a quarter of the passages out. Makes the cut, the cut healed, the model erased by that cut,
erased and cut, and erased, cut, and healed, all with the other three quarters. Then attacks each
with the passages that were listed and, as a black box, with those that were not. What is there from
an earlier run is used again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from evals.data import Samples, open_samples
from evals.jobs.erasing import EraseRequest, run_erase
from evals.jobs.exporting import ExportRequest, run_export
from evals.jobs.materials import open_materials
from evals.jobs.mitigating import RESULTS
from evals.jobs.reporting import evaluate
from evals.report.request import EvaluationRequest
from evals.run.models import open_model
from surgery.hub.finding import find_model
from surgery.record.report import Report

SEED, LEFT_OUT = 0, 0.25
ATTACKS = ("any", "hints:8", "relearn", "revive")


def deal(samples: Samples, output: Path) -> tuple[Path, Path]:
    """Writes the passages to list and those to leave out. Both files hold the non-members, too."""
    members = np.flatnonzero(samples.trained_on)
    left = set(np.random.default_rng(SEED).permutation(members)[: int(LEFT_OUT * len(members))])
    rows: tuple[list[str], list[str]] = ([], [])
    for place, tokens in enumerate(samples.tokens.tolist()):
        member = bool(samples.trained_on[place])
        row = json.dumps({"id": samples.ids[place], "tokens": tokens, "member": member})
        for file, wanted in zip(rows, (place not in left, place in left), strict=True):
            if wanted or not member:
                file.append(row)
    listed, unlisted = (output / f"{name}.jsonl" for name in ("listed", "unlisted"))
    for file, lines in zip((listed, unlisted), rows, strict=True):
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return listed, unlisted


def make_results(
    model: str, drop_attn: str, variant: str, listed: Path, lengths: dict[str, int], output: Path
) -> Iterator[Path]:
    """Makes each result, unless it is there, with the passages in `listed`."""
    for name in RESULTS:
        place = output / name
        if not place.exists():
            given = {
                "model": model, "drop_attn": drop_attn, "variant": variant, "output": place,
                "samples": str(listed), **lengths,
            }  # fmt: skip
            click.echo(f"making {place}")
            if name == "erased":
                run_erase(EraseRequest(**given, text=(model,)))
            else:
                trained = {"heal": (model,)} if "heal" in name else {}
                trained |= {"erase": True, "text": (model,)} if "erase" in name else {}
                erased = output / "erased" if "erase" in name else None
                run_export(ExportRequest(**given, **trained), erased=erased)
        yield place


def compare(
    model: str, places: list[Path], samples: Path, attacks: tuple[str, ...], **lengths: int
) -> Report:
    request = EvaluationRequest(
        models=tuple(map(str, places)), baseline=model, samples=str(samples), no_benchmarks=True,
        attack=attacks, draws=1, **lengths,
    )  # fmt: skip
    found = [find_model(place) for place in places]
    return evaluate(found, find_model(model), open_materials(request)).report


def show(report: Report, place: int, name: str) -> str:
    """The share that an attack recovers of an edit."""
    figure = report.find(f"recovered.{name}")
    value = figure.edits[place] if figure else None
    return "" if value is None or value.value is None else f"{value.value:.1%}"


@click.command()
@click.argument("model")
@click.option("--drop-attn", required=True)
@click.option("--variant", default="identity", show_default=True)
@click.option("--output", type=Path, required=True)
def main(model: str, drop_attn: str, variant: str, output: Path) -> None:
    """Compare the five results of erasing by a cut of a lab MODEL."""
    output.mkdir(parents=True, exist_ok=True)
    samples = open_samples(model).tokenize(open_model(model, device="cpu").tokenizer)
    lengths = {"prefix_length": samples.prefix_length, "suffix_length": samples.suffix_length}
    listed, unlisted = deal(samples, output)
    places = list(make_results(model, drop_attn, variant, listed, lengths, output))
    ours = compare(model, places, listed, ATTACKS, **lengths)
    others = compare(model, places, unlisted, ("any",), **lengths)
    names = [f"`{name}`" for name in ATTACKS]
    click.echo(f"| result | loss | {' | '.join(names)} | not listed: `any` |")
    click.echo("|" + "---|" * (len(ATTACKS) + 3))
    loss = ours.find("heldout")
    assert loss is not None
    for at, (place, value) in enumerate(zip(places, loss.edits, strict=True)):
        assert value is not None
        assert value.change is not None
        cells = [RESULTS[place.name], f"{value.change.value:+.3f}"]
        cells += [show(ours, at, name) for name in ATTACKS] + [show(others, at, "any")]
        click.echo(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
