"""Compares rivals that each got what a search gets: the same half to choose by, and the same time.

    python -m benchmarks.rivals.fair lab:pythia --seconds 240 --output FAIR
    python -m benchmarks.rivals.fair MODEL --samples SAMPLES.jsonl --text OTHER.txt \\
        --heldout HELDOUT.txt --helper PUBLIC --tasks "" --seconds 600 --output FAIR

Each rival has up to 16 settings, and the search's rule chooses one (`choosing.py`, beside this).
Deep blocks, the searches, and `erased` are ours. Then all are measured on the half of the passages
that was held back, which no method saw:

- the most that an attack without training recovers, with its name, and what `relearn` does at
  learning rates of 1e-4 and 1e-3;
- for those who know the edit: `revive`, where blocks were cut, and with --helper `graft`, with the
  second model as the sibling, in one draw each;
- the highest AUC of a membership score, passages against those that no model was trained on;
- `any` on the half that the method saw, and on the half that it did not: the same attack;
- by how much the loss rises on passages that no model was trained on, as a method may silence their
  form;
- the four costs on the half of the held-out text that is held back, and points of benchmarks.

TokenSwap decodes with a second model, `--helper`, which never learned the passages. It changes no
weight. So `relearn` fine-tunes the model without the helper, as whoever holds the weights would.

A run that was interrupted goes on with the next rival.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import click
import numpy as np
import torch

from benchmarks.rivals.balanced_subnet import balanced_subnet
from benchmarks.rivals.bed import Bed, Rival, measure_text
from benchmarks.rivals.choosing import Setting, choose, read_seconds
from benchmarks.rivals.erased import erased
from benchmarks.rivals.kfac import kfac
from benchmarks.rivals.rmu import rmu
from benchmarks.rivals.surgery import cut_deep_blocks, search
from benchmarks.rivals.token_swap import TokenSwap, check_helper, get_held, token_swap
from benchmarks.rivals.training import gradient_difference_kl, npo_kl, simnpo
from benchmarks.rivals.undo import make_teacher, undo
from benchmarks.rivals.vector_editing import vector_editing
from evals.data import Samples, Tokens, load_samples
from evals.data.held_back import split_halves
from evals.data.inputs import read_heldout_texts
from evals.data.windows import cut_windows
from evals.lab import calibration_texts
from evals.measure.attacks.attack import Target, split
from evals.measure.attacks.names import find_attack
from evals.measure.attacks.relearn import SHARE
from evals.measure.attacks.sibling import find_sibling
from evals.measure.attacks.tuning import fine_tune
from evals.measure.edits.costs import MEASURES
from evals.measure.memorization.membership import auc
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.lm_eval.running import Benchmarks
from evals.run.lm_eval.scores import choose_metric
from evals.run.models import LoadedModel, open_model
from surgery.editing.in_memory import apply
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.selection import parse_selection

RATES = (1e-4, 3e-4, 1e-3)
WEIGHTS = (0.3, 1.0)


def cross(**values: Sequence[Any]) -> list[Setting]:
    """Every combination."""
    return [dict(zip(values, some, strict=True)) for some in product(*values.values())]


SWAP = "token-swap"
RIVALS: dict[str, tuple[Rival, list[Setting]]] = {
    "gradient-difference-kl": (
        gradient_difference_kl,
        cross(rate=RATES, weight=WEIGHTS, most=(3.0, 6.0)),
    ),
    "npo-kl": (npo_kl, cross(rate=RATES, weight=(0.1, 1.0), beta=(0.1, 0.5))),
    "simnpo": (simnpo, cross(rate=RATES, weight=WEIGHTS, beta=(2.5, 4.5))),
    "rmu": (rmu, cross(depth=(0.5, 0.75), times=(1.0, 4.0), rate=(1e-4, 1e-3))),
    "undo": (undo, cross(noise=(0.1, 0.2, 0.4, 0.6), rate=(3e-4, 1e-3))),
    "kfac": (kfac, [{}]),
    "balanced-subnet": (
        balanced_subnet,
        cross(share=(0.01, 0.02, 0.03, 0.05), weight=(0.5, 0.7)),
    ),
    "vector-editing": (
        vector_editing,
        cross(neurons=(10, 20, 40), margin=(0.25, 0.5, 1.0)),
    ),
    "erased": (
        erased,
        cross(
            steps=(30, 60), variant=("identity", "zero"), blocks=("last:1", "last:2", "0", "0-1")
        ),
    ),
    SWAP: (token_swap, cross(number=(55, 110, 220, 440), punctuation=(False, True))),
}
"""Rival → its settings. K-FAC goes through its own in one run, the mildest first. Those of `erased`
run to their end, so that few of them may fit into the time: every cut comes before more steps.
"""
PREPARED = {"undo": make_teacher}
"""Rival → what makes, once, what all its settings share."""
SEARCHES = {"search-any": ("any=0.01",), "search-relearn": ("any=0.01", "relearn=0.05")}
LIMITS = 0.01, 0.05
QUIET = ("any", "hints:4", "near", "perturbed", "quantized:4")
RELEARNED = (1e-4, 1e-3)
STEPS, LENGTH = 20, 128
FILE = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True)
class Bench:
    """What all are measured on. `heldout`: the half that is held back."""

    loaded: LoadedModel
    bed: Bed
    held_back: Samples
    never: Samples
    heldout: Tokens
    benchmarks: Benchmarks | None
    sibling: ResolvedModel | None = None

    def measure(self, model: Any, cut: tuple[int, ...] = ()) -> dict[str, Any]:
        """The columns of the table, in shares, nats, and points. `cut`: the blocks that were."""
        target = Target(model, self.loaded.tokenizer, self.held_back, self.heldout, draws=1)
        quiet = {name: float(find_attack(name).run(target).counted.mean()) for name in QUIET}
        worst = max(quiet, key=quiet.__getitem__)
        found: dict[str, Any] = {"no training": quiet[worst], "by": worst}
        held, others = split(self.held_back.tokens, SHARE)
        for rate in RELEARNED:
            rows = self.held_back.tokens[held]
            (tuned,) = fine_tune(get_held(model), rows, steps=(STEPS,), learning_rate=rate)
            found[f"relearn {rate:g}"] = float(_recover(tuned, self.held_back)[others].mean())
        known = replace(target, model=get_held(model), cut=cut, sibling=self.sibling)
        for name, can in (("revive", bool(cut)), ("graft", self.sibling is not None)):
            found[name] = float(find_attack(name).run(known).counted.mean()) if can else None
        found |= {
            "membership": self._tell_members(target) if len(self.never) else None,
            "any, seen": float(_recover(model, self.bed.samples).mean()),
            "any, not seen": quiet["any"],
            "never trained": self._rise_never(model) if len(self.never) else None,
            **measure_text(self.loaded.model, model, self.heldout),
        }
        return found | self._score(model)

    def _rise_never(self, model: Any) -> float:
        rows = torch.from_numpy(self.never.tokens.astype(np.int64))
        with torch.no_grad():
            after, before = (
                float(self.bed.suffix_nll(one, rows).mean()) for one in (model, self.loaded.model)
            )
        return (after - before) / self.never.suffix_length

    def _tell_members(self, target: Target) -> float:
        """The highest AUC of a score that tells the held-back passages from the others."""
        attack = find_attack("membership")
        both = (self.held_back, self.never)
        inside, outside = (attack.run(replace(target, samples=some)).scores for some in both)
        labels = np.arange(len(self.held_back) + len(self.never)) < len(self.held_back)
        every = (np.concatenate([inside[name], outside[name]]) for name in inside)
        return max(float(auc(scores, labels)["auc"]) for scores in every)

    def _score(self, model: Any) -> dict[str, float]:
        found = {}
        for name in self.benchmarks.tasks if self.benchmarks else ():
            assert self.benchmarks is not None
            size = self.benchmarks.batch_size(name, self.loaded)
            run = self.benchmarks.run(name, replace(self.loaded, model=model), batch_size=size)
            scores = self.benchmarks.scores(name, run)
            found[name] = scores[choose_metric(scores)].value
        return found


def _recover(model: Any, samples: Samples) -> Any:
    """Which of the passages `any` recovers, bool [N]."""
    target = Target(model, None, samples, samples.tokens)
    seen = target.read(samples.tokens, samples.prefix_length)
    return make_recovery("any").recovered(Evidence.of(seen))


@dataclass(frozen=True)
class Made:
    """What a method made: a model, or None if it is not finished, its setting in words, and the
    blocks that it cut."""

    model: Any
    setting: str
    cut: tuple[int, ...] = ()


METHODS = ("not edited", "deep-blocks", *SEARCHES, *RIVALS, "erased-and-cut")


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
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    model: str, samples: str | None, text: tuple[Path, ...], heldout: tuple[Path, ...],
    helper: str | None, tasks: str, include_path: tuple[Path, ...], limit: int | None,
    only: tuple[str, ...], seconds: float, more: str, output: Path,
) -> None:  # fmt: skip
    """Choose a setting of every method, measure all, and print a table."""
    torch.set_num_threads(1)
    loaded = open_model(model, dtype="float32")
    loaded.model.requires_grad_(False)
    second = open_helper(helper, loaded)
    output.mkdir(parents=True, exist_ok=True)
    passages = load_samples(samples or model, tokenizer=loaded.tokenizer)
    bench = make_bench(model, loaded, passages, text, heldout, tasks, include_path, limit)
    bench = replace(bench, sibling=find_base(helper, loaded))
    given = [*(["--samples", samples or model]), "--dtype", "float32", *more.split()]
    for flag, files in (("--calibration", text), ("--corpus", heldout)):
        given += [word for file in files for word in (flag, str(file))]
    done = output / "runs.json"
    runs: dict[str, dict[str, Any]] = json.loads(done.read_text()) if done.exists() else {}
    fits = list(text) or [output / "calibration.txt"]
    if not text:
        fits[0].write_text("\n\n".join(calibration_texts()))
    methods = list_methods(bench, seconds, given, fits, second, output)
    for name, run in choose_methods(methods, only, runs).items():
        begun = read_seconds()
        made = run()
        took = read_seconds() - begun
        if name == "erased-and-cut":
            took += runs["erased"]["seconds"]
        runs[name] = {"seconds": took, "setting": made.setting}
        if made.model is not None:
            runs[name] |= bench.measure(made.model, made.cut)
        done.write_text(json.dumps(runs, indent=1) + "\n")
        click.echo(f"{name}: {runs[name]}", err=True)
    print_table(runs)
    for line in list_longer(runs, seconds):
        click.echo(line, err=True)


def open_helper(name: str | None, loaded: LoadedModel) -> Any:
    """The second model of TokenSwap, or None, which it says."""
    if name is None:
        click.echo(f"{SWAP}: left out, as it needs a second model (--helper)", err=True)
        return None
    helper = open_model(name, dtype="float32")
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


def list_methods(
    bench: Bench, seconds: float, given: list[str], fits: list[Path], helper: Any, output: Path
) -> dict[str, Callable[[], Made]]:
    """Method → what makes its model. `helper`: the second model of TokenSwap; without, it lacks."""

    def fresh() -> Any:
        return open_model(bench.bed.model, dtype="float32").model

    def fresh_with_helper() -> Any:
        return TokenSwap(fresh(), helper)

    def tune(name: str) -> Made:
        rival, settings = RIVALS[name]
        make = fresh_with_helper if name == SWAP else fresh
        choice = choose(
            name, rival, settings, make, bench.bed, seconds=seconds, limits=LIMITS,
            prepare=PREPARED.get(name),
        )  # fmt: skip
        tried = f"{choice.tried} of {len(settings)} settings tried"
        found = choice.candidate
        if found is None:
            return Made(None, f"not finished: any recovers {choice.lowest:.1%} or more; {tried}")
        model = make().requires_grad_(False)
        model.load_state_dict(found.weights)
        if name == "erased":
            keep = {key: value for key, value in found.setting.items() if key != "steps"}
            (output / "erased.json").write_text(json.dumps(keep))
            torch.save(found.weights, output / "erased.pt")
        left = f"relearn {found.relearned or 0:.1%} on the half that chose"
        return Made(model, f"{found.label}; {left}; {tried}")

    def cut_erased() -> Made:
        if not (output / "erased.pt").exists():
            return Made(None, "not finished: erased is not")
        model = fresh().requires_grad_(False)
        model.load_state_dict(torch.load(output / "erased.pt"))
        cut = json.loads((output / "erased.json").read_text())
        edited = apply(model, cut["blocks"], cut["variant"])
        size = model.config.num_hidden_layers, model.config.num_attention_heads
        parts = parse_selection(cut["blocks"], cut["variant"], *size)
        blocks = tuple(sorted({part.block for part in parts}))
        return Made(edited, f"cut: {cut['blocks']} {cut['variant']}", blocks)

    def cut_deep() -> Made:
        cut_deep_blocks(bench.loaded.model, bench.bed, LIMITS[0], output / "deep")
        edited = open_model(str(output / "deep"), dtype="float32")
        return Made(edited.model, "the fewest that keep any", edited.cut)

    def search_for(name: str) -> Made:
        result = output / f"{name}-search" / "search.json"
        try:
            search(SEARCHES[name], bench.bed, given, fits, output / name)
        except CalledProcessError:
            if result.exists() and json.loads(result.read_text())["selected"] is None:
                return Made(None, "not finished: no edit that was measured keeps the limits")
            raise
        found = json.loads(result.read_text())["selected"]
        edited = open_model(str(output / name), dtype="float32")
        return Made(edited.model, f"{found['spec']} {found['variant']}", edited.cut)

    made: dict[str, Callable[[], Made]] = {
        "not edited": lambda: Made(bench.loaded.model, ""),
        "deep-blocks": cut_deep,
        **{name: partial(search_for, name) for name in SEARCHES},
        **{name: partial(tune, name) for name in RIVALS},
        "erased-and-cut": cut_erased,
    }
    return {name: run for name, run in made.items() if name != SWAP or helper is not None}


def make_bench(
    model: str, loaded: LoadedModel, passages: Samples, text: tuple[Path, ...],
    heldout: tuple[Path, ...], tasks: str, include_path: tuple[Path, ...], limit: int | None,
) -> Bench:  # fmt: skip
    """Both halves, as a search deals them."""
    texts = read_heldout_texts(text) if text else calibration_texts()
    windows = cut_windows(texts, loaded.tokenizer, LENGTH, most=2048)
    length = passages.tokens.shape[1]
    control = cut_windows(read_heldout_texts(heldout, model), loaded.tokenizer, length)
    first, second = split_halves(passages, control, 0)
    bed = Bed(model, loaded.found.folder, loaded.tokenizer, first.samples, windows,
              heldout=first.windows)  # fmt: skip
    benchmarks = None
    if tasks:
        benchmarks = Benchmarks.load(tasks.split(","), include_paths=include_path, limit=limit)
    never = passages.select(~passages.trained_on)
    return Bench(loaded, bed, second.samples, never, second.windows, benchmarks)


def print_table(runs: dict[str, dict[str, Any]]) -> None:
    """Prints Markdown."""
    for row in make_rows(runs):
        click.echo("| " + " | ".join(row) + " |")


def make_rows(runs: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """The head, and a row for each method. A method that is not finished has no figures."""
    base = runs["not edited"]
    relearned = [f"relearn {rate:g}" for rate in RELEARNED]
    shares = ["no training", *relearned, "revive", "graft", "any, seen", "any, not seen"]
    measured = [name for name in shares if any(run.get(name) is not None for run in runs.values())]
    known = {"seconds", "setting", "by", "membership", "never trained", *shares, *MEASURES}
    tasks = [name for name in base if name not in known]
    columns = [*measured, "membership", "never trained, nats", *MEASURES, *tasks]
    yield ["", *columns, "seconds", "setting"]
    yield ["---"] * (len(columns) + 3)
    for name, run in runs.items():
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
