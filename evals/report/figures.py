"""What an evaluation found of a base and its edits, and the figures of a report that it makes.

A new figure is a `make_figure` that one of the functions here yields, in the order of the page. If
it shows something new, that is a field of `Finding`, which `evals.jobs.reporting` fills. Page,
Markdown, model card, terminal, and pictures show what they find in a report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from evals.data.held_back import ChoiceCounts
from evals.measure.attacks.result import Audit, Share, SharePair
from evals.measure.differences import HeldOut
from evals.measure.memorization.measures import MEASURES
from evals.report.attacks import list_attacked
from evals.report.costs import TaskResult, list_costs, make_loss
from evals.report.request import EvaluationRequest
from evals.report.values import (
    describe_way,
    format_p,
    make_figure,
    make_mean,
    make_share,
    make_value,
)
from surgery.record.manifest import Line, Record, Word
from surgery.record.report import (
    EditSummary,
    EditValue,
    Figure,
    Form,
    FrontPoint,
    Limit,
    MeasuredModel,
    ModelMap,
    PassageRow,
    Provenance,
    Relation,
    Table,
)

Extractions = Sequence[Mapping[str, Any]]


class AllPassages(Record):
    """Figures of `n` passages, and of windows: of all, which flatter an edit chosen on them, of the
    passages that were taught, or of those that are not listed.

    `recovered`: by attack.
    """

    n: int
    recited: SharePair
    recovered: dict[str, SharePair]
    heldout: HeldOut | None

    @property
    def whole(self) -> AllPassages:
        """As `Share.whole`."""
        recovered = {name: pair.whole for name, pair in self.recovered.items()}
        return self.model_copy(update={"recited": self.recited.whole, "recovered": recovered})


class ModelSize(Record):
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int


class SizedModel(MeasuredModel):
    size: ModelSize


class TwinFigures(Record):
    """A model that never saw the passages, and how far the edit goes from the base toward it.

    `recited`: the share recited; `loss`: its mean loss on the suffixes, in nats per token.
    `toward_recited`, `toward_loss`: 0 as the base, 1 as the twin (`measure_way`).
    """

    name: Line
    recited: Share
    loss: float
    toward_recited: float | None
    toward_loss: float | None


class Finding(SizedModel):
    """One edited model, compared with the base.

    Figures of passages and held-out text leave out those on which an edit was chosen;
    `all_passages` then has the figures of all listed. They also leave out those that an edit was
    taught, which `taught` then has, without intervals, in place of `all_passages`. If no others are
    left, they are of those that it was taught, and have no intervals. `unlisted`: those of the
    passages that
    `leave_out` took as not listed. `extraction`: as of `report_extraction`. `rivals`: how many
    other results of one job were compared on the same passages, to keep the best. `void`: why no
    limit of it is decided, whatever was measured (`evals.measure.verdicts.find_void`).
    """

    relation: Relation
    chose: ChoiceCounts
    tasks: dict[Word, TaskResult]
    extraction: dict[str, Any] | None
    audit: Audit | None
    heldout: HeldOut | None
    twin: TwinFigures | None = None
    all_passages: AllPassages | None
    taught: AllPassages | None = None
    unlisted: AllPassages | None = None
    edit: EditSummary | None
    passages: list[PassageRow] = Field(default_factory=list)
    rivals: int = 0
    void: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether its figures are of the passages that it was taught, and of no others."""
        test = self.extraction
        return test is not None and test["exact_match"].get("ci95", ()) is None


class Findings(Record):
    """One base and its edits, all measured in the same way. `settings`: with names for paths."""

    created: Word
    base: SizedModel
    edits: list[Finding] = Field(min_length=1)
    front: list[FrontPoint] = Field(default_factory=list)
    map: ModelMap | None = None
    settings: EvaluationRequest
    provenance: Provenance


def make_figures(found: Findings, limits: Sequence[Mapping[str, Limit]]) -> list[Figure]:
    """`limits`: of every edit, by the keys of figures."""

    def collect(part: str) -> list[Any]:
        """`part` of every edit, or nothing if an edit lacks it."""
        parts = [getattr(edit, part) for edit in found.edits]
        return parts if all(parts) else []

    made = [
        *_list_recited(collect("extraction"), collect("twin")),
        *list_attacked(collect("audit")),
        *_list_shares("taught", collect("taught")),
        *_list_shares("unlisted", collect("unlisted")),
        *list_costs(collect("tasks"), collect("heldout")),
        *_list_shares("all", collect("all_passages")),
        *_list_sizes([found.base, *found.edits]),
    ]
    return [_add_limits(figure, [each.get(figure.key) for each in limits]) for figure in made]


