"""Defines an attack, its target (a model and passages), and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from evals.data import Samples, Tokens, measure_lengths
from evals.data.repeats import find_repeats
from evals.measure.memorization.measures import Flags, Pass, Scores
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.keep import ASIDE
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.reading.corpus import close_up, find_opening

Learned = Literal["all weights", "rank-8 adapters"]
"""What may be trained of any model, cut or not."""
Need = tuple[str, Callable[[Any], bool]]
"""What an attack needs, in words, and whether an `AttackPlan` has it."""
TEXT: Need = ("held-out text (`heldout`)", lambda plan: len(plan.unrelated) > 0)


@dataclass(frozen=True)
class Target:
    """A loaded model, its tokenizer (or None), and the passages to recover from it.

    - `unrelated`: int32 [M, T], text that no model was trained on. `batch_size`: rows per batch.
    - `draws`: how often to run an attack that trains; None: as `draws.repeat` says.
    - `of`: in a search, the number of all passages, where `samples` are a part. The attacker holds
      as many passages as of all, and figures that only curves show are left out. None: `samples`
      are all.
    - `cut`: the blocks that an edit changed, wholly or partly. `sibling`: a checkpoint to copy
      weights from, if the attacker has one.
    - `trainings`: the trainings to run, each given by its last setting. None: the attack decides.
      An edited model, a control, and a twin repeat the trainings of the base.
    """

    model: Any = field(metadata=ASIDE)
    tokenizer: Any = field(metadata=ASIDE)
    samples: Samples
    unrelated: Tokens
    batch_size: int | None = field(default=None, metadata=ASIDE)  # free memory may choose it
    draws: int | None = None
    of: int | None = None
    cut: tuple[int, ...] = ()
    sibling: ResolvedModel | None = None
    trainings: Trainings | None = None

    def read(self, tokens: Tokens, prefix_length: int) -> Pass:
        """One teacher-forced pass over rows."""
        from evals.measure.memorization.extraction import run_pass
        from evals.run.predictions import Sampling

        return run_pass(
            self.model,
            tokens,
            prefix_length,
            sampling=Sampling(),
            batch_size=self.batch_size,
        )

    def ask(self, model: Any) -> Pass:
        """As `read`, of a model in place of the target's own, over the passages."""
        asked = replace(self, model=model)
        return asked.read(self.samples.tokens, self.samples.prefix_length)

    def read_after(self, prefixes: Sequence[Tokens]) -> Evidence:
        """The evidence if each passage had another prefix, int32 [P] of any length.

        Nothing is right after a prefix that is empty, or that leaves the suffix no room in the
        context. Prefixes of one length share a pass.
        """
        suffixes = self.samples.suffixes
        most = getattr(self.model.config, "max_position_embeddings", None)
        right = np.zeros(suffixes.shape, dtype=np.bool_)
        log_p_z = np.full(len(suffixes), -np.inf)
        lengths = np.asarray([len(prefix) for prefix in prefixes])
        for length in np.unique(lengths):
            if not 0 < length <= (most or length + suffixes.shape[1]) - suffixes.shape[1]:
                continue
            rows = np.flatnonzero(lengths == length)
            pairs = ((prefixes[row], suffixes[row]) for row in rows.tolist())
            tokens = np.stack([np.concatenate(pair) for pair in pairs])
            seen = Evidence.of(self.read(tokens.astype(np.int32), int(length)))
            right[rows], log_p_z[rows] = seen.right, seen.log_p_z
        return Evidence(right, log_p_z, measure_lengths(suffixes))

    def recover(self, model: Any) -> Flags:
        """Whether `any` recovers each passage from such a model: bool [N]."""
        return make_recovery("any").recovered(Evidence.of(self.ask(model)))

    @property
    def brief(self) -> bool:
        """Whether what only curves show is left out."""
        return self.of is not None

    def hold(self, share: int, draw: int = 0) -> tuple[Flags, Flags]:
        """Passages for the attacker, one in `share` of all; and those that overlap none of them."""
        return split(self.samples, share, draw, self.of)

    def check_in_memory(self, name: str) -> None:
        """Raises `MeasurementError` if an attack on the weights would miss some of them."""
        if any(parameter.is_meta for parameter in self.model.parameters()):
            raise MeasurementError(
                f"{name} needs every weight in memory, and some are offloaded",
                fix="leave out `device=all`, or name other attacks with `attack`",
            )

    @cached_property
    def opening(self) -> int:
        """How many of the tokenizer's opening tokens every passage begins with: all or none."""
        opening = () if self.tokenizer is None else find_opening(self.tokenizer)
        if len(opening) >= self.samples.prefix_length:
            return 0
        return len(opening) * bool(
            (close_up(self.samples.tokens)[:, : len(opening)] == opening).all()
        )

    @cached_property
    def seen(self) -> Pass:
        """The pass over the unchanged passages, which several attacks share."""
        return self.ask(self.model)


