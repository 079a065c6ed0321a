"""The bed of a comparison: a model, the passages to forget, and other text.

Shape letters: N passages, T tokens of a passage, M windows, L tokens of a window.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from evals.data import Samples, Tokens
from evals.data.windows import repeat_random, repeat_windows
from evals.measure.attacks.attack import Target
from evals.measure.edits.costs import Skills, find_copied, measure_costs
from evals.measure.memorization.recovery import Evidence, make_recovery

ROWS = 16
"""Passages, and windows of other text, in one step."""


@dataclass(frozen=True)
class Bed:
    """What a rival works on.

    - `model`: the base model as it is named. `tokenizer`: its tokenizer.
    - `samples`: the passages to forget: the half that attn-surgery's search chooses on.
    - `text`: int32 [M, L], windows of other text.
    - `seed`: decides the order of both.
    - `passes`: the dtype of passes while a rival works; weights are trained in float32.
    - `heldout`: int32 [M, T], the half of the held-out text that a search chooses on.
    - `end`: of `read_seconds`: a rival without looks on its way gives up then.
    - `looks`: a rival that trains ends after so many, and its learning rate falls to zero by then.
      Without it, the rate is constant.
    """

    model: str
    tokenizer: Any
    samples: Samples
    text: Tokens
    seed: int = 0
    heldout: Tokens | None = None
    passes: torch.dtype = torch.float32
    end: float = math.inf
    looks: int | None = None

    def draw_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless pairs of passages [`ROWS`, T] and windows [`ROWS`, L], in shuffled order."""
        return zip(
            _cycle(self.samples.tokens, self.seed), _cycle(self.text, self.seed + 1), strict=True
        )

    def suffix_nll(self, model: Any, passages: torch.Tensor) -> torch.Tensor:
        """The summed negative log-likelihood of each suffix, in nats: [B, T] → [B]."""
        nll = token_nll(model, passages)
        return nll[:, self.samples.prefix_length - 1 :].sum(1)

    def measure_recovered(self, model: Any) -> float:
        """The share of the passages that the attack `any` recovers."""
        return float(recover(model, self.samples).mean())


def recover(model: Any, samples: Samples) -> Any:
    """Which of the passages `any` recovers, bool [N]."""
    target = Target(model, None, samples, samples.tokens)
    seen = target.read(samples.tokens, samples.prefix_length)
    return make_recovery("any").recovered(Evidence.of(seen))


Rival = Callable[..., Iterator[None]]
"""Changes a model in place and yields after each step: takes the model and a `Bed`."""


def token_nll(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The negative log-likelihood of each token but the first, in nats: [B, T] → [B, T − 1]."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
    return functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def token_kl(base: Any, model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """KL(base || model) at each token but the first, in nats: [B, T] → [B, T − 1]."""
    after = model(input_ids=tokens[:, :-1], use_cache=False).logits.float().log_softmax(-1)
    with torch.no_grad():
        before = base(input_ids=tokens[:, :-1], use_cache=False).logits.float().log_softmax(-1)
    return functional.kl_div(after, before, log_target=True, reduction="none").sum(-1)


def run_passes(dtype: torch.dtype) -> torch.autocast:
    """A context in which passes are in `dtype`, float32 or bfloat16, while weights may change.

    Autocast keeps the weights that it cast until the outermost context ends. Those of a model that
    is trained inside would stay as they were first.
    """
    return torch.autocast(
        "cpu", torch.bfloat16, enabled=dtype is torch.bfloat16, cache_enabled=False
    )


def read_seconds() -> float:
    """Processor seconds of this process and those that it started: others do not disturb them."""
    return sum(os.times()[:4])


@torch.no_grad()
def measure_text(base: Any, model: Any, heldout: Tokens) -> dict[str, float]:
    """The measures of `evals.measure.edits.costs`, in nats."""
    kl, repeated = (
        _measure_rows(partial(token_kl, base, model), rows)
        for rows in (heldout, repeat_windows(heldout))
    )
    of_base, skills = (
        Skills.of(
            _measure_rows(partial(find_right, one), heldout),
            _measure_rows(partial(token_nll, one), repeat_random(heldout)),
        )
        for one in (base, model)
    )
    return measure_costs(kl, find_copied(heldout), repeated, skills, of_base)


def find_right(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Whether each token but the first is predicted right: [B, T] → bool [B, T − 1]."""
    predicted: torch.Tensor = model(input_ids=tokens[:, :-1], use_cache=False).logits.argmax(-1)
    return predicted == tokens[:, 1:]


def _measure_rows(measure: Callable[[torch.Tensor], torch.Tensor], rows: Tokens) -> Any:
    """What `measure` makes of [B, T], of all rows, in batches."""
    parts = (rows[at : at + ROWS].astype(np.int64) for at in range(0, len(rows), ROWS))
    return torch.cat([measure(torch.from_numpy(part)) for part in parts]).numpy()


def write_samples(samples: Samples, path: Path) -> None:
    """Writes passages as JSON lines of token ids, with counts and membership if known."""
    with path.open("w") as file:
        for row in range(len(samples)):
            line: dict[str, Any] = {"id": samples.ids[row], "tokens": samples.tokens[row].tolist()}
            if samples.counts is not None:
                line["count"] = int(samples.counts[row])
            if samples.members is not None:
                line["member"] = bool(samples.members[row])
            file.write(json.dumps(line) + "\n")


def _cycle(rows: Tokens, seed: int) -> Iterator[torch.Tensor]:
    order = np.random.default_rng(seed)
    while True:
        shuffled = order.permutation(len(rows))
        for begin in range(0, len(rows), ROWS):
            yield torch.from_numpy(rows[shuffled[begin : begin + ROWS]].astype(np.int64))


def mlp_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """The linear layers of all MLPs by name, from the first block to the last."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".mlp." in name
    }