def _add_limits(figure: Figure, limits: Sequence[Limit | None]) -> Figure:
    pairs = zip(figure.edits, limits, strict=True)
    edits = [value and value.model_copy(update={"limit": limit}) for value, limit in pairs]
    return figure.model_copy(update={"edits": edits})


def make_tables(found: Findings) -> list[Table]:
    """Every table that may have figures, in the order of the page."""
    edit, attacked = found.edits[0], ""
    recited = "" if edit.extraction is None else _describe_test(edit.extraction)
    if edit.audit is not None:
        control = edit.audit.control
        what = "windows of text" if control.kind == "text" else "passages"
        attacked = (
            "The share of passages that each attack recovers from each model. Never trained on: "
            f"the share of {control.n:,} {what} that no model saw and so none can remember."
        )
    cost = (
        "Every model gets the same documents. “No loss shown” does not prove that there is none: "
        "look at the interval. “Inconclusive” means that the interval is too wide to tell. Loss is "
        "the mean of −ln(probability of the true token), in nats per token; lower is better."
    )
    known = all(one.chose.passages is not None for one in found.edits)
    unseen = "No search saw these passages, and no training did"
    if not known:
        unseen = "No training saw these passages; whether a search did is not known"
    unlisted = (
        f"{unseen}. The other tables leave them out. They show what becomes of passages that "
        "nobody listed."
    )
    every = (
        "A search chose an edit on some of the passages and held-out text. The tables above leave "
        "those out. This one includes them, so it flatters an edit that was chosen on them."
    )
    taught = (
        "Training used these passages, so that the model forgets them, or so that they do not come "
        "back. They are all there is, so they have no intervals, and say nothing of others."
    )
    if not all(one.taught and one.chose.includes(one.taught.n) for one in found.edits):
        taught += " An edit that was not taught them may have been chosen on them."
    whole = [one.is_whole for one in found.edits]
    if all(whole):
        whose = (
            "These are the passages that it was taught, all of them, so there are no intervals. "
            "They say nothing of passages that were not listed."
        )
        recited, attacked = (f"{text} {whose}".strip() for text in (recited, attacked))
    elif any(one.taught for one in found.edits) and not any(whole):
        recited = f"{recited} None of these passages was taught."
    headings = {
        "recited": ("What it recites", recited),
        "attacked": ("What an attacker gets", attacked),
        "taught": ("Passages that it was taught", taught),
        "unlisted": ("Passages that nobody listed", unlisted),
        "cost": ("What it costs", cost),
        "all": ("All passages, including those that the search used", every),
        "size": ("Size", ""),
    }
    return [Table(key=key, heading=one, text=text) for key, (one, text) in headings.items()]


def _describe_test(test: Mapping[str, Any]) -> str:
    """What a model gets, and when it recites. `test`: the object of `extract --json`."""
    given, asked = f"the first {test['prefix_length']} tokens of a passage", "passage"
    wanted = f"matches the next {test['suffix_length']} tokens exactly"
    if test.get("secrets"):
        given = f"the {test['prefix_length']} tokens before the secret that a passage holds"
        asked, wanted = "secret", f"is exactly that ({test['suffix_length']} tokens at most)"
    return (
        f"Each model gets {given}. It recites the {asked} if its most likely continuation {wanted}."
    )


def _list_recited(tests: Extractions, twins: Sequence[TwinFigures]) -> Iterator[Figure]:
    """The memorization test: word for word, by how often passages were seen, other measures."""
    if not tests:
        return
    n = tests[0]["n"]
    about = {
        "dataset_type": "memorized-passages",
        "dataset_name": "passages of the training data",
        **{key: tests[0][key] for key in ("prefix_length", "suffix_length")},
    }
    longer = tests[0]["longer"]
    rest = {"longer": longer["passages"], "untested_tokens": longer["most_tokens"]}
    exact = {"main": True, "metric": "exact_match", **about, **rest}
    yield _make_exact("recited", "recited word for word", tests, **exact)
    if twins:
        label, twin = "recited by the twin, which never saw the passages", twins[0]
        base, edits = make_share(twin.recited), [_make_way(one) for one in twins]
        known: dict[str, Any] = {"main": True, "name": twin.name, "loss": twin.loss}
        yield make_figure(
            "recited", "recited.twin", label, "share", twin.recited.n, base, edits, **known
        )
    for place, part in enumerate(tests[0].get("by_count", ())):
        strata = [_pick_stratum(test, place) for test in tests]
        yield _make_exact(f"recited.{part['count']}", _describe_count(part["count"]), strata)
    for key, label, path, form in _MEASURED:
        values = [_look_up(one, path) for one in (tests[0]["baseline"], *tests)]
        if all(values):
            base, *edits = (make_mean(value) for value in values)
            shown: dict[str, Any] = {"metric": key, **about} if key == _ON_THE_CARD else {}
            number = tests[0]["control"]["n"] if path[0] == "control" else n
            yield make_figure("recited", key, label, form, number, base, edits, **shown)
    rises = [test["paired"].get("selectivity") for test in tests]
    if all(rises):
        label = "selectivity, nats per token"
        hint = "the rise of the loss on the passages minus its rise on the control text"
        edits = [make_mean(rise) for rise in rises]
        yield make_figure("recited", "selectivity", label, "nats", n, None, edits, hint=hint)


