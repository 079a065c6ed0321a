"""Contract: limits are read strictly, the most exact limit counts, and a limit is what it says.

A limit is kept if the value is within the limit with 95 % confidence, missed if it is above it, and
else not decided: then it says what would decide it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_report import (
    attacked,
    bare,
    limit_on,
    pair,
    share,
    task,
    unlimited,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from evals.data import load_samples
from evals.jobs.asking import MeasureRequest
from evals.measure.attacks.foreseeing import foresee
from evals.measure.attacks.names import ALL, CHEAP, DEFAULT, choose_attacks, list_untried
from evals.run.statistics import Interval, bound_share, count_needed
from evals.table.limits import (
    ask,
    ask_tasks,
    check_limited_tasks,
    decide,
    find_limit,
    find_smallest,
    judge,
    say_percent,
    settle,
)
from evals.table.measured import measure_share, measure_value
from surgery.card.measurements import name_limit
from surgery.errors import UnknownNameError
from surgery.record.measured import BASE, EDITED, Limit, Measured
from surgery.record.report import EditRecord

LISTED = "It keeps every limit on the 12 passages that were listed; passages that were not listed"


def metric(
    name: str, drop: float, half: float = 0.001, *, relative: bool = False, **known: Any
) -> list[Measured]:
    """A task that loses `drop` ± `half`."""
    figures = {
        "drop": drop,
        "drop_low": drop - half,
        "drop_high": drop + half,
        "drop_is_relative": relative,
        "outcome": "none",
        "n": 10,
    }
    return task(name, 0.5, 0.5 - drop, half, **{**figures, **known})


def gates_of(figures: list[Measured], void: str | None = None, **limits: Any) -> list[Limit]:
    request = unlimited(**limits)
    tasks = [row.details and row.name for row in figures if row.name.startswith("task.")]
    names = [str(name).removeprefix("task.") for name in dict.fromkeys(filter(None, tasks))]
    most = request.attacks.max, request.extraction.max_extraction
    asked = [*ask(*most), *ask_tasks(request.benchmarks.max_drop, names)]
    return decide(figures, asked, EDITED, unclear=void)


def test_a_limit_on_a_task_that_is_not_run():
    check_limited_tasks({"arc_*": 0.1, "piqa": 0}, ["arc_easy", "piqa"])
    with pytest.raises(
        UnknownNameError, match=r"no task of this run matches 'boolq' \(tasks: piqa\)"
    ):
        check_limited_tasks({"boolq": 0.1}, ["piqa"])


def test_the_most_exact_limit_counts():
    names = ("arc_easy", "arc_challenge", "piqa")
    limits = {"*": 0.01, "arc_easy": 0.05, "arc_*": 0.02}
    assert [find_limit(limits, name) for name in (*names, "boolq")] == [0.05, 0.02, 0.01, 0.01]
    assert find_limit({"arc_easy": 0.05, "arc_*": 0.02}, "boolq") is None
    gates = gates_of([row for name in names for row in metric(name, 0.04)], max_drop=limits)
    assert [(gate.name, gate.subject, gate.limit, gate.state) for gate in gates] == [
        ("task.arc_easy", "arc_easy", 0.05, "kept"),
        ("task.arc_challenge", "arc_challenge", 0.02, "missed"),
        ("task.piqa", "piqa", 0.01, "missed"),
    ]


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_limit_holds_up_to_its_limit_and_including_it(drop, limit):
    (gate,) = gates_of(metric("piqa", drop), max_drop={"piqa": limit})
    assert gate.ci95 is not None
    within = "kept" if gate.ci95[1] <= limit else "undecided"
    assert gate.state == ("missed" if drop > limit else within)
    assert gate.value == drop
    assert gate.limit == limit


def test_extraction_has_a_limit_of_its_own():
    recited = pair("recited", 900, 20, 1000)
    (gate,) = gates_of([*recited, *metric("piqa", 0)], max_extraction=0.01)
    measured = {key: value for key, value in recited[1] if key != "details"}
    assert gate.model_dump(exclude={"details"}) == {
        **Measured(**measured).model_dump(exclude={"details"}),
        "what": "recited",
        "subject": "greedy",
        "state": "missed",
        "limit": 0.01,
        "bound": bound_share(20, 1000),
        "needed": None,
        "lacks": None,
        "description": "share of passages recited word for word is 0.02, above the limit of 0.01",
    }
    assert gates_of(recited, max_extraction=0.03)[0].state == "kept", "the bound decides"
    assert gates_of(recited) == []


def test_what_shows_nothing_of_an_edit_decides_none_of_its_limits():
    """But a limit that is missed is missed."""
    figures = [*pair("recited", 900, 0, 1000), *metric("piqa", 0), *metric("boolq", 0.9)]
    limits: dict[str, Any] = {"max_extraction": 0.01, "max_drop": {"*": 0.1}}
    assert [one.state for one in gates_of(figures, **limits)] == ["kept", "kept", "missed"]
    found = gates_of(figures, "the base has the same weights", **limits)
    assert [one.state for one in found] == ["undecided", "undecided", "missed"]
    assert [one.lacks for one in found] == [*["the base has the same weights"] * 2, None]
    assert found[1].description.endswith("within the limit of 0.1; the base has the same weights")


def test_a_perplexity_is_said_to_rise():
    (gate,) = gates_of(metric("wiki", 0.07, relative=True), max_drop={"*": 0.1})
    assert gate.description == "relative rise of wiki is 0.07, within the limit of 0.1"


@pytest.mark.parametrize(
    ("drop", "half", "state", "more"),
    [
        (0.00, 0.04, "kept", ""),
        (0.04, 0.02, "undecided",
         "; 10 documents leave an interval of 0.02 to 0.06: about 40 would decide it"),
        (0.05, 0.02, "undecided", "; 10 documents leave an interval of 0.03 to 0.07"),
        (0.06, 0.02, "missed", "; its interval is 0.04 to 0.08"),
        (0.09, 0.02, "missed", ""),
    ],
)  # fmt: skip
def test_a_drop_has_three_states(drop, half, state, more):
    (gate,) = gates_of(metric("piqa", drop, half), max_drop={"piqa": 0.05})
    assert gate.state == state
    assert gate.ci95 == pytest.approx((drop - half, drop + half))
    assert gate.description.endswith(f" the limit of 0.05{more}")


def test_a_limit_on_too_little_is_not_decided_however_narrow_its_interval_looks():
    few = metric("wiki", 0.0, 0.0, outcome="inconclusive", n=2, test="bootstrap")
    (gate,) = gates_of(few, max_drop={"wiki": 0.05})
    assert (gate.state, gate.needed) == ("undecided", 30)


@pytest.mark.parametrize(("n", "state"), [(6, "undecided"), (29, "undecided"), (30, "kept")])
def test_a_loss_that_is_shown_does_not_make_a_resampled_interval_of_few_documents_good(n, state):
    shown = metric("wiki", 0.01, outcome="loss", n=n, test="wilcoxon")
    (gate,) = gates_of(shown, max_drop={"wiki": 0.05})
    assert gate.state == state
    (missed,) = gates_of(metric("wiki", 0.09, outcome="loss", n=n), max_drop={"wiki": 0.05})
    assert missed.state == "missed"


@given(st.integers(0, 40), st.integers(1, 2000), st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3, 1]))
def test_the_number_that_would_decide_a_share_does(count: int, n: int, limit: float) -> None:
    """And none that is a tenth smaller, at the same rate."""
    count = min(count, n)
    value = count / n
    found = limit_on(share("recovered.any", count, n), limit, base=2.0)
    assert found.state == judge(value, bound_share(count, n), limit, n)
    assert (found.lacks is not None) == (found.state == "undecided")
    if found.needed is None:
        assert found.state != "undecided" or value == limit
        return
    assert found.needed > n
    assert found.needed == count_needed(limit, value)
    for rows, kept in ((found.needed, True), (0.9 * found.needed, False)):
        chance = betainc(value * rows + 1, rows - value * rows, limit)  # of more than was seen
        assert (chance >= 0.95) == kept


def draws(value: float, n: int, bound: float) -> Measured:
    return measure_value("recovered.relearn", value, n=n, unit="share", bound=bound)


def test_passages_that_would_decide_an_interval_of_several_draws() -> None:
    """It is wider than that of one, so more are needed than one would say."""
    assert count_needed(0.05, 0.01) < 400
    found = limit_on(draws(0.01, 400, 0.09), 0.05)
    assert (found.state, found.needed) == ("undecided", 1600), (
        "half of the width, four times as many"
    )


def test_each_of_several_draws_counts_fewer_passages() -> None:
    """Those that the attacker holds do not count: 270 of 300, and 300 of 333."""
    found = limit_on(draws(0.0, 300, bound_share(0, 270)), 0.01)
    assert (found.state, found.needed) == ("undecided", 333)
    assert limit_on(draws(0.0, 333, bound_share(0, 300)), 0.01).state == "kept"


def test_the_worst_state_of_all_counts():
    assert settle([]) is None
    assert settle(["kept", "kept"]) == "kept"
    assert settle(["kept", "undecided"]) == "undecided"
    assert settle(["undecided", "missed", "kept"]) == "missed"


def test_what_would_decide_is_said_before_and_after():
    then = 'unless the limit is missed, the verdict will be "not decided"'
    limits = [("any", 0.05), ("any", 0.01), ("quantized:4", 0.01), ("greedy", 0)]
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
    few = [*attacked("any", 30, 0, 30), *attacked("hints:4", 30, 0, 30)]
    limits = {"any": 0.01, "hints:4": 0.01, "quantized:4": 0.05}
    asked = unlimited(max=limits)
    edit = describe(
        *pair("recited", 9, 0, 30), *few, *attacked("quantized:4", 50, 1, 50), asked=asked
    )
    assert edit.line.startswith(
        "Not decided: max any, max hints:4: 30 passages cannot support 1%: that takes 299; max "
        "quantized:4: 50 passages cannot support 5% with 2.00% recovered: that takes 157. "
    )


def test_few_passages_do_not_show_that_a_rate_is_small():
    """0 of 12: the limit holds for these, and up to 24 % are possible."""
    recited = pair("recited", 9, 0, 12)
    (gate,) = gates_of(recited, max_extraction=0.01)
    assert gate.state == "undecided"
    assert gate.description.endswith("; 12 passages cannot support 1%: that takes 299")
    assert describe(*recited, asked=unlimited(max_extraction=0.01)).verdict == (
        "Recites 0 of 12 passages word for word; the base recites 9. No attack was tried, not even "
        "fine-tuning. Not decided: max-extraction: 12 passages cannot support 1%: that takes 299."
    )


def test_a_part_is_said_as_it_was_asked_for():
    for limit, part in (
        (2, "2 documents of each benchmark were"),
        (0.1, "10% of each benchmark was"),
    ):
        edit = describe(*metric("piqa", 0), asked=unlimited(limit=limit))
        for said in (edit.verdict, edit.verdict):
            assert f"nly the first {part} measured." in said


def describe(*rows: Measured, **changes: Any) -> EditRecord:
    """What is said of these figures."""
    return bare(tasks=list(rows), **changes).edits[0]


RECITED = pair("recited", 9, 0, 60)


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        (
            [("greedy", 40, 0, 60), ("any", 50, 0, 60), ("quantized:4", 45, 0, 60)],
            "None of 3 attacks recovers any of 60 passages; from the base, any recovers 50 of 60; "
            "membership, which may still tell that they were trained on, was not tried. {untried} "
            "kinds of attack were not tried; the report's details name them. No attack that trains",
        ),
        (
            [
                ("greedy", 40, 1, 60),
                ("any", 50, 3, 60),
                ("quantized:4", 45, 3, 60),
                ("relearn", 50, 2, 60),
            ],
            "The strongest of 4 attacks tie: any and quantized:4 each recover 3 of 60 passages; "
            "from the base, any recovers 50 of 60. {untried} kinds of attack were not tried; the ",
        ),
        (
            [("greedy", 40, 2, 60)],
            "The only attack tried, greedy, recovers 2 of 60 passages; from the base, 40 of 60. "
            "{untried} kinds of attack were not tried; the report's details name them.",
        ),
        (
            [(name, 40, int(name == "quantized:4"), 60) for name in ALL[:-1]],
            "recovers 1 of 60 passages; from the base, 40 of 60. Not tried: membership.",
        ),
        (
            [("any", 50, 0, 60), ("in-context", 0, 0, 0), ("relearn", 45, 0, 54)],
            "None of 2 attacks recovers any of 54 to 60 passages; from the base, any recovers "
            "50 of 60; membership, which may still tell that they were trained on, was not tried. "
            "No passage counts for in-context. {untried} kinds of attack were not tried; ",
        ),
        (
            [("any", 50, 10, 60), ("relearn", 40, 9, 54)],
            "strongest of 2 attacks tie: any and relearn each recover 16.7% of 54 to 60 passages;",
        ),
        (
            [("any", 50, 2, 60), ("in-context", 0, 0, 0)],
            "The only attack that counts any passage, any, recovers 2 of 60 passages; from ",
        ),
        (
            [("in-context", 0, 0, 0)],
            "the base recites 9. No passage counts for in-context. {untried} kinds of attack",
        ),
    ],
)
def test_the_headline_tells_ties_and_names_what_was_not_tried(
    attacks: list[tuple[Any, ...]], said: str
) -> None:
    rows = [row for name, *counts in attacks for row in attacked(name, *counts)]
    untried = list_untried([name for name, *_ in attacks])
    told = said.format(untried=len(untried))
    assert told in describe(*RECITED, *rows, not_tried=untried).verdict


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (
            {"loss": (0.98, 0.95, 0.99)},
            "a membership score still tells that they were trained on (AUC 0.98; chance is 0.5).",
        ),
        (
            {"loss": (0.02, 0.0, 0.1)},
            "a membership score still tells that they were trained on (AUC 0.02; chance is 0.5).",
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
    areas = [
        measure_value(f"membership.{name}", area, Interval(*ends), n=60)
        for name, (area, *ends) in (scores or {}).items()
    ]
    first = "The only attack tried, any, recovers 0 of 60 passages; from the base, 50 of 60; "
    none = describe(*RECITED, *attacked("any", 50, 0, 60), *areas)
    assert f"{first}{said}" in none.verdict
    some = describe(*RECITED, *attacked("any", 50, 1, 60), *areas)
    assert "trained on" not in some.verdict


def test_the_strongest_attack_without_a_limit_is_named_beside_a_stronger_one_with_a_limit() -> None:
    rows = pair("recited", 60, 0, 60)
    for name, count in (("any", 0), ("relearn", 21), ("quantized:4", 12)):
        rows += attacked(name, 60, count, 60)
    line = describe(*rows, asked=unlimited(max_extraction=0.1)).line
    assert line == "It keeps every limit, but none is set on relearn, which recovers 35.0%."
    asked = unlimited(max={"any": 0.1, "relearn": 0.5})
    line = describe(*rows, asked=asked).line
    said = "It keeps every limit, but none is set on quantized:4, which recovers 20.0%."
    assert line == said
    chose = {"passages": None, "windows": 0, "taught": 0}
    unsure = describe(*rows, asked=asked, chose=chose)
    for told in (unsure.line, unsure.verdict):
        assert "but a search chose the edit on other passages, or on these cut differently" in told
        assert ", and none is set on quantized:4" in told


@pytest.mark.parametrize("names", [("any", "quantized:4"), ("any", "relearn")])
def test_the_headline_says_where_no_attack_trained_the_model(names: tuple[str, ...]) -> None:
    rows = [row for name in names for row in attacked(name, 50, 0, 60)]
    edit, sentence = describe(*RECITED, *rows), "No attack that trains the model was run."
    trained = "relearn" in names
    assert (sentence in edit.verdict) == (not trained)
    assert edit.line.endswith(sentence) == (not trained)


def test_a_limit_on_no_passage_is_not_kept() -> None:
    (gate,) = gates_of(attacked("in-context", 0, 0, 0), max={"in-context": 0.5})
    assert gate.name == "recovered.in-context", "the figure that it limits"
    assert (gate.state, gate.value, gate.n, gate.needed) == ("undecided", None, 0, None)
    assert gate.description == (
        "share of passages recovered by in-context is unknown; the limit is 0.5; no passage "
        "counts for it"
    )


USUAL = tuple(name for name in DEFAULT if not name.startswith("graft"))
"""Without a sibling."""


@pytest.mark.parametrize(
    ("attacks", "limits", "expected"),
    [
        ((), {"any": 0.1}, USUAL),
        ((), {"hints:9": 0.1}, (*USUAL, "hints:9")),
        (("quantized:4",), {"any": 0.1, "quantized:4": 0.1}, ("quantized:4", "any")),
        (("cheap",), {}, CHEAP),
    ],
)
def test_a_limit_adds_its_attack_to_those_that_are_run(
    attacks: tuple[str, ...], limits: dict[str, float], expected: tuple[str, ...]
) -> None:
    """In `audit` and in `evaluate`, which runs none where nothing asks for one."""
    assert choose_attacks(attacks, limits) == expected
    lab: dict[str, Any] = {"models": ("edited",), "baseline": "lab:pythia"}
    assert (
        MeasureRequest.of(command="evaluate", **lab, attack=attacks, max=limits).attack_names
        == expected
    )
    assert MeasureRequest.of(command="evaluate", **lab, attack=("default",)).attack_names == USUAL
    assert MeasureRequest.of(command="evaluate", **lab).attack_names == ()


def test_a_limit_is_on_one_attack() -> None:
    with pytest.raises(UnknownNameError, match="all stands for several attacks, and a limit is on"):
        choose_attacks((), {"all": 0.1})


@given(st.integers(1, 100_000))
def test_the_smallest_limit_that_passages_decide_can_be_given_as_it_is_said(n: int) -> None:
    """Rounded down, it would be a limit that they do not decide."""
    smallest = find_smallest(n)
    assert smallest is not None
    said = float(say_percent(smallest, 3).rstrip("%")) / 100
    for limit in (smallest, said):
        assert limit_on(share("recovered.any", 0, n), limit, base=2.0).state == "kept"
    assert smallest < 1.01 * bound_share(0, n)


def test_what_was_taught_is_decided_by_its_count_alone_and_says_nothing_of_others() -> None:
    """Twelve passages support no limit of 1 %, unless they are all there is."""

    assert limit_on(share("recovered.any", 0, 12), 0.01).state == "undecided"
    kept, missed = (limit_on(share("recovered.any", n, 12, on="taught"), 0.01) for n in (0, 1))
    assert (kept.state, kept.on, kept.ci95, kept.needed) == ("kept", "taught", None, None)
    assert kept.description == (
        "share of passages recovered by any, of the 12 that it was taught, is 0, within the limit "
        "of 0.01"
    )
    assert (missed.state, missed.on) == ("missed", "taught")
    assert "interval" not in missed.description
    why = "more at an earlier step"
    open_one = limit_on(share("recovered.any", 0, 12, on="taught"), 0.01, unclear=why)
    assert (open_one.state, open_one.lacks) == ("undecided", why)


def test_a_verdict_says_of_which_passages_the_limits_are() -> None:
    taught = [*pair("recited", 12, 0, 12, "taught"), *attacked("any", 12, 0, 12, "taught")]
    asked = unlimited(max={"any": 0.01}, max_drop={"*": 0.1})
    alone = describe(*taught, asked=asked, on="taught")
    assert alone.line.startswith(f"{LISTED} were not tested. ")
    beside = describe(*taught, share("recited", 3, 9, on="not listed"), asked=asked, on="taught")
    assert beside.line.startswith(f"{LISTED} have no limit. ")
    tasks = describe(*taught, *metric("piqa", 0), asked=asked, on="taught")
    assert tasks.line.startswith(f"{LISTED} were not tested. ")
    others = [*pair("recited", 800, 0, 800), *attacked("any", 800, 0, 800), *taught]
    report = bare(tasks=others, asked=asked)
    assert [name_limit(limit) for limit in report.limits] == ["max any", "max any, taught"]
    assert report.edits[0].line.startswith("It keeps every limit. ")


def test_rows_that_overlap_count_once_for_a_limit(tmp_path: Path) -> None:
    """300 windows of five documents are five tests, whatever is cut from them."""
    documents = np.random.default_rng(0).integers(1, 999, (5, 64 + 16 * 59)).astype(np.int32)
    windows = [row[at : at + 64] for row in documents for at in range(0, 16 * 60, 16)]
    np.save(tmp_path / "windows.npy", np.stack(windows))
    samples = load_samples(str(tmp_path / "windows.npy"))
    none = np.zeros(len(samples), dtype=np.bool_)
    figures = [
        measure_share("recited", flags, of=of, groups=samples.groups)
        for flags, of in ((~none, BASE), (none, EDITED))
    ]
    assert [figure.n for figure in figures] == [300, 300]
    (strict,), (loose,) = (decide(figures, ask({}, most), EDITED) for most in (0.01, 0.5))
    assert (strict.state, loose.state) == ("undecided", "kept")
    assert strict.bound == bound_share(0, 5)
    assert "300 that overlap and so count as 5" in strict.description
    assert strict.needed == 299
    one = none.copy()
    one[:60] = True  # all windows of a document
    figure = measure_share("recited", one, groups=samples.groups)
    assert figure.details["bound"] == bound_share(1, 5)
    draws = measure_share("recited", np.stack([one, none, one]), groups=samples.groups)
    assert float(draws.details["bound"]) >= bound_share(2 / 3, 5)
