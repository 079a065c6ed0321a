"""Contract: a table keeps its figures at every width of a terminal.

The row's name, what is recited and the loss stand in one line, each figure whole, and no word is
broken. Where a table is too wide, the other columns follow below it; those of a sweep, which may
have hundreds of rows, are named instead. A pipe is as wide as a terminal of 100 characters.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import on_terminal
from example_report import TWIN, audit, example, found, several, share

from cli.commands.choose.sweep import print_sweep
from cli.commands.measure.audit import print_audit
from cli.commands.measure.bench import _print as print_bench
from cli.commands.measure.check import _print as print_check
from cli.commands.measure.extract import print_extraction
from cli.tables import print_table
from cli.tables.comparison import print_comparison
from cli.tables.evaluation import print_evaluation
from cli.tables.search import print_search, write_next_command
from evals.choose.search.request import SearchRequest
from evals.data import Samples
from evals.measure.verdicts import describe_splits

WIDTHS = [60, 80, 120]
ASKED: dict[str, Any] = {"model": "m", "samples": "s", "max_extraction": 0.01, "heal": ["t.txt"]}
ATTACKED = {
    **audit(),
    "prefix_length": 32,
    "suffix_length": 32,
    "secrets": False,
    "verdict": "It keeps every limit.",
}


def speed() -> dict[str, Any]:
    """The object of `bench --json`."""

    def spread(*rounds: float) -> dict[str, Any]:
        middle = sorted(rounds)[1]
        return {"median": middle, "min": min(rounds), "max": max(rounds), "rounds": list(rounds)}

    def figures(prefill: list[float], decode: list[float], memory: int) -> dict[str, Any]:
        return {
            "prefill_tokens_per_second": spread(*prefill),
            "decode_tokens_per_second": spread(*decode),
            "cache_bytes": memory,
            "parameters": memory,
            "peak_memory_bytes": 7 * memory,
        }

    return {
        "base": figures([9_000.5, 9_100.25, 8_800], [401, 377.5, 390], 2_183_680),
        "edited": figures([11_000, 11_203.5, 10_900.75], [410, 380, 388.5], 1_951_840),
        "ratios": {
            "prefill_tokens_per_second": {**spread(1.2, 1.23, 1.24), "within_noise": False},
            "decode_tokens_per_second": {**spread(1.02, 1.0, 0.99), "within_noise": True},
            "cache_bytes": 0.5,
            "parameters": 0.8938,
            "peak_memory_bytes": 0.9951,
        },
        "settings": {
            "prompt_tokens": 128,
            "new_tokens": 64,
            "rounds": 3,
            "batch_size": 1,
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
            "memory": "resident memory of the process while running",
        },
    }


def swept(**figures: Any) -> dict[str, Any]:
    """What `sweep --json` tells of 24 blocks, with estimates and two tasks."""

    def edit(block: int, variant: str) -> dict[str, Any]:
        some = {
            "exact_match": block / 100,
            "exact_count": block,
            "next_token_accuracy": 0.7511,
            "suffix_nll": 12.25 + block,
            "completion_entropy": 1.125 + block,
            "heldout_loss": 10.001 + block,
            "heldout_perplexity": 22070.25,
            "heldout_kl": 3.125 + block,
            "estimated_kl": 4.125,
            "estimated_margin": 111.5,
        }
        named = {"spec": str(block), "kind": "block", "blocks": [block], "variant": variant}
        return {**named, **some, "tasks": {"lab_copy": {"value": 0.5}}, **figures}

    base = {**edit(99, ""), "spec": "", "variant": None, "blocks": []}
    return {
        "model": "model", "n": 120, "prefix_length": 32, "suffix_length": 32, "secrets": False,
        "exact_only": False, "base": base,
        "edits": [edit(block, name) for block in range(24) for name in ("identity", "linear")],
        "tasks": {"lab_copy": {"metric": "acc", "n": 250}},
    }  # fmt: skip


LIMIT = {"name": "relearn", "value": 0.04, "ci95": [0.01, 0.1], "limit": 0.05, "n": 54,
         "lacks": "54 passages cannot support 5%"}  # fmt: skip


def searched() -> dict[str, Any]:
    """What `search --json` tells of a choice of mixed units."""

    def figures(rate: float, loss: float, kl: float) -> dict[str, Any]:
        return {"recovered": {"any": rate}, "recovered_ci95": [0, 0.06], "heldout_loss": loss,
                "heldout_kl": kl, "costs": {"kl": kl, "tail": 9 * kl}, "worst": "tail",
                "cost": kl, "healed_rise": 0.0625, "limits": [LIMIT]}  # fmt: skip

    def halves(*both: dict[str, Any]) -> dict[str, Any]:
        return {**both[0], "held_back": both[1]}

    parts = [
        {"block": block, "heads": [0, 2, 3, 5, 7, 9], "variant": variant}
        for block, variant in [(0, "identity"), (1, "linear"), (11, "mean"), (17, "zero")]
    ]
    return {
        "model": "model", "n": 60, "n_held_back": 60, "num_heads": 12, "measure": "any",
        "base": halves(figures(1, 3.25, 0), figures(0.998, 3.5, 0)),
        "deep_blocks": {"spec": "20-23", "meets_goal": True, "offered": False,
                        **halves(figures(0.01, 4, 0.1), figures(0.12, 4.5, 0.8))},
        "passed_over": {"doubtful": 2, "untried": 0},
        "selected": {"variant": "mixed", "spec": "", "parts": parts, **figures(0, 3.375, 0.125)},
        "held_back": figures(0.013, 3.75, 0.5), "held_back_meets_goal": False,
        "held_back_state": "missed", "goal": {"max_extraction": 0.01},
        "exhaustive": False, "units": {"offered": 288}, "evaluations": 64, "calibration": None,
    }  # fmt: skip


def checked() -> dict[str, Any]:
    """What `check --json` tells of passages without a model's verdict on texts."""
    counts = {"usable": 12345, "too_short": 17, "duplicates": 3, "overlapping": 0}
    return {
        "samples": "passages.csv", "n": 12365, "prefix_length": 32, "suffix_length": 32,
        "secrets": False, "cuts": [], "given_numbers": 0, **counts, "members": 12000,
        "non_members": 345, "length": {"min": 3, "median": 64.5, "max": 2048},
        "left_out": [{"row": 9, "id": "a", "reason": "it has fewer than 64 tokens"}],
        "recited": None, "corpus": None, "calibration": None, "needed": {"0.01": 299},
        "splits": describe_splits(Samples(np.arange(24000).reshape(-1, 2), 1, ("",), "made")),
    }  # fmt: skip


