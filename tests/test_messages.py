"""Contract: a message names what you can type, and says what you may have meant.

Names of arguments become options only where the running command has them. Mistakes in a name or a
value exit with 2, all of a file's at once, and every line of an error begins with "error: ". An
error that is not yours is never taken for one of yours.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import ROOT, attn_surgery, running
from pydantic import TypeAdapter

from cli.main import COMMANDS, _describe_mistakes
from cli.terminal import name_options
from surgery.errors import suggest

NO_OPTIONS = {
    *("zero", "mean"),  # variants
    *("fitted",),  # of a variant of your own
    *("render", "try_attacks"),  # misuse from Python
    *("evaluate", "export", "search"),  # commands
}


def list_messages() -> Iterator[str]:
    """Every text of the two packages that is no docstring."""
    for path in (path for part in ("surgery", "evals") for path in (ROOT / part).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        joined = (node for node in nodes if isinstance(node, ast.JoinedStr))
        ignored = docstrings | {id(part) for node in joined for part in node.values}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and id(node) not in ignored:
                yield str(node.value)


def list_options(name: str) -> set[str]:
    return {opt for one in running(name).command.params for opt in one.opts}


@cache
def list_named() -> tuple[str, ...]:
    """The messages that name something to type."""
    return tuple(text for text in list_messages() if "`" in text)


def test_every_argument_in_a_message_is_one_of_a_command() -> None:
    named = {
        match for text in list_named() for match in re.findall(r"`([a-z_]+)(?:=[^`]*)?`", text)
    }
    known = {str(one.name) for name in COMMANDS for one in running(name).command.params}
    known |= {opt.strip("-").replace("-", "_") for name in COMMANDS for opt in list_options(name)}
    known |= {one for name in COMMANDS for one in getattr(running(name).command, "in_file", ())}
    assert len(named) > 20
    assert named - known <= NO_OPTIONS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_message_names_only_options_that_the_command_has(name: str) -> None:
    ctx, options = running(name), list_options(name)
    for text in list_named():
        shown = name_options(text, ctx)
        for command, option in re.findall(r"(?:`([a-z-]+) )?(?<![\w-])(--[a-z][a-z-]*)", shown):
            if option not in text:
                assert option in (list_options(command) if command else options), shown


@pytest.mark.parametrize(
    ("command", "called", "shown"),
    [
        ("search", "`max_extraction=0.25`: none", "--max-extraction 0.25: none"),
        ("search", "`max_rise=1e-05`: none", "`max_rise=1e-05`: none"),
        ("export", "a `plan`, `save_as`, or `consume=True`", "a --plan, --as, or --consume"),
        ("push", "`evaluation` goes with `render`", "--report goes with `render`"),
        ("push", "as by `export(max_shard_size=1GB)`", "as by `export --max-shard-size 1GB`"),
        ("convert", "with `export(layout=stock)`", "with `export --layout stock`"),
        (
            "init",
            "give `samples`, or run `hf auth login`",
            "give --samples, or run `hf auth login`",
        ),
        ("inspect", "`nothing(overwrite=True)`", "`nothing(overwrite=True)`"),
        ("export", "could hold `zero`, `mean`", "could hold `zero`, `mean`"),
    ],
)
def test_an_option_has_its_value_and_its_own_name(command: str, called: str, shown: str) -> None:
    assert name_options(called, running(command)) == shown
    assert name_options(called) == called  # nothing runs


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["audit", "x", "--baseline", "y", "--samples", "s", "--attack", "relern"], "'relearn'"),
        (["audit", "x", "--baseline", "y", "--samples", "s", "--attack", "hnts:3"], "'hints:3'"),
        (["audit", "x", "--baseline", "y", "--samples", "s", "--attack", "defalt"], "'default'"),
        (["search", "x", "--samples", "s", "--max", "quantised:4=0.1"], "'quantized:4'"),
        (["search", "x", "--samples", "s", "--max-extraction", "0.1", "--measure", "gredy"],
         "'greedy'"),
        (["search", "x", "--samples", "s", "--grain", "blok"], "'blocks'"),
        (["export", "x", "--drop-attn", "1", "--variant", "zeor"], "'zero'"),
        (["sweep", "x", "--samples", "s", "--suite", "standart"], "'standard'"),
        (["mitigate", "lab:pythia", "--output", "o", "--preset", "quik"], "'quick'"),
        (["export", "x", "--drop-atn", "1"], "'--drop-attn'"),
        (["export", "x", "--overwritten"], "'--overwrite'"),
        (["exprot", "x"], "'export'"),
    ],
)  # fmt: skip
def test_what_was_meant(arguments: list[str], text: str) -> None:
    outcome = attn_surgery(*arguments)
    assert (outcome.code, outcome.stdout) == (2, ""), outcome
    *_, last = outcome.stderr.splitlines()
    assert last.startswith("error: ")
    asked = arguments[0] if arguments[0] in COMMANDS else ""
    where = " ".join(filter(None, ("attn-surgery", asked, "--help")))
    assert last.endswith(f"; did you mean {text}? (see {where})")


def test_what_is_like_nothing_gets_no_hint() -> None:
    assert suggest("xyz", COMMANDS) is None
    last = attn_surgery("export", "x", "--qqq").stderr.splitlines()[-1]
    assert last == "error: No such option '--qqq' (see attn-surgery export --help)"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["export", "x", "--layout", "dense"],
            "Invalid value for '--layout': 'dense' is not one of 'auto', 'stock', 'compact'",
        ),
        (["convert"], "Missing argument 'DIR'"),
        (
            ["search", "x", "--samples", "s", "--max-extraction", "1%"],
            "Invalid value for '--max-extraction': '1%' is not a number; write 0.01",
        ),
        (
            ["search", "x", "--samples", "s", "--max-extraction", "few"],
            "Invalid value for '--max-extraction': 'few' is not a number",
        ),
        (
            ["audit", "x", "--samples", "s", "--max", "any=2.5%"],
            "Invalid value for '--max': '2.5%' in 'any=2.5%' is not a number from 0 to 1; write "
            "0.025",
        ),
    ],
)
def test_a_usage_error_is_one_line(arguments: list[str], line: str) -> None:
    """The cause, and where to read on. A percentage is told what to write."""
    outcome = attn_surgery(*arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr == f"error: {line} (see attn-surgery {arguments[0]} --help)\n"


def test_choices_of_a_missing_option_stand_on_its_line() -> None:
    """click lists them on lines of their own, behind tabs."""

    @click.command("fetch")
    @click.option("--to", type=click.Choice(["one", "two"]), required=True)
    def fetch(to: str) -> None: ...

    with pytest.raises(click.UsageError) as raised:
        fetch.main([], prog_name="fetch", standalone_mode=False)
    (line,) = _describe_mistakes(raised.value)
    assert line == "error: Missing option '--to'. Choose from: one, two (see fetch --help)"


@pytest.mark.parametrize(
    "options",
    [
        ["--attack", "magic"],
        ["--max", "magic=0.1"],
        ["--max", "any=2"],
        ["--max", "membership=0.1"],
        ["--attack", "quantized:16"],
    ],
)
def test_a_wrong_attack_is_a_wrong_option(options: list[str]) -> None:
    outcome = attn_surgery("audit", "lab:pythia", "--baseline", "lab:pythia", *options)
    assert outcome.code == 2, outcome
    assert outcome.stderr.splitlines()[-1].startswith("error: ")


def test_all_mistakes_of_a_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(
        "model: lab:pythia\nseeed: 1\ngrain: blok\nmax: [any, any=7]\nbatch-size: none\n"
        "json: true\nsamples: [a, b]\nvariant: [zeor]\nlimit: 0.5\n"
    )
    outcome = attn_surgery("mitigate", "--recipe", file, "--output", tmp_path / "out")
    assert outcome.code == 2
    found = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    for line, (key, text) in zip(
        found,
        [
            ("seeed", "mitigate has no option 'seeed'; did you mean 'seed'?"),
            ("grain", "is not one of 'blocks', 'heads', 'mixed'; did you mean 'blocks'?"),
            ("max", "'any' is not A=X"),
            ("batch-size", "'none' is not a valid integer"),
            ("json", "cannot come from a file; pass --json"),
            ("samples", "expected one value, got ['a', 'b']"),
            ("variant", "did you mean 'zero'?"),
        ],
        strict=True,
    ):
        assert line.startswith(f"error: {file}: {key}: ")
        assert text in line


def test_your_file_may_name_the_output_and_a_file_of_a_result_may_not(tmp_path: Path) -> None:
    """A file of a result may be someone else's, and would choose where you write."""
    mine, theirs = tmp_path / "mine.yaml", tmp_path / "recipe.yaml"
    for file in (mine, theirs):
        file.write_text(f"model: no/model\nsamples: s\ncorpus: c\noutput: {tmp_path / 'out'}\n")
    attn_surgery("mitigate", "--config", mine).assert_error("no/model")
    outcome = attn_surgery("mitigate", "--config", theirs)
    assert outcome.code == 2
    what = "output: cannot come from a file of a result, which may be someone else's; pass --output"
    assert what in outcome.stderr
    loud = theirs.rename(tmp_path / "RECIPE.YAML")  # the same file, where cases are not told apart
    assert what in attn_surgery("mitigate", "--config", loud).stderr
    theirs.write_text(f"rows: {tmp_path / 'rows.jsonl'}\n")
    outcome = attn_surgery("audit", "lab:pythia", "--baseline", "lab:pythia", "--config", theirs)
    assert outcome.code == 2
    assert "rows: cannot come from a file of a result" in outcome.stderr
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_file_of_a_result_that_names_files_elsewhere_says_so(tmp_path: Path) -> None:
    """It keeps names without folders, so it works only where the files are."""
    recipe = tmp_path / "recipe.yaml"
    hint = f"{recipe} names files without their folders: run the command in the folder that holds"
    call = ("mitigate", "--config", recipe, "--output", tmp_path / "out")
    recipe.write_text("model: lab:pythia\nsamples: letters.csv\n")
    attn_surgery(*call).assert_error("letters.csv", notes=[hint])
    recipe.write_text("front: search.json")
    given = ("lab:pythia", "--baseline", "lab:pythia")
    outcome = attn_surgery("evaluate", *given, "--config", recipe)
    assert (outcome.code, outcome.stderr.startswith(hint)) == (2, True)
    assert hint not in attn_surgery("evaluate", *given, "--front", "search.json").stderr
    recipe.write_text("model: lab:pythia\nchoose: 0.999\nmax-extraction: 0.01\n")
    attn_surgery("search", "--config", recipe, "--samples", "lab:pythia").assert_error(
        "lab:pythia: a share of 0.999 leaves no passage to hold back",
        "--choose",
        notes=["lab:pythia: "],
    )