@dataclass(frozen=True)
class Setting:
    """A variant of an attack: what it trains, and how; or, at no rate, what it does instead."""

    learned: str
    learning_rate: float
    steps: int


UNTRAINED = Setting("nothing", 0.0, 0)
Trainings = tuple[Setting, ...]
"""Trainings, each as its last setting."""
Training = tuple[str, float]
"""What is learned, and at which learning rate."""
TIMES = 10
"""How many times as large a share of the passages as of the control a setting must bring back."""
KEPT = 0.9
"""The share of what a model gave that training must leave it. Training that leaves less destroys
what a model knows, so that it shows nothing where it recovers nothing."""


@dataclass(frozen=True)
class AttackOutcome:
    """The outcome of an attack on N passages.

    - `recovered`: bool [N], or [D, N] for an attack that ran in D draws. `tried`: bool, as large:
      the passages that count.
    - `curve`: bool [K, N], recovered at each of the attack's K stages, in the first draw.
    - `scores`: name → [N], how much each passage looks like training text; or, for `graft`, 1 where
      the sibling alone gives the passage.
    - `variants`: what each variant of an attack with several recovers, as large as `recovered`,
      which is that of the strongest. `UNTRAINED` is among them if others train or prompt.
    - `by_held`: variant → `rate_held`, of an attack that chooses its variant on passages that the
      attacker holds. Empty: the variant that recovers most is the strongest.
    - `left`: `measure_left` of the first draw, by all of its passages.
    """

    recovered: Flags
    tried: Flags
    curve: Flags | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)
    variants: Mapping[Setting, Flags] = field(default_factory=dict)
    left: Mapping[Training, float] = field(default_factory=dict)
    by_held: Mapping[Setting, float] = field(default_factory=dict)

    @staticmethod
    def of_all(recovered: Flags) -> AttackOutcome:
        """The outcome if every passage counts."""
        return AttackOutcome(recovered, np.ones_like(recovered))

    @staticmethod
    def of_variants(variants: Mapping[Setting, Flags], tried: Flags) -> AttackOutcome:
        return AttackOutcome(tried, tried, variants=variants).settle()

    @staticmethod
    def of_evidence(found: Mapping[Setting, Evidence], held: Flags, tried: Flags) -> AttackOutcome:
        """What `any` recovers in each setting of the passages `tried`, where the attacker chooses
        the setting by those that he holds. Flags are bool [N]."""
        measure = make_recovery("any")
        return AttackOutcome(
            tried,
            tried,
            variants={setting: measure.recovered(seen) for setting, seen in found.items()},
            by_held={one: rate_held(seen, held) for one, seen in found.items() if held.any()},
        ).settle()

    def settle(self) -> AttackOutcome:
        """The outcome of the strongest of its variants, if it has any."""
        return self.take_strongest(None)[1] if self.variants else self

    def select(self, rows: Flags) -> AttackOutcome:
        """The outcome for some of the passages, bool [N]. Another variant may be the strongest."""
        taken = self._take(lambda flags: flags[..., rows])
        scores = {name: values[rows] for name, values in self.scores.items()}
        curve = None if self.curve is None else self.curve[:, rows]
        return replace(taken, scores=scores, curve=curve)

    def take_draws(self, number: int) -> AttackOutcome:
        """The outcome of the first draws, if there are more."""
        if self.recovered.ndim == 1 or len(self.recovered) <= number:
            return self
        return self._take(lambda flags: flags[:number])

    def _take(self, take: Callable[[Flags], Flags]) -> AttackOutcome:
        """The outcome for a part of the flags."""
        variants = {name: take(flags) for name, flags in self.variants.items()}
        first = take(self.recovered), take(self.tried)
        return replace(self, recovered=first[0], tried=first[1], variants=variants).settle()

    def take_strongest(self, control: AttackOutcome | None) -> tuple[Setting, AttackOutcome]:
        """The strongest variant of those that count, and its outcome."""
        strength = self.by_held.__getitem__ if self.by_held else self._count_recovered
        best = max(self.find_counting(control), key=strength)
        return best, replace(self, recovered=self.variants[best])

    def take_discarded(self, control: AttackOutcome | None) -> AttackOutcome | None:
        """The outcome of the variant that recovers most of those that do not count, if any."""
        counting = self.find_counting(control)
        others = [one for one in self.variants if one not in counting]
        best = max(others, key=self._count_recovered, default=None)
        return None if best is None else replace(self, recovered=self.variants[best])

    def find_counting(self, control: AttackOutcome | None) -> list[Setting]:
        """The variants that bring back `TIMES` as large a share as of `control`, beyond what it
        holds untrained; all of an attack that does not train."""
        found = {one: self._count_recovered(one) for one in self.variants}
        if control is None or UNTRAINED not in found:
            return list(found)
        alone = control.variants[UNTRAINED]
        n, others = int(self.tried.sum()), int(control.tried.sum())
        new = {
            one: int((flags & ~alone)[control.tried].sum())
            for one, flags in control.variants.items()
        }
        return [one for one in found if one in new and TIMES * new[one] * n <= found[one] * others]

    def _count_recovered(self, variant: Setting) -> int:
        return int(self.variants[variant][self.tried].sum())

    @property
    def settings(self) -> Mapping[Setting, Flags]:
        """`variants`, if the untrained model is one of them; else empty."""
        return self.variants if UNTRAINED in self.variants else {}

    @property
    def counted(self) -> Flags:
        """`recovered`, for the passages that count (possibly none), draw after draw."""
        return self.recovered[self.tried]

    @property
    def draws(self) -> int:
        return len(self.by_draw[0])

    @property
    def trainings(self) -> Trainings | None:
        """The last setting of each training, as a `Target` takes them. None without any."""
        return tuple(settings[-1] for settings in self.by_training.values()) or None

    @property
    def by_training(self) -> dict[Training, list[Setting]]:
        """The settings of each training, those after fewer steps first."""
        made: dict[Training, list[Setting]] = {}
        for one in sorted(self.settings, key=lambda one: one.steps):
            if one != UNTRAINED:
                made.setdefault((one.learned, one.learning_rate), []).append(one)
        return made

    def measure_left(self) -> dict[Training, float]:
        """Training → the share of what the model gave before that it gives after the last step.

        Without those of cut blocks alone. Empty if the model gave nothing.
        """
        before = self._count_recovered(UNTRAINED) if self.settings else 0
        return {
            training: self._count_recovered(settings[-1]) / before
            for training, settings in self.by_training.items()
            if before and trains_whole(training)
        }

    def measure_rate(self, settings: Iterable[Setting]) -> float:
        """The share that the best of some settings recovers, in the mean of the draws; 0 if no
        passage counts."""
        tried = self.by_draw[1]
        some = [at for at, draw in enumerate(tried) if draw.any()]
        rates = (
            [float(np.atleast_2d(self.settings[one])[at][tried[at]].mean()) for at in some]
            for one in settings
        )
        return max((sum(rate) / len(rate) for rate in rates if rate), default=0.0)

    @property
    def by_draw(self) -> tuple[Flags, Flags]:
        """`recovered` and `tried`, bool [D, N] each."""
        return np.atleast_2d(self.recovered), np.atleast_2d(self.tried)


