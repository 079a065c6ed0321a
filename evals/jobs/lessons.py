"""What a step trains on, read and checked: passages, and text that must hold none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evals.measure.healing import find_healing_text, read_healing_text, take_members
from evals.run.console import say
from surgery.errors import SamplesError
from surgery.record.manifest import PassagesRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evals.data import PassageSource
    from evals.run import groups
    from surgery.fitting.calibration import Calibration
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import ChosenOn, ErasingRecord, HealingRecord
    from surgery.training.distillation import TaughtRows
    from surgery.training.erasing import NeverRows
    from surgery.training.training import Schedule

KEPT = 0.9
"""The least share of an update that rounding must keep, or a warning says so."""
SHOWN = 5
"""How often erasing should show each passage at least, or a warning says so: when SmolLM2,
taught by its public model, saw hundreds less often, tuned training brought most or almost half of
them back (docs/beds/smollm2.md)."""


@dataclass(frozen=True)
class OpenedLessons:
    """Text and passages in a model's tokens, and how long they are learned. `chosen`: what a search
    chose on, where only these passages are learned. `never`: others of the passages' form."""

    text: Calibration
    passages: TaughtRows | None
    schedule: Schedule
    chosen: ChosenOn | None = None
    never: NeverRows | None = None

    def are_those_of(self, record: ErasingRecord | HealingRecord) -> bool:
        """Whether a recorded training learned the same, as long."""
        taught, schedule = record.passages, self.schedule
        of_record = taught.sha256 if isinstance(taught, PassagesRecord) else taught
        mine = self.text.record_text().sha256, self.passages and self.passages.sha256
        alike = (record.sha256, of_record) == mine and schedule.rank in (None, record.rank)
        return alike and (record.steps, record.seed) == (schedule.steps, schedule.seed)

    def say_which(self) -> None:
        """Says which passages training takes, if a search chose the cut."""
        if self.chosen is None or self.passages is None:
            return
        number = f"{len(self.passages.tokens):,} passages"
        if self.passages.sha256 != self.chosen.passages:
            say(
                f"warning: training takes all {number}: the search chose the plan on other "
                "passages, or on these cut differently, so none is left to test on"
            )
            return
        say(
            f"training takes the {number} on which the search chose the plan, and leaves the "
            "others to test on. To train on all of them, take the key 'chosen' out of the plan"
        )

    def say_how_often(self) -> None:
        """Warns of passages that an erasing would show too rarely."""
        from surgery.training.distillation import ROWS_OF_PASSAGES

        if self.passages is None:
            return
        steps, number = self.schedule.steps, len(self.passages.tokens)
        enough = -(-SHOWN * number // ROWS_OF_PASSAGES)
        if steps < enough:
            say(
                f"warning: erase: each of {number:,} passages is shown "
                f"{steps * ROWS_OF_PASSAGES / number:.1f} times. Train for {enough:,} steps to "
                f"show each {SHOWN} times: fewer leave more to further training"
            )


def open_lessons(
    asked: groups.Passages,
    schedule: Schedule,
    model: ResolvedModel,
    *,
    own: str | None,
    text: Sequence[str],
    chosen: ChosenOn | None,
    never: str | None = None,
) -> OpenedLessons:
    """Reads text and passages in the model's tokens. With `chosen`, these passages alone, so that
    the others still tell what the result does.

    `own`: a lab, whose passages are taken unless others are asked for. `never`: names others of
    their form. Raises `SamplesError` for
    text that holds passages, too little text, and passages that are longer than the context, and
    `UnsupportedError` for a model that cannot be trained.
    """
    from evals.data.inputs import open_passages

    opened = None
    if asked.samples or own:
        opened = open_passages(asked, own, chosen=chosen, leave_out=asked.leave_out)
    else:
        for name, value in asked:
            if value:
                raise SamplesError(f"`{name}` needs passages", fix="name them with `samples`")
    tokens, taught = read_healing_text(find_healing_text(text), schedule, model, opened)
    kept = None if never is None or opened is None else read_never(never, asked, opened, model)
    return OpenedLessons(tokens, taught, schedule, chosen, kept)


def read_never(
    named: str, asked: groups.Passages, passages: PassageSource, model: ResolvedModel
) -> NeverRows:
    """The records of a name in the model's tokens. Raises as `split_never`, and `SamplesError` for
    what is longer than the context."""
    from evals.data.inputs import open_never
    from evals.data.never import split_never
    from surgery.loading import load_tokenizer
    from surgery.training.erasing import NeverRows

    source, tokenizer = open_never(asked, named), load_tokenizer(model.folder)
    assert source is not None
    every = passages.add_others(passages.tokenize(tokenizer), tokenizer)
    halves = split_never(source, every, tokenizer)
    return NeverRows(*(take_members(half, model.dimensions) for half in halves))


def say_what_is_recited(name: str, record: Any) -> None:
    """Says what a model that training made still recites, and how much of it rounding lost."""
    if record.kept is not None and record.kept < KEPT:
        say(f"warning: {name}: the model's dtype keeps {record.kept:.0%} of what was learned")
    if (recital := record.recital) is None:
        return
    told = (
        f"{name}: the model recites {recital.recited:,} of the {recital.passages:,} passages that "
        "it was trained on"
    )
    if recital.by_teacher is not None:
        told += f", and the model that taught it {recital.by_teacher:,}"
    if (never := getattr(record, "never", None)) is not None:
        rise = "to infinity" if never.rise is None else f"by {never.rise:+.3f} nats per token"
        told += f". The loss on {never.tested:,} new records of their form moved {rise}"
    more = recital.recited > (recital.by_teacher or 0)
    say(f"warning: {told}: train it for more steps" if more else told)