def test_all_mistakes_of_a_request_at_once() -> None:
    outcome = attn_surgery("evaluate", "x", "--baseline", "y", "--limit", "1.5", "--tasks", ",")
    assert outcome.code == 2
    *_, first, second = outcome.stderr.splitlines()
    assert {first, second} == {
        "error: --tasks: a name is empty",
        "error: limit of --config: 1.5 is neither a whole number from 1 on nor a share below 1 "
        "(see attn-surgery evaluate --help)",
    }


@pytest.mark.parametrize(
    ("worker", "arguments"),
    [
        ("evals.jobs.evaluating.run_measurement",
         ["evaluate", "lab:pythia", "--baseline", "lab:pythia"]),
        ("evals.jobs.mitigating.open_mitigation", ["mitigate", "lab:pythia", "--output", "out"]),
        ("evals.jobs.forecasting.forecast",
         ["mitigate", "lab:pythia", "--output", "out", "--dry-run"]),
        ("cli.commands.edit.export.open_export",
         ["export", "lab:pythia", "--drop-attn", "1", "--output", "out"]),
    ],
)  # fmt: skip
def test_an_internal_error_is_no_usage_error(
    worker: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that does not fit its schema after hours is our mistake, and shows as one."""

    def work(*_: object, **__: object) -> Any:
        return TypeAdapter(int).validate_python("a record")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, work)
    with pytest.raises(ValueError, match="valid integer"):
        attn_surgery(*arguments)
