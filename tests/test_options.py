"""Contract: an option is said once, as a field of a request or of a group that requests have.

The field gives its name, type, default, bounds, and help, and the section of the help that lists
it. A file of a result repeats it, nested in groups; one of an earlier version is flat.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner
from command_line import attn_surgery
from pydantic import Field

from cli import options
from cli.config import with_config
from cli.main import COMMANDS, main
from cli.requests import request_command
from evals.run.groups import Names
from evals.run.request import Group, Option, Request, Use, describe_mistakes


class Place(Group):
    device: Annotated[str | None, "Where.", Option("run", "D", "here")] = None
    speed: Annotated[int, Field(ge=1), "How fast.", Option("run")] = 1
    color: Annotated[str | None, "In which color.", Option("run")] = None


class Asked(Request):
    typed = "text names form rows share part most exact last kept_as device pace"

    model: str
    place: Annotated[Place, Use(without=("color",), named={"speed": "pace"})] = Place()
    text: Annotated[tuple[Path, ...], "Text.", Option("input", old=("words", "prose"))]
    names: Annotated[Names, "Names.", Option("measure", "A,B")] = ()
    form: Annotated[Literal["a", "b"] | None, "How.", Option("edit")] = "a"
    rows: Annotated[int, Field(ge=1), "Rows, unless `exact`.", Option("measure")] = 2
    share: Annotated[float | None, Field(gt=0, le=1), "Share.", Option("limits")] = None
    part: Annotated[int | float | None, "Part.", Option("measure", "N")] = None
    most: Annotated[
        dict[str, Annotated[float, Field(ge=0)]], "Most.", Option("limits", "T=X", example="t=1")
    ] = Field(default_factory=dict)
    exact: Annotated[bool, "Exactly.", Option("measure")] = False
    last: Annotated[bool, "Last.", Option("edit", default="--last")] = True
    kept_as: Annotated[int | None, "Size.", Option("output", "S")] = Field(
        default=None, serialization_alias="as"
    )
    hidden: int = 0
    seldom: Annotated[float, "Seldom needed.", Option("run")] = 0.5


@pytest.fixture
def run() -> Callable[..., Any]:
    """Runs a command that takes the request, and returns what it got, or how it failed."""

    @request_command("ask", Asked)
    @click.argument("model")
    @options.json
    def command(request: Asked, **others: Any) -> None:
        """Ask."""
        got.append((request, others))

    got: list[tuple[Asked, dict[str, Any]]] = []

    def invoke(*words: object) -> Any:
        done = CliRunner().invoke(with_config(command), [*map(str, words)])
        return got.pop() if done.exit_code == 0 and got else done

    return invoke


GIVEN = {
    "text": (Path("x"), Path("y")), "names": ("a", "b"), "form": "b", "rows": 3, "share": 0.5,
    "part": 0.25, "most": {"t": 2.0}, "exact": True, "last": False, "kept_as": 2000,
    "device": "cpu", "pace": 4,
}  # fmt: skip
TYPED = (
    "m --text x --text y --names a,b --form b --rows 3 --share 0.5 --part 0.25 --most t=2 --exact "
    "--no-last --as 2000 --device cpu --pace 4"
)


def test_a_field_is_an_option_and_a_file_repeats_it(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    assert run("m", "--text", "x") == (Asked.of(model="m", text=("x",)), {"as_json": False})
    request, others = run(*TYPED.split(), "--json")
    assert (request, others) == (Asked.of(GIVEN, model="m"), {"as_json": True})
    (tmp_path / "config.yaml").write_text(
        "".join(
            line for line in request.to_config().splitlines(keepends=True) if "hidden" not in line
        )
    )
    assert run("--config", tmp_path / "config.yaml")[0] == request


def test_a_file_nests_groups_or_is_flat_and_has_more_than_the_command_line(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """The same as text in braces. A typed option counts before it."""
    wanted = Asked.of(model="m", text=("x",), pace=3, device="cpu", seldom=0.25)
    file = tmp_path / "asked.yaml"
    for text in (
        "{model: m, text: x, pace: 3, device: cpu, seldom: 0.25}",
        "{model: m, text: x, place: {speed: 3, device: gpu}, seldom: 0.25}",
    ):
        file.write_text(text)
        for given in (file, text):
            assert run("--config", given, *("--device", "cpu") * ("gpu" in text))[0] == wanted
    for text, message in (
        ("place: {color: red}", "place.color: ask has no option 'place.color'"),
        ("place: {speed: 3}\npace: 4", "pace: says the same as place.speed; give one of them"),
        ("seldom: often", "seldom: 'often' is not a number"),
        ("color: red", "color: ask has no option 'color'"),
    ):
        file.write_text(f"text: x\n{text}\n")
        assert f"{file}: {message}" in run("m", "--config", file).output


def test_a_request_hands_on_what_another_takes() -> None:
    class Narrow(Request):
        place: Annotated[Place, Use(without=("speed",))] = Place()
        rows: int = 0

    asked = Asked.of(model="m", text=("x",), device="cpu", pace=3, rows=5)
    handed = asked.hand_on(Narrow, rows=6)
    assert handed == Narrow.of(device="cpu", rows=6)
    assert handed.place.speed == 1
    for wrong in ({"speed": 3}, {"place": {"speed": 3}}, {"place": 3}, {"deivce": "cpu"}):
        with pytest.raises(ValueError, match=r"Extra inputs|valid dictionary"):
            Narrow.of(wrong)
    with pytest.raises(ValueError, match="greater than or equal to 1") as error:
        Asked.of(model="m", text=("x",), pace=0)
    assert describe_mistakes(Asked, error.value).startswith("`pace`: Input should be")


def test_old_names_are_taken_and_not_shown(run: Callable[..., Any], tmp_path: Path) -> None:
    both = Asked.of(model="m", text=("x", "y"))
    assert run("m", "--words", "x", "--prose", "y")[0] == both
    file = tmp_path / "asked.yaml"
    file.write_text("model: m\nwords: [x, y]\n")
    assert run("--config", file)[0] == both
    file.write_text("model: m\nwords: [x]\ntext: [y]\n")
    assert "text: says the same as words; give one of them" in run("--config", file).output
    for done in (run("m"), run("--help")):
        assert "--text" in done.output
        assert "--words" not in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rows 0", "0 is not in the range x>=1"),
        ("--share 0", "0.0 is not in the range 0<x<=1"),
        ("--share nan", "nan"),
        ("--part inf", "is not a finite number"),
        ("--form c", "'c' is not one of 'a', 'b'"),
        ("--most t", "'t' is not T=X; write for example 't=1'"),
        ("--most t=-1", "is not a number from 0 on"),
        ("--hidden 1", "No such option"),
        ("--color red", "No such option"),
    ],
)
def test_what_a_field_does_not_take(run: Callable[..., Any], words: str, message: str) -> None:
    done = run("m", "--text", "x", *words.split())
    assert done.exit_code == 2
    assert message in done.output


def test_help_lists_options_by_what_they_are_about(run: Callable[..., Any]) -> None:
    shown = run("--help").output
    sections = [line for line in shown.splitlines() if line.endswith(":")]
    assert sections == ["Input:", "Edit:", "Measure:", "Limits:", "Output:", "Run:"]
    for line in (
        "--text FILE  Text. Repeatable. [required]",
        "--form [a|b] How. [default: a]",
        "--last / --no-last Last. [default: --last]",
        "--rows N Rows, unless --exact. [default: 2; x>=1]",
        "--device D Where. [default: here]",
    ):
        assert " ".join(line.split()) in " ".join(shown.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_names_an_argument_of_python(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    ctx = click.Context(command, click.Context(main), name)
    found = [one.get_help_record(ctx) for one in command.params if isinstance(one, click.Option)]
    names = {str(one.name) for one in command.params}
    for record in filter(None, found):
        assert not [one for one in names if f"`{one}" in record[1]], record


def test_a_home_is_meant_where_a_shell_leaves_its_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `--output=~/OUT`, and in a file of options."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options.yaml").write_text("output: ~/second\n")
    command = ("export", "lab:pythia", "--drop-attn", "4")
    for words in (("--output=~/first",), ("--config", "options.yaml")):
        done = attn_surgery(*command, *words)
        assert done.code == 0, done
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"first", "second"}
    assert not (tmp_path / "~").exists()
