"""Which cheap figure tells best what an edit costs once it is healed.

    python -m benchmarks.healing lab:pythia
    python -m benchmarks.healing DIR --samples FILE --corpus FILE --text FILE

Edits MODEL in 12 ways (at most 20, with `--edits`): runs of deep blocks and of early ones, and
blocks drawn at random, as `identity` or `zero`. Prints the held-out loss over the base's, in nats
per token: of the cut; after a closed form; after a few steps of healing without a guard; and after
all steps. Beside each, the share of the passages' suffix tokens that are predicted right. Then
Spearman's rank correlation of each of the first three costs with the last, and CPU seconds.

The closed form, block by block from the first edited one on: ridge least squares of the output
projection and the second layer of the MLP, toward the base's residual after that block on the same
text (of the penalties 10^-4 to 1 times the mean square of a feature, the one that is best on every
fifth window). It draws nothing, so it repeats to the bit on one machine.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.lab.measure import mean_loss
from evals.data import Samples, open_samples
from evals.data.inputs import require_heldout_texts
from evals.data.windows import cut_windows
from evals.measure.healing import find_healing_text
from evals.run.models import LoadedModel, open_model
from surgery.editing.in_memory import Editable, apply
from surgery.fitting.calibration import Calibration
from surgery.proof.expected import find_constants
from surgery.training.distillation import teach
from surgery.training.losses import Divergence
from surgery.training.training import WINDOW, Schedule

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_ROWS = 16


def list_edits(num_blocks: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """20 specifications of blocks, each with a variant."""
    draw = np.random.default_rng(seed)
    sizes = sorted({1, max(2, num_blocks // 6), max(2, num_blocks // 4), num_blocks // 3})
    specs = [f"last:{size}" for size in sizes] + [
        f"0-{size - 1}" if size > 1 else "0" for size in sizes
    ]
    while len(specs) < 10:
        some = draw.choice(num_blocks, int(draw.choice(sizes)), replace=False)
        spec = ",".join(map(str, sorted(some)))
        specs += [] if spec in specs else [spec]
    variants = ("identity", "zero")
    for first in (0, 1):  # so that a part of the list has both
        for number, spec in enumerate(specs[:10]):
            yield spec, variants[(number + first) % 2]


@torch.inference_mode()
def measure_recall(model: Any, samples: Samples) -> float:
    """The share of suffix tokens that are predicted right."""
    right = 0
    for begin in range(0, len(samples), _ROWS):
        batch = torch.from_numpy(samples.tokens[begin : begin + _ROWS].astype(np.int64))
        guesses = model(input_ids=batch[:, :-1], use_cache=False).logits.argmax(-1)
        first = samples.prefix_length
        right += int((guesses[:, first - 1 :] == batch[:, first:]).sum())
    return right / samples.suffixes.size


def take_residuals(model: Any, layer: Any, projections: list[Any], windows: np.ndarray) -> Any:
    """[n, d] into and out of a block, and [n, f] into its projections, over the windows."""
    found: dict[str, list[torch.Tensor]] = {"x": [], "y": [], **{str(i): [] for i in (0, 1)}}

    def keep(name: str) -> Any:
        return lambda module, args: found[name].append(args[0].flatten(0, -2))

    def keep_block(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        entered = args[0] if args else kwargs["hidden_states"]
        left = output[0] if isinstance(output, tuple) else output
        found["x"].append(entered.flatten(0, -2))
        found["y"].append(left.flatten(0, -2))

    hooks = [layer.register_forward_hook(keep_block, with_kwargs=True)]
    hooks += [one.register_forward_pre_hook(keep(str(i))) for i, one in enumerate(projections)]
    with torch.inference_mode():
        for begin in range(0, len(windows), _ROWS):
            batch = torch.from_numpy(windows[begin : begin + _ROWS].astype(np.int64))
            model.base_model(input_ids=batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(some).double() for name, some in found.items() if some}


def refit(base: Any, edited: Any, first: int, windows: np.ndarray) -> None:
    """Refits W_O and the second MLP layer of every block from `first` on, in place."""
    held_out = torch.arange(len(windows)).add(1).remainder(5).eq(0)
    held_out = held_out.repeat_interleave(windows.shape[1])
    for block in range(first, len(layers_of(edited))):
        layer = layers_of(edited)[block]
        target = take_residuals(base, layers_of(base)[block], [], windows)["y"]
        both = list(projections_of(layer))
        # where the MLP reads what attention adds, attention's projection comes first
        for some in [both] if is_parallel(edited) else [[one] for one in both]:
            now = take_residuals(edited, layer, some, windows)
            features = torch.cat([now[str(i)] for i in range(len(some))], dim=1)
            features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
            change = solve(features, target - now["y"], held_out)
            begin = 0
            for one in some:
                width = one.weight.shape[1]
                one.weight.data += change[begin : begin + width].T.float()
                begin += width
            some[-1].bias.data += change[-1].float()


def solve(features: torch.Tensor, wanted: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
    """The change of weights [f, d] by ridge; none where no penalty helps held-out windows."""
    x, y = features[~held_out], wanted[~held_out]
    gram, moment = x.T @ x, x.T @ y
    scale = gram.diagonal().mean()
    best, least = torch.zeros_like(moment), float(wanted[held_out].square().sum())
    for penalty in PENALTIES:
        found = torch.linalg.solve(gram + penalty * scale * torch.eye(len(gram)).double(), moment)
        error = float((wanted[held_out] - features[held_out] @ found).square().sum())
        if error < least:
            best, least = found, error
    return best


def layers_of(model: Any) -> Any:
    return model.base_model.layers if hasattr(model.base_model, "layers") else model.base_model.h


def projections_of(layer: Any) -> Iterator[Any]:
    """What writes to the residual: attention's, or what replaces it, and the MLP's."""
    attention = layer.attention if hasattr(layer, "attention") else layer.attn.attention
    for name in ("dense", "out_proj", "affine"):
        if isinstance(getattr(attention, name, None), torch.nn.Linear):
            yield getattr(attention, name)
    yield layer.mlp.dense_4h_to_h if hasattr(layer.mlp, "dense_4h_to_h") else layer.mlp.c_proj


def is_parallel(model: Any) -> bool:
    return bool(getattr(model.config, "use_parallel_residual", False))


class Edits:
    """A base model, and what its edits cost by each figure."""

    def __init__(
        self, loaded: LoadedModel, tokens: Calibration, heldout: np.ndarray, samples: Samples
    ) -> None:
        self.model, self.samples = loaded.model.float(), samples
        self.editable = Editable(self.model)
        self.tokens, self.text, self.heldout = tokens, tokens.windows, heldout
        self.loss, _ = self.see(self.model)
        self.seconds: dict[str, float] = {}

    def see(self, model: Any) -> tuple[float, float]:
        """Held-out loss, and share of suffix tokens right."""
        return mean_loss(model, self.heldout, _ROWS), measure_recall(model, self.samples)

    def heal(self, model: Any, steps: int, **constants: Any) -> tuple[float, float]:
        loss = Divergence(model)
        taught = teach(model, self.model, loss, self.tokens, None, Schedule(steps), **constants)
        return self.see(taught.student.model)

    def measure(
        self, spec: str, variant: str, few: int, steps: int
    ) -> dict[str, tuple[float, float]]:
        """The loss and the recall of the edit by each figure."""
        plan = self.editable.plan(spec, variant)
        edited = apply(self.model, spec, variant)
        constants = find_constants([plan], dict(edited.state_dict()))
        found = {}

        def clock(name: str, work: Any) -> None:
            begun = time.process_time()
            found[name] = work()
            spent = time.process_time() - begun
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

        def fit() -> tuple[float, float]:
            refitted = copy.deepcopy(edited)
            refit(self.model, refitted, plan.blocks[0], self.text[:320])
            return self.see(refitted)

        clock("cut", lambda: self.see(edited))
        clock("closed", fit)
        clock("few", lambda: self.heal(edited, few, constants=constants))
        clock("healed", lambda: self.heal(edited, steps, constants=constants))
        return found


@click.command()
@click.argument("model")
@click.option("--samples", help="[default: a lab model's own]")
@click.option("--corpus", type=Path, multiple=True, help="[default: a lab model's own]")
@click.option("--text", multiple=True, help="To heal on.  [default: a lab model's own]")
@click.option("--few", default=10, show_default=True)
@click.option("--steps", default=80, show_default=True)
@click.option("--edits", default=12, show_default=True)
@click.option("--windows", default=64, show_default=True, help="Of held-out text.")
def main(
    model: str, samples: str | None, corpus: tuple[Path, ...], text: tuple[str, ...], few: int,
    steps: int, edits: int, windows: int,
) -> None:  # fmt: skip
    """Compare what edits of MODEL cost before and after healing."""
    torch.set_num_threads(1)
    loaded = open_model(model, dtype="float32", device="cpu")
    heldout = cut_windows(
        require_heldout_texts(corpus, model), loaded.tokenizer, WINDOW, most=windows
    )
    tokens = Schedule(steps).tokenize(
        find_healing_text(text or (model,)), loaded.tokenizer, loaded.dimensions
    )
    passages = open_samples(samples or model).tokenize(loaded.tokenizer)
    work = Edits(loaded, tokens, heldout, passages.select(passages.trained_on))
    loss, recall = work.see(work.model)
    click.echo(
        f"{model}: {tokens.windows.size:,} tokens to heal on; the base's loss is {loss:.3f}; it "
        f"predicts {recall:.0%} of the suffix tokens"
    )
    click.echo(f"{'edit':24}{'cut':>14}{'closed':>14}{few:>14}{steps:>14}")
    rows = []
    for spec, variant in list(list_edits(loaded.dimensions.num_blocks))[:edits]:
        found = work.measure(spec, variant, few, steps)
        rows.append({name: cost - loss for name, (cost, _) in found.items()})
        cells = [f"{rows[-1][name]:+8.3f} {found[name][1]:5.0%}" for name in rows[-1]]
        click.echo(f"{spec + ' ' + variant:24}" + "".join(cells))
    healed = [row["healed"] for row in rows]
    for name in ("cut", "closed", "few"):
        values = [row[name] for row in rows]
        click.echo(
            f"{name}: rank correlation with healed {spearmanr(values, healed)[0]:.3f}, mean cost "
            f"{np.mean(values):.3f} (healed {np.mean(healed):.3f}), "
            f"{work.seconds[name] / len(rows):.1f} s an edit "
            f"(healing {work.seconds['healed'] / len(rows):.1f} s)"
        )


if __name__ == "__main__":
    main()