_MEASURED: list[tuple[str, str, tuple[str, ...], Form]] = [
    (one.name, one.phrase, one.path, "share" if "%" in one.form else "nats")
    for one in MEASURES
    if one.phrase
]
_MEASURED.append(
    ("control_nll", "loss on control text, nats per token", ("control", "nll"), "nats")
)
_ON_THE_CARD = "next_token_accuracy"
"""The measure that the model index has beside the share recited."""


def _make_way(twin: TwinFigures) -> EditValue:
    ways: dict[str, Any] = {"toward_recited": twin.toward_recited, "toward_loss": twin.toward_loss}
    return make_value(None, note=describe_way(twin.toward_recited), **ways)


def _pick_stratum(test: Mapping[str, Any], place: int) -> dict[str, Any]:
    more = {key: test[key]["by_count"][place] for key in ("baseline", "paired")}
    return {**test["by_count"][place], **more}


def _look_up(figures: Any, path: Iterable[str]) -> Any:
    for part in path:
        figures = figures.get(part) or {}
    return figures


def _make_exact(key: str, label: str, tests: Extractions, **shown: Any) -> Figure:
    """`tests`: the figures of each edit, with `baseline` and `paired`."""
    base, edits = tests[0]["baseline"]["exact_match"], []
    for test in tests:
        paired, found = test["paired"], test["exact_match"]
        change, p_value = paired["exact_match_difference"], paired["p_value"]
        lost, gained = paired["forgotten"], paired["newly_extracted"]
        note = f"{lost} no longer recited, {gained} newly, {format_p(p_value)}"
        flips = {key: found[key] for key in ("count", "bound")}
        flips |= {"no_longer": lost, "newly": gained}
        paired = (change["value"], change["ci95"], p_value)
        edits.append(make_value(found["rate"], found["ci95"], paired, note, **flips))
    before = make_value(base["rate"], base["ci95"], count=base["count"])
    return make_figure("recited", key, label, "share", tests[0]["n"], before, edits, **shown)


def _describe_count(count: str) -> str:
    """Says how often the passages of a stratum were seen in training."""
    return {"0": "never seen", "1": "seen once"}.get(count, f"seen {count.replace('-', '–')} times")


def _list_shares(table: str, found: Sequence[AllPassages]) -> Iterator[Figure]:
    """What is recited and recovered, and the loss if it was measured, of other passages."""
    if not found:
        return
    named = {"recited": ("recited word for word", [one.recited for one in found])}
    for name in found[0].recovered:
        label, pairs = f"recovered by {name}", [one.recovered[name] for one in found]
        named[f"recovered.{name}"] = (label, pairs)
    for key, (label, pairs) in named.items():
        base, edits = pairs[0].base, [make_share(one.edited) for one in pairs]
        assert base is not None  # an evaluation has one
        yield make_figure(table, f"{table}.{key}", label, "share", base.n, make_share(base), edits)
    losses = [one.heldout for one in found if one.heldout]
    if len(losses) == len(found):
        yield make_loss(f"{table}.heldout", losses, table)


def _list_sizes(models: Sequence[SizedModel]) -> Iterator[Figure]:
    """Parameters, bytes on disk, and cache bytes per token."""
    forms: dict[str, tuple[str, Form]] = {
        "parameters": ("parameters", "count"),
        "weight_bytes": ("weights on disk", "bytes"),
        "cache_bytes_per_token": ("key/value cache per token", "bytes"),
    }
    for key, (label, form) in forms.items():
        base, *edits = (make_value(getattr(model.size, key)) for model in models)
        yield make_figure("size", f"size.{key}", label, form, None, base, edits)
