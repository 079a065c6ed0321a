"""Shows the model passages that the attacker holds, in the prompt, before the prefix of another.

A model that was trained not to recite may do so again once it sees what it is asked for: that takes
no training, and no weights. Lynch et al. 2024 (arXiv 2402.16835, "in-context relearning") bring
back unlearned facts so; Shumailov et al. 2024 (arXiv 2407.00106) argue that no unlearning of
weights alone can prevent it.
"""

from __future__ import annotations

import numpy as np

from evals.data import Tokens, take_tokens
from evals.measure.attacks.attack import (
    UNTRAINED,
    Attack,
    AttackOutcome,
    Setting,
    Target,
)
from evals.measure.memorization.measures import Flags
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.console import say
from surgery.reading.corpus import tokenize

ATTACKS = {"in-context": {"rank": 28, "groups": "all default"}}
SHOTS = (16, 4, 1)
"""How many passages stand in the prompt, if the context holds as many."""
APART = "\n\n"
SHARE = 10
"""The attacker holds one passage in this many."""


def make_in_context() -> Attack:
    measure = make_recovery("any")
    numbers = ", ".join(map(str, reversed(SHOTS)))
    return Attack(
        "in-context",
        f"{numbers} of a tenth of the passages before the prefix, whole, or fewer where the "
        "context holds no more; the attacker chooses the number by those that he holds, each after "
        "others of them",
        "any, for the passages that do not stand in the prompt and do not overlap one that does; a "
        "number that brings back more than a tenth as large a share of the control does not "
        f"count: {measure.definition}",
        "Lynch et al. 2024, arXiv 2402.16835; Shumailov et al. 2024, arXiv 2407.00106",
        f"{1 + len(SHOTS)} passes, of up to {1 + SHOTS[0]} times as many tokens",
        _run,
        share=SHARE,
    )


def _run(target: Target) -> AttackOutcome:
    held, others = target.hold(SHARE)
    room = _count_room(target)
    if room < 1:
        say("in-context: the context cannot hold two passages, so no passage counts")
        return AttackOutcome(np.zeros_like(held), np.zeros_like(held))
    found = {UNTRAINED: Evidence.of(target.ask(target.model))}
    made: dict[int, Evidence] = {}
    for shots in SHOTS:
        number = min(shots, room, int(held.sum()))
        if number not in made:
            made[number] = target.read_after(make_prompts(target, held, number))
        some = "1 passage" if shots == 1 else f"up to {shots} passages"
        found[Setting(f"{some} in the prompt", 0.0, 0)] = made[number]
    return AttackOutcome.of_evidence(found, held, others)


def make_prompts(target: Target, held: Flags, number: int) -> list[Tokens]:
    """The prefix of each passage after `number` of those `held` (bool [N]), and never after itself.

    Passages stand apart by an empty line, if there is a tokenizer, and after the opening tokens.
    """
    first, tokens = target.opening, target.samples.tokens
    apart = np.empty(0, dtype=np.int32)
    if target.tokenizer is not None:
        apart = tokenize(target.tokenizer, APART)
    shown = {at: take_tokens(tokens[at])[first:] for at in np.flatnonzero(held)}
    prompts = []
    for at, prefix in enumerate(target.samples.prefix_rows):
        some = [row for other, row in shown.items() if other != at][:number]
        before = [part for row in some for part in (row, apart)]
        prompts.append(np.concatenate([prefix[:first], *before, prefix[first:]]))
    return prompts


def _count_room(target: Target) -> int:
    """How many passages the context holds before another, at most as many as are tried."""
    most = getattr(target.model.config, "max_position_embeddings", None)
    length = target.samples.tokens.shape[1]
    apart = 0 if target.tokenizer is None else len(tokenize(target.tokenizer, APART))
    return SHOTS[0] if most is None else (most - length) // (length - target.opening + apart)
