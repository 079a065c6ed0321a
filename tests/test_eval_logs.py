"""Contract: logs of lm-eval are read from their rows, and a broken one is one clear line.

- A value that does not follow from its rows is refused, and so are two runs that disagree on
  whether higher is better.
- Whatever else a log holds, `compare-evals` compares it, or raises an error of ours.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import attn_surgery
from hypothesis import given
from hypothesis import strategies as st

from evals.jobs.comparing_logs import compare_logs
from surgery.errors import SurgeryError
from surgery.record.measured import Measured

STAMP = "2026-01-01T00-00-00.000000"
N = 8
Log = dict[str, Any]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def make_log(shift: int = 0) -> Log:
    """`results`, and `samples` by task: yes/no answers, log-likelihoods, and weighted ones."""
    right = [float((at + shift) % 3 > 0) for at in range(N)]
    likely = [-1.0 - at / 10 - shift for at in range(N)]
    weighted = [[-10.0 - at - shift, 5 + at] for at in range(N)]
    ratio = -sum(one for one, _ in weighted) / sum(weight for _, weight in weighted)
    metrics: dict[str, tuple[str, str, list[Any], float, bool]] = {
        "choice": ("acc", "mean", right, mean(right), True),
        "whole": ("perplexity", "perplexity", likely, math.exp(-mean(likely)), False),
        "page": ("word_perplexity", "weighted_perplexity", weighted, math.exp(ratio), False),
    }
    log: Log = {"configs": {}, "results": {}, "higher_is_better": {}}
    samples = {}
    for task, (metric, aggregation, scores, value, better) in metrics.items():
        log["configs"][task] = {"metric_list": [{"metric": metric, "aggregation": aggregation}]}
        log["results"][task] = {"alias": task, f"{metric},none": value, f"{metric}_stderr,none": 0}
        log["higher_is_better"][task] = {metric: better}
        samples[task] = [
            {"doc_hash": f"{at}", "filter": "none", "metrics": [metric], metric: score}
            for at, score in enumerate(scores)
        ]
    return {"results": log, "samples": samples}


def write_log(folder: Path, log: Log) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{STAMP}.json").write_text(json.dumps(log["results"]))
    rows: Any = log["samples"] if isinstance(log["samples"], dict) else {}
    for task, some in rows.items():
        lines = some if isinstance(some, list) else [some]
        text = "".join(f"{json.dumps(row)}\n" for row in lines)
        (folder / f"samples_{task}_{STAMP}.jsonl").write_text(text)
    return folder


def compare(tmp_path: Path, other: Log) -> Any:
    return attn_surgery(
        "compare-evals",
        write_log(tmp_path / "one", make_log()),
        write_log(tmp_path / "other", other),
        "--json",
    )


def test_two_logs_are_compared(tmp_path: Path) -> None:
    rows = [Measured.model_validate(row) for row in compare(tmp_path, make_log(1)).json["figures"]]
    names = ["task.choice acc", "task.page word_perplexity", "task.whole perplexity"]
    assert [(row.name, row.of) for row in rows] == [
        (name, of) for name in names for of in ("base", "edited")
    ]
    assert rows[1].change is not None
    assert rows[1].change.difference == pytest.approx(rows[1].value - rows[0].value)


@pytest.mark.parametrize("value", [0.99, True, 1e308, -1, "0.5", 0.5001])
@pytest.mark.parametrize("key", ["choice/acc", "whole/perplexity", "page/word_perplexity"])
def test_a_value_that_its_rows_do_not_give(tmp_path: Path, key: str, value: Any) -> None:
    task, metric = key.split("/")
    log = make_log(1)
    log["results"]["results"][task][f"{metric},none"] = value
    compare(tmp_path, log).assert_error(
        f"samples_{task}_", f"{metric},none is ", ", and its rows give "
    )


def test_runs_that_disagree_on_what_is_better(tmp_path: Path) -> None:
    log = make_log(1)
    log["results"]["higher_is_better"]["choice"]["acc"] = False
    compare(tmp_path, log).assert_error(
        "choice, acc: higher is better in one of the two runs, and worse in the other"
    )


def score(value: Any) -> Callable[[Log], object]:
    return lambda log: log["samples"]["choice"][3].update(acc=value)


def told(key: str, value: Any) -> Callable[[Log], object]:
    return lambda log: log["results"].update({key: value})


def averaged(name: str) -> Callable[[Log], object]:
    listed = [{"metric": "acc", "aggregation": name}]
    return lambda log: log["results"]["configs"]["choice"].update(metric_list=listed)


BROKEN: dict[str, Callable[[Log], object]] = {
    **{f"a score of {value!r}": score(value) for value in ("1", None, [1], {"a": 1}, 1e308)},
    **{f"results of {value!r}": told("results", {"choice": value}) for value in (None, [], 5)},
    **{
        f"better {value!r}": told("higher_is_better", {"choice": value})
        for value in (None, [], 5, [1])
    },
    **{
        f"by {name}": averaged(name)
        for name in (
            *("weighted_perplexity", "bits_per_byte", "f1", "matthews_corrcoef", "bleu", "chrf"),
            *("ter", "brier_score"),
        )
    },
    "a listed metric that is lacking": lambda log: log["samples"]["choice"][3].pop("acc"),
    "no weight": lambda log: [
        row.update(word_perplexity=[-1, 0]) for row in log["samples"]["page"]
    ],
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_log_is_one_line(tmp_path: Path, case: str) -> None:
    log = make_log(1)
    BROKEN[case](log)
    compare(tmp_path, log).assert_error()


def list_places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield (*way, key)
        if isinstance(one, dict | list):
            yield from list_places(one, (*way, key))


PLACES = sorted((way for way in list_places(make_log()) if len(way) > 1), key=str)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
    | st.sampled_from(["acc", "none", "mean", "f1", "bleu", 1e308, -1e308, 0]),
    lambda some: (
        st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=3), some, max_size=3)
    ),
    max_leaves=4,
)  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.none() | st.just("gone"), VALUES), max_size=3)
)
def test_any_log_is_compared_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[Any, Any, Any]]
) -> None:
    log = copy.deepcopy(make_log(1))
    for way, gone, value in changes:
        place: Any = log
        try:
            for key in way[:-1]:
                place = place[key]
            if gone:
                del place[way[-1]]
            else:
                place[way[-1]] = value
        except (TypeError, LookupError):  # an earlier change took it away
            continue
    folder = tmp_path_factory.mktemp("logs")
    one, other = write_log(folder / "one", make_log()), write_log(folder / "other", log)
    with suppress(SurgeryError):
        assert compare_logs(one, other)
    shutil.rmtree(folder)