@dataclass(frozen=True)
class Attack:
    """A way to recover passages.

    - `setting`: its parameters, in words; `stages`: the points of its curve.
    - `definition`, `source`: when a passage counts as recovered, and who defined this.
    - `cost`: in passes over the passages, in words.
    - `run`: deterministic for the same model and passages.
    - `needs`: what it cannot be tried without. `share`: the attacker holds one passage in this
      many, which do not count, nor do those that overlap them; 0: none.
    - `in_draws`: it trains, and so runs several times, as often on each model.
    - `trains_only_cut`: it trains only blocks that were cut, and reads other models as they are.
    - `tells_members`: it recovers no passage, but scores members against non-members.
    """

    name: str
    setting: str
    definition: str
    source: str
    cost: str
    run: Callable[[Target], AttackOutcome] = field(metadata=ASIDE)
    stages: tuple[int, ...] = ()
    needs: tuple[Need, ...] = field(default=(), metadata=ASIDE)
    share: int = 0
    in_draws: bool = False
    trains_only_cut: bool = False
    tells_members: bool = False

    @property
    def description(self) -> dict[str, str]:
        """Its texts, as results hold them."""
        return {
            key: getattr(self, key) for key in ("name", "setting", "definition", "source", "cost")
        }


def trains_whole(training: Training) -> bool:
    """Whether this trains what every model has, cut or not."""
    learned, rate = training
    return rate > 0 and learned.startswith(get_args(Learned))


def rate_held(seen: Evidence, held: Flags) -> float:
    """How well an attacker does on passages that he holds (bool [N]), who chooses a variant by it.

    How many `any` recovers; ties are settled by the mean share of tokens that are right.
    """
    if not held.any():
        return 0.0
    known = seen.select(held)
    return float(make_recovery("any").recovered(known).sum() + known.right.mean() / 2)


def count_held(passages: int, share: int, of: int | None = None) -> int:
    """How many of some passages an attacker holds: one in `share` of them, or `of` so many.

    At least one, and at most half of them.
    """
    return min(max(1, (of or passages) // share), max(1, passages // 2))


def split(
    passages: Samples, share: int, draw: int = 0, of: int | None = None
) -> tuple[Flags, Flags]:
    """Passages for the attacker, at random; and those of which these tell nothing. Two bool [N].

    `share`, `of`: as for `count_held`.
    """
    held = draw_held(len(passages), share, draw, of)
    return held, ~find_repeats(passages, passages.select(held))


def draw_held(number: int, share: int, draw: int = 0, of: int | None = None) -> Flags:
    """Which of so many rows an attacker holds, at random: bool [N]."""
    order = np.random.default_rng(draw).permutation(number)
    held = np.zeros(number, dtype=np.bool_)
    held[order[: count_held(number, share, of)]] = True
    return held