def changed() -> dict[str, Any]:
    """What `compare --json` tells of passages without their text."""
    figures = [(1.0, 0.125), (0.03125, 12.25), (0.5, 3.5)]
    outputs = [{"next_token_accuracy": right, "nll": nll} for right, nll in figures]
    models = ["EleutherAI/pythia-1.4b", "results/deep-blocks", "results/searched"]
    return {"models": models, "rows": [{"id": f"letter-{n}", "outputs": outputs} for n in range(3)]}


def print_several() -> None:
    print_evaluation(several(*[found()] * 5))


TABLES: dict[str, tuple[Callable[[], object], list[str]]] = {
    "sweep": (lambda: print_sweep(swept()), [r"17 +linear +17\.0% +27\.001"]),
    "search": (
        lambda: print_search(searched()),
        [
            r"unedited +99\.8% +\+0\.000",
            r"chosen +1\.3% +\+0\.250",
            r"relearn .*\(n = 54\): 4\.0%",
            r"deep blocks meet the goal and are better, but were not on offer",
            r"Passed over: 2 edits that cost less by what was measured, because they may miss the "
            r"goal on other passages",
            r"costs\s+\+0\.062",
        ],
    ),
    "extract": (
        lambda: print_extraction(found().edits[0].extraction),
        [r"\d%\] +0\.0% \[0\.0%, "],
    ),
    "audit": (
        lambda: print_audit(ATTACKED, {}),
        [
            r"greedy +24 +87\.5% \[69\.0%, 95\.7%\] +4\.2% \[",
            r"relearn +22 +95\.5% ",
            r"verdict: It keeps\s+every limit\.",
        ],
    ),
    "evaluate": (
        lambda: print_evaluation(example(), Path("out")),
        [r"0\.612 +0\.587 +−0\.025 \[−0\.045, −0\.005\]"],
    ),
    "evaluate several": (print_several, [r"0\.934 +0\.702"]),
    "evaluate a twin": (
        lambda: print_evaluation(example(twin=TWIN), Path("out")),
        [r"97% of the "],
    ),
    "check": (
        lambda: print_check(checked()),
        [
            r"usable +12,345",
            r"at most 1% is recovered: 299 ",
            r"choose 0\.25: .*3,000 passages, .* 0\.0999% .*9,000 passages, .* 0\.0333%",
        ],
    ),
    "compare": (
        lambda: print_comparison(changed()),
        [r"letter-2 +100\.0%, loss 0\.125 +3\.1%, loss 12\.250"],
    ),
    "bench": (lambda: print_bench(speed()), [r"9,000 \[8,800, 9,100\]"]),
}


