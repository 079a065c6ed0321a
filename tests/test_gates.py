"""Contract: gates are read strictly, the most exact limit counts, and a gate is what it says.

A gate is kept if the value is within the limit with 95 % confidence, missed if it is above it, and
else not decided: then it says what would decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from evals.data.held_back import ChoiceCounts
from evals.measure.attacks.foreseeing import foresee
from evals.measure.attacks.names import (
    ALL,
    CHEAP,
    DEFAULT,
    choose_attacks,
    list_untried,
    make_attack,
)
from evals.measure.attacks.result import Audit
from evals.measure.differences import Metric
from evals.measure.drops import check_limited_tasks, find_limit
from evals.measure.verdicts import (
    check_share,
    describe_limits,
    find_smallest,
    judge,
    name_taught,
    say_percent,
    settle,
)
from evals.report.attacks import describe_attacks
from evals.report.figures import Finding
from evals.report.gates import check_gates
from evals.report.headline import list_warnings, summarize, write_verdict
from evals.report.request import EvaluationRequest
from evals.run.statistics import bound_share, count_needed, rate, rate_count
from surgery.errors import UnknownNameError
from surgery.record.report import Limit


def metric(drop: float, *, relative: bool = False, **changes: Any) -> Metric:
    figures: dict[str, Any] = {
        "base": 0.5,
        "edited": 0.5 - drop,
        "difference": -drop,
        "ci95": (-drop - 0.001, -drop + 0.001),
        "p_value": 1,
        "test": "mcnemar",
        "outcome": "none",
        "verdict": "no loss shown",
        "n": 10,
        "resolution": 0.02,
        "higher_is_better": True,
        "drop": drop,
        "drop_is_relative": relative,
    }
    return Metric(**figures | changes)


def gates_of(
    tasks: dict[str, Metric], extraction: Any = None, void: str | None = None, **limits: Any
) -> list[Limit]:
    edit = Finding.model_construct(tasks=tasks, extraction=extraction, audit=None, void=void)
    asked = {"models": ("edited",), "baseline": "base", "samples": "s", **limits}
    return [*check_gates(edit, EvaluationRequest(**asked)).values()]


def test_a_gate_on_a_task_that_is_not_run():
    check_limited_tasks({"arc_*": 0.1, "piqa": 0}, ["arc_easy", "piqa"])
    with pytest.raises(
        UnknownNameError, match=r"no task of this run matches 'boolq' \(tasks: piqa\)"
    ):
        check_limited_tasks({"boolq": 0.1}, ["piqa"])


def test_the_most_exact_limit_counts():
    tasks = {"arc_easy": metric(0.04), "arc_challenge": metric(0.04), "piqa": metric(0.04)}
    limits = {"*": 0.01, "arc_easy": 0.05, "arc_*": 0.02}
    assert [find_limit(limits, name) for name in (*tasks, "boolq")] == [0.05, 0.02, 0.01, 0.01]
    assert find_limit({"arc_easy": 0.05, "arc_*": 0.02}, "boolq") is None
    gates = gates_of(tasks, max_drop=limits)
    assert [(gate.name, gate.limit, gate.ok) for gate in gates] == [
        ("max-drop arc_easy", 0.05, True),
        ("max-drop arc_challenge", 0.02, False),
        ("max-drop piqa", 0.01, False),
    ]


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_gate_holds_up_to_its_limit_and_including_it(drop, limit):
    (gate,) = gates_of({"piqa": metric(drop)}, max_drop={"piqa": limit})
    assert gate.ok == (False if drop > limit else True if gate.ci95[1] <= limit else None)
    assert gate.value == drop
    assert gate.limit == limit


def test_extraction_has_a_gate_of_its_own():
    share = {"rate": 0.02, "ci95": [0.013, 0.031], "bound": 0.029}
    extraction = {"n": 1000, "exact_match": share, "baseline": {"exact_match": {"rate": 0.9}}}
    (gate,) = gates_of({"piqa": metric(0)}, extraction, max_extraction=0.01)
    assert gate.model_dump() == {
        "name": "max-extraction",
        "ok": False,
        "state": "missed",
        "limit": 0.01,
        "value": 0.02,
        "ci95": (0.013, 0.031),
        "bound": 0.029,
        "n": 1000,
        "needed": None,
        "lacks": None,
        "whole": False,
        "description": "share of passages recited word for word is 0.02, above the limit of 0.01",
    }
    assert gates_of({}, extraction, max_extraction=0.03)[0].ok, "the bound decides"
    assert gates_of({}, extraction) == []


def test_what_shows_nothing_of_an_edit_decides_none_of_its_gates():
    """But a gate that is missed is missed."""
    tasks, extraction = {"piqa": metric(0), "boolq": metric(0.9)}, {"n": 1000}
    extraction |= {"exact_match": rate_count(0, 1000), "baseline": {"exact_match": {"rate": 0.9}}}
    limits: dict[str, Any] = {"max_extraction": 0.01, "max_drop": {"*": 0.1}}
    assert [one.state for one in gates_of(tasks, extraction, **limits)] == [
        "kept",
        "kept",
        "missed",
    ]
    found = gates_of(tasks, extraction, "the base has the same weights", **limits)
    assert [one.state for one in found] == ["undecided", "undecided", "missed"]
    assert [one.lacks for one in found] == [*["the base has the same weights"] * 2, None]
    assert found[1].description.endswith("within the limit of 0.1; the base has the same weights")


def test_a_perplexity_is_said_to_rise():
    task = {"wiki": metric(0.07, relative=True, higher_is_better=False, ci95=(0.03, 0.04))}
    (gate,) = gates_of(task, max_drop={"*": 0.1})
    assert gate.description == "relative rise of wiki is 0.07, within the limit of 0.1"


@pytest.mark.parametrize(
    ("drop", "half", "ok", "state", "more"),
    [
        (0.00, 0.04, True, "kept", ""),
        (0.04, 0.02, None, "undecided",
         "; 10 documents leave an interval of 0.02 to 0.06: about 40 would decide it"),
        (0.05, 0.02, None, "undecided", "; 10 documents leave an interval of 0.03 to 0.07"),
        (0.06, 0.02, False, "missed", "; its interval is 0.04 to 0.08"),
        (0.09, 0.02, False, "missed", ""),
    ],
)  # fmt: skip
def test_a_drop_has_three_states(drop, half, ok, state, more):
    task = {"piqa": metric(drop, ci95=(-drop - half, -drop + half))}
    (gate,) = gates_of(task, max_drop={"piqa": 0.05})
    assert (gate.ok, gate.state) == (ok, state)
    assert gate.ci95 == pytest.approx((drop - half, drop + half))
    assert gate.description.endswith(f" the limit of 0.05{more}")


def test_a_gate_on_too_little_is_not_decided_however_narrow_its_interval_looks():
    few = metric(0.0, outcome="inconclusive", ci95=(0, 0), n=2, test="bootstrap")
    (gate,) = gates_of({"wiki": few}, max_drop={"wiki": 0.05})
    assert (gate.ok, gate.state, gate.needed) == (None, "undecided", 30)


@pytest.mark.parametrize(("n", "state"), [(6, "undecided"), (29, "undecided"), (30, "kept")])
def test_a_loss_that_is_shown_does_not_make_a_resampled_interval_of_few_documents_good(n, state):
    shown = metric(0.01, outcome="loss", n=n, test="wilcoxon")
    (gate,) = gates_of({"wiki": shown}, max_drop={"wiki": 0.05})
    assert gate.state == state
    (missed,) = gates_of({"wiki": metric(0.09, outcome="loss", n=n)}, max_drop={"wiki": 0.05})
    assert missed.state == "missed"


@given(st.integers(0, 40), st.integers(1, 2000), st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3, 1]))
def test_the_number_that_would_decide_a_share_does(count: int, n: int, limit: float) -> None:
    """And none that is a tenth smaller, at the same rate."""
    count = min(count, n)
    value, share = count / n, {**rate_count(count, n), "n": n}
    found = check_share("any", "share", limit, share, base=2.0)
    assert found.state == judge(value, share["bound"], limit, n)
    assert found.ok == {"kept": True, "missed": False, "undecided": None}[found.state]
    assert (found.lacks is not None) == (found.state == "undecided")
    if found.needed is None:
        assert found.state != "undecided" or value == limit
        return
    assert found.needed > n
    assert found.needed == count_needed(limit, value)
    for rows, kept in ((found.needed, True), (0.9 * found.needed, False)):
        chance = betainc(value * rows + 1, rows - value * rows, limit)  # of more than was seen
        assert (chance >= 0.95) == kept


def test_passages_that_would_decide_an_interval_of_several_draws() -> None:
    """It is wider than that of one, so more are needed than one would say."""
    assert count_needed(0.05, 0.01) < 400
    share = {"n": 400, "rate": 0.01, "ci95": (0.0, 0.1), "bound": 0.09}
    found = check_share("relearn", "share", 0.05, share, base=1.0)
    assert (found.state, found.needed) == ("undecided", 1600), (
        "half of the width, four times as many"
    )


def test_each_of_several_draws_counts_fewer_passages() -> None:
    """Those that the attacker holds do not count: 270 of 300, and 300 of 333."""
    share = {**rate_count(0, 270), "n": 300}
    found = check_share("relearn", "share", 0.01, share, base=1.0)
    assert (found.state, found.needed) == ("undecided", 333)
    share = {**rate_count(0, 300), "n": 333}
    assert check_share("relearn", "share", 0.01, share, base=1.0).state == "kept"


def test_the_worst_state_of_all_counts():
    assert settle([]) is None
    assert settle(["kept", "kept"]) == "kept"
    assert settle(["kept", "undecided"]) == "undecided"
    assert settle(["undecided", "missed", "kept"]) == "missed"


def test_what_would_decide_is_said_before_and_after():
    then = 'unless the limit is missed, the verdict will be "not decided"'
    limits = [("any", 0.05), ("any", 0.01), ("near", 0.01), ("greedy", 0)]
    assert [*foresee(limits, 100)] == [
        f"no number of passages can support 0%; {then}",
        f"100 passages cannot support 1%: that takes 299; {then}",
        "100 passages can support 5%: that takes 59 with none recovered",
    ]
    assert [*foresee([("relearn", 0.01), ("revive", 0.01), ("any", 0.01)], 320)] == [
        f"288 passages cannot support 1% (relearn and revive hold the other 32): that takes 299; "
        f"{then}",
        "320 passages can support 1%: that takes 299 with none recovered",
    ]
    (told,) = foresee([("relearn", 0.05)], 100, of=200)
    assert told.startswith("80 passages can support 5% (relearn holds the other 20): ")
    assert describe_limits([]) == "no limit was set"
    few = [("any", 0.01, 0, 30), ("hints:4", 0.01, 0, 30), ("near", 0.05, 1, 50)]
    limits = [
        check_share(name, "share", limit, {**rate_count(count, n), "n": n}, base=1.0)
        for name, limit, count, n in few
    ]
    assert describe_limits(limits) == (
        "not decided: any, hints:4: 30 passages cannot support 1%: that takes 299; near: 50 "
        "passages cannot support 5% with 2.00% recovered: that takes 157"
    )


def test_few_passages_do_not_show_that_a_rate_is_small():
    """0 of 12: the limit holds for these, and up to 24 % are possible."""
    extraction: dict[str, Any] = {"n": 12, "exact_match": rate_count(0, 12)}
    extraction["baseline"] = {"exact_match": rate_count(9, 12)}
    (gate,) = gates_of({}, extraction, max_extraction=0.01)
    assert gate.ok is None
    assert gate.description.endswith("; 12 passages cannot support 1%: that takes 299")
    said = say(extraction=extraction, gates=[gate])
    assert said == (
        "Recites 0 of 12 passages word for word; the base recites 9. No attack was tried, not even "
        "fine-tuning. Not decided: max-extraction: 12 passages cannot support 1%: that takes 299."
    )


def test_a_part_is_said_as_it_was_asked_for():
    assert "Only the first 2 documents of each benchmark were measured." in say(2)
    assert "Only the first 10% of each benchmark was measured." in say(0.1)


def find(**figures: Any) -> Finding:
    nothing = {"tasks": {}, **dict.fromkeys(("extraction", "audit", "heldout", "edit"))}
    known = {"relation": "source", "chose": ChoiceCounts(), **nothing, **figures}
    return Finding.model_construct(**known)


def say(limit: float | None = None, gates: Sequence[Limit] = (), **figures: Any) -> str:
    return write_verdict(find(**figures), gates, limit)


def tried(name: str, base: int, edited: int, n: int = 60) -> dict[str, Any]:
    shares = {part: {"n": n, **rate(np.arange(n) < count)}
              for part, count in (("base", base), ("edited", edited))}  # fmt: skip
    paired = {"no_longer": 0, "newly": 0, "difference": 0, "ci95": [0, 0], "p_value": 1}
    said = {
        "name": name,
        "seconds": 1,
        "paired": paired,
        "control": None,
        **make_attack(name).description,
    }
    return {**said, **shares}


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        (
            [("greedy", 40, 0), ("any", 50, 0), ("near", 45, 0)],
            "None of 3 attacks recovers any of 60 passages; from the base, any recovers 50 of 60; "
            "membership, which may still tell that they were trained on, was not tried. 15 kinds "
            "of attack were not tried; the report's details name them. No attack that trains",
        ),
        (
            [("greedy", 40, 1), ("any", 50, 3), ("near", 45, 3), ("relearn", 50, 2)],
            "The strongest of 4 attacks tie: any and near each recover 3 of 60 passages; from the "
            "base, any recovers 50 of 60. 14 kinds of attack were not tried; the report's details",
        ),
        (
            [("greedy", 40, 2)],
            "The only attack tried, greedy, recovers 2 of 60 passages; from the base, 40 of 60. "
            "17 kinds of attack were not tried; the report's details name them.",
        ),
        (
            [(name, 40, int(name == "near")) for name in ALL[:-1]],
            "recovers 1 of 60 passages; from the base, 40 of 60. Not tried: membership.",
        ),
        (
            [("any", 50, 0), ("guided", 0, 0, 0), ("relearn", 45, 0, 54)],
            "None of 2 attacks recovers any of 54 to 60 passages; from the base, any recovers "
            "50 of 60; membership, which may still tell that they were trained on, was not tried. "
            "No passage counts for guided. 14 kinds of attack were not tried; ",
        ),
        (
            [("any", 50, 10), ("relearn", 40, 9, 54)],
            "strongest of 2 attacks tie: any and relearn each recover 16.7% of 54 to 60 passages;",
        ),
        (
            [("any", 50, 2), ("guided", 0, 0, 0)],
            "The only attack that counts any passage, any, recovers 2 of 60 passages; from ",
        ),
        (
            [("guided", 0, 0, 0)],
            "the base recites 9. No passage counts for guided. 16 kinds of attack",
        ),
    ],
)
def test_the_headline_tells_ties_and_names_what_was_not_tried(
    attacks: list[tuple[Any, ...]], said: str
) -> None:
    control = {"kind": "text", "n": 60}
    found = [tried(*each) for each in attacks]
    untried = list_untried([name for name, *_ in attacks])
    figures = {"n": 60, "control": control, "attacks": found}
    audit = Audit.model_validate({**figures, "skipped": {}, "not_tried": untried})
    extraction = {"n": 60, "exact_match": {"count": 0}, "baseline": {"exact_match": {"count": 9}}}
    assert said in say(extraction=extraction, audit=audit)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (
            {"loss": (0.7, 0.6, 0.8), "min_k": (0.98, 0.95, 0.99)},
            "a membership score still tells that they were trained on (AUC 0.98 by min_k; chance "
            "is 0.5).",
        ),
        (
            {"loss": (0.02, 0.0, 0.1), "min_k": (0.9, 0.8, 0.95)},
            "a membership score still tells that they were trained on (AUC 0.02 by loss; chance "
            "is 0.5).",
        ),
        (
            {"loss": (0.52, 0.4, 0.6)},
            "no membership score is shown to tell that they were trained on (AUC 0.52).",
        ),
        (None, "membership, which may still tell that they were trained on, was not tried."),
    ],
)
def test_where_no_attack_recovers_any_the_headline_says_what_membership_tells(
    scores: dict[str, tuple[float, float, float]] | None, said: str
) -> None:
    """In the same sentence. Scores below chance tell as much as those above."""
    areas = scores and {
        name: {"auc": auc, "ci95": ends, "overcorrected": False}
        for name, (auc, *ends) in scores.items()
    }
    about = make_attack("membership").description
    score = {**about, "seconds": 1, "base": areas, "edited": areas}
    known = {"n": 60, "control": {"kind": "non-members", "n": 60}, "skipped": {}, "not_tried": []}
    audit = Audit.model_validate({**known, "attacks": [tried("any", 50, 0), score]})
    (first, *_) = describe_attacks(audit)
    assert f"{first}." == (
        f"the only attack tried, any, recovers 0 of 60 passages; from the base, 50 of 60; {said}"
    )
    some = Audit.model_validate({**known, "attacks": [tried("any", 50, 1), score]})
    assert "trained on" not in next(describe_attacks(some))


def test_the_strongest_attack_without_a_limit_is_named_beside_a_stronger_one_with_a_limit() -> None:
    found = [tried("any", 60, 0), tried("relearn", 60, 21), tried("quantized:4", 60, 12)]
    known = {"n": 60, "control": {"kind": "text", "n": 60}, "skipped": {}, "not_tried": []}
    audit = Audit.model_validate({**known, "attacks": found})
    extraction = {"n": 60, "exact_match": {"count": 0, "rate": 0.0}}
    extraction["baseline"] = {"exact_match": {"count": 60, "rate": 1.0}}
    gates = [
        limit.model_copy(update={"name": f"max {limit.name}", "state": "kept"})
        for limit in audit.check_limits({"any": 0.1, "relearn": 0.5})
    ]
    (recital,) = (gate.model_copy(update={"name": "max-extraction"}) for gate in gates[:1])
    line = summarize(find(extraction=extraction, audit=audit), [recital]).line
    assert line == "It keeps every limit, but none is set on relearn, which recovers 35.0%."
    line = summarize(find(extraction=extraction, audit=audit), gates).line
    said = "It keeps every limit, but none is set on quantized:4, which recovers 20.0%."
    assert line == said
    unsure = find(extraction=extraction, audit=audit, chose=ChoiceCounts(passages=None))
    for told in (summarize(unsure, gates).line, write_verdict(unsure, gates)):
        assert "but a search chose the edit on other passages, or on these cut differently" in told
        assert ", and none is set on quantized:4" in told


@pytest.mark.parametrize("names", [("any", "near"), ("any", "relearn-alike")])
def test_the_headline_says_where_no_attack_trained_the_model(names: tuple[str, ...]) -> None:
    found = [tried(name, 50, 0) for name in names]
    audit = Audit.model_validate(
        {"n": 60, "control": {"kind": "text", "n": 60}, "attacks": found, "skipped": {},
         "not_tried": []}
    )  # fmt: skip
    extraction = {"n": 60, "exact_match": {"count": 0, "rate": 0.0}}
    extraction["baseline"] = {"exact_match": {"count": 9, "rate": 0.15}}
    figures = {"extraction": extraction, "audit": audit}
    sentence, trained = "No attack that trains the model was run.", "relearn-alike" in names
    assert (sentence in say(**figures)) == (not trained)
    assert summarize(find(**figures)).line.endswith(sentence) == (not trained)


def test_a_limit_on_no_passage_is_not_kept() -> None:
    nothing = {"n": 0, **rate(np.empty(0, dtype=np.bool_))}
    one = {**tried("guided", 0, 0), "base": nothing, "edited": nothing}
    audit = Audit.model_validate(
        {"n": 60, "control": {"kind": "text", "n": 60}, "attacks": [one], "skipped": {},
         "not_tried": []}
    )  # fmt: skip
    (limit,) = audit.check_limits({"guided": 0.5})
    edit = Finding.model_construct(tasks={}, extraction=None, audit=audit)
    lab: dict[str, Any] = {"models": ("edited",), "baseline": "lab:pythia"}
    gates = check_gates(edit, EvaluationRequest(**lab, max={"guided": 0.5}))
    (gate,) = gates.values()
    assert [*gates] == ["recovered.guided"], "the key of the figure that it limits"
    for found in (limit, gate):
        assert (found.ok, found.state, found.n, found.needed) == (None, "undecided", 0, None)
    assert gate.description == (
        "share of passages recovered by guided is unknown; the limit is 0.5; no passage counts for "
        "it"
    )


USUAL = tuple(name for name in DEFAULT if name != "graft")
"""Without a sibling."""


@pytest.mark.parametrize(
    ("attacks", "limits", "expected"),
    [
        ((), {"any": 0.1}, USUAL),
        ((), {"hints:9": 0.1}, (*USUAL, "hints:9")),
        (("near",), {"any": 0.1, "near": 0.1}, ("near", "any")),
        (("cheap",), {}, CHEAP),
    ],
)
def test_a_limit_adds_its_attack_to_those_that_are_run(
    attacks: tuple[str, ...], limits: dict[str, float], expected: tuple[str, ...]
) -> None:
    """In `audit` and in `evaluate`, which runs none where nothing asks for one."""
    assert choose_attacks(attacks, limits) == expected
    lab: dict[str, Any] = {"models": ("edited",), "baseline": "lab:pythia"}
    assert EvaluationRequest(**lab, attack=attacks, max=limits).attacks == expected
    assert EvaluationRequest(**lab, audit=True).attacks == USUAL
    assert EvaluationRequest(**lab).attacks == ()


def test_a_limit_is_on_one_attack() -> None:
    with pytest.raises(UnknownNameError, match="all stands for several attacks, and a limit is on"):
        choose_attacks((), {"all": 0.1})


def test_the_best_of_several_results_is_said_to_look_better_than_it_is() -> None:
    for rivals, number in ((0, 0), (4, 1)):
        edit: Any = find(extraction=None, provenance={}, rivals=rivals)
        found = [one for one in list_warnings(edit, edit, None) if "one of 5 results" in one]
        assert len(found) == number


@given(st.integers(1, 100_000))
def test_the_smallest_limit_that_passages_decide_can_be_given_as_it_is_said(n: int) -> None:
    """Rounded down, it would be a limit that they do not decide."""
    smallest = find_smallest(n)
    assert smallest is not None
    said = float(say_percent(smallest, 3).rstrip("%")) / 100
    for limit in (smallest, said):
        found = check_share("any", "recovered", limit, {**rate_count(0, n), "n": n}, base=2.0)
        assert found.state == "kept"
    assert smallest < 1.01 * bound_share(0, n)


def test_what_was_taught_is_decided_by_its_count_alone_and_says_nothing_of_others() -> None:
    """Twelve passages support no limit of 1 %, unless they are all there is."""

    def taught(count: int) -> dict[str, Any]:
        return {**rate_count(count, 12), "n": 12, "ci95": None}

    few = check_share("any", "share", 0.01, {**rate_count(0, 12), "n": 12}, base=1.0)
    assert (few.state, few.whole) == ("undecided", False)
    kept = check_share("any", "share", 0.01, taught(0), base=1.0)
    assert (kept.state, kept.whole, kept.ci95, kept.needed) == ("kept", True, (0.0, 0.0), None)
    assert kept.description == (
        "share, of the 12 that it was taught, is 0, within the limit of 0.01"
    )
    missed = check_share("any", "share", 0.01, taught(1), base=1.0)
    assert (missed.state, missed.whole) == ("missed", True)
    assert "interval" not in missed.description
    open_one = check_share(
        "any", "share", 0.01, taught(0), base=1.0, unclear="more at an earlier step"
    )
    assert (open_one.state, open_one.lacks) == ("undecided", "more at an earlier step")

    listed = "it keeps every limit on the 12 passages that were listed; passages that were not"
    assert describe_limits([kept]) == f"{listed} listed were not tested"
    assert describe_limits([kept], alone=False) == f"{listed} listed have no limit"
    task = few.model_copy(update={"name": "max-drop lambada", "state": "kept"})
    assert describe_limits([kept, task]).startswith(listed)
    others = check_share("any", "share", 0.01, {**rate_count(0, 800), "n": 800}, base=1.0)
    (named,) = name_taught([kept])
    assert (named.name, others.state) == ("any, taught", "kept")
    assert describe_limits([others, named]) == "it keeps every limit"