def piped(work: Callable[[], object]) -> str:
    with redirect_stdout(io.StringIO()) as file:
        work()
    return file.getvalue()


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_no_figure_is_cut_and_no_word_is_broken(name: str, columns: int) -> None:
    work, lines = TABLES[name]
    printed = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(columns, work))
    table = [line for line in printed.splitlines() if "  " in line.strip() or "──" in line]
    assert table
    assert max(map(len, table)) <= columns, printed
    for line in lines:
        assert re.search(line, printed), printed
    whole = set(piped(work).split()) - {*re.findall("─+", piped(work))}
    words = {*printed.split(), *re.findall(r"\S+(?=[,.] )", printed)}
    assert whole <= words, whole - words


def test_no_edit_is_the_best_where_costs_were_not_measured() -> None:
    result = {**swept(exact_match=0.25, exact_count=30), "exact_only": True}
    result["base"] = swept()["base"]
    for edit in result["edits"][3:6]:
        edit["exact_match"], edit["exact_count"] = 0.0, 0
    *_, first, last = piped(lambda: print_sweep(result)).splitlines()
    assert first == "fewest recited (99.0% to 0.0%): 1 linear; 2 identity; 2 linear"
    assert last == (
        "The cost of these edits was not measured. To choose one, sweep without --exact-only."
    )


def test_estimates_are_printed_where_the_base_recites_nothing() -> None:
    result = swept(exact_match=0.0, exact_count=0)
    result["estimates"] = [{"spec": "3.1", "variant": "zero", "kl": 0.25, "margin": 1.5}]
    *_, head, line = piped(lambda: print_sweep(result)).splitlines()
    assert head.startswith(
        "estimates of 1 heads and blocks. These move the margins of the passages'"
    )
    assert line == "  3.1 zero: KL 0.2500 nats, margins 1.500 nats²"


def test_the_best_of_edits_that_recite_the_same_costs_least() -> None:
    result = swept(exact_match=0.25, exact_count=30)
    result["edits"].reverse()
    result["base"] = swept()["base"]
    last = piped(lambda: print_sweep(result)).splitlines()[-1]
    assert last.startswith("best: --drop-attn 0 --variant identity: exact match 99.0% to 25.0% at ")


@pytest.mark.parametrize("name", TABLES)
def test_a_pipe_gets_what_a_terminal_of_100_characters_shows(name: str) -> None:
    work, _ = TABLES[name]
    tables = [line.rstrip() for line in piped(work).splitlines() if line.rstrip().endswith("─")]
    assert 1 <= len(tables) <= 2
    assert max(map(len, tables)) <= 100
    if name != "compare":  # its texts wrap in a terminal only
        shown = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(100, work))
        assert shown.split() == piped(work).split()


def test_a_share_of_no_passages_is_no_share() -> None:
    """Not 0 %, with an interval of everything."""
    (attack,) = (one for one in ATTACKED["attacks"] if one["name"] == "greedy")
    nothing = {**attack, "name": "guided", "base": share(0, 0), "edited": share(0, 0)}
    other = {**audit(), "attacks": [nothing]}
    printed = piped(lambda: print_audit({**ATTACKED, **other}, {}))
    assert re.search(r"guided +0 +none counts +none counts +0\.0% \[", printed), printed
    printed = piped(lambda: print_evaluation(example(audit=other)))
    assert re.search(r"guided \(n = 0\) +none counts +none counts", printed), printed


def test_an_evaluation_ends_as_its_report_says(capsys: pytest.CaptureFixture[str]) -> None:
    """An edit whose search missed its limits is missed, even if the half held back keeps them."""
    edit = found().edits[0].edit
    assert edit is not None
    limits = {"max_drop": {"copy": 0.5}, "max_extraction": None, "max": {"relearn": 0.9}}
    settings = found().settings.model_copy(update=limits)
    for missed, state in ((False, "kept"), (True, "missed")):
        report = example(settings=settings, edit=edit.model_copy(update={"missed": missed}))
        assert print_evaluation(report, table=False) == report.edits[0].state == state
        said = "missed: the search that chose this edit found none that keeps its limits"
        assert (said in capsys.readouterr().err) == missed


def test_rows_of_an_evaluation_differ_in_their_names() -> None:
    """Figures of all passages, beside those that the search did not use, would look the same."""
    assert example().find("all.heldout") is not None
    labels = [figure.label for figure in example().figures if figure.main]
    assert len(set(labels)) == len(labels)


def test_the_command_that_exports_a_choice() -> None:
    request = SearchRequest(**ASKED)
    command = write_next_command(searched(), request, Path("FOUND/plan.json"))
    assert command == "attn-surgery export m --plan FOUND/plan.json --heal t.txt --samples s"


def test_a_terminal_narrower_than_a_word() -> None:
    rows = [("unedited", "12.5% [1.0%, 50.0%]", "1"), ("a very long label", "0", "22")]
    printed = on_terminal(12, lambda: print_table(("edit", "recited", "loss"), rows))
    for text in ("unedited", "very", "12.5% [1.0%, 50.0%]", "recited", "loss"):
        assert text in printed
