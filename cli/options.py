"""Options that commands share, one function for each kind, and the requests that options fill."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.terminal import note
from surgery.errors import suggest
from surgery.variants import VARIANTS

if TYPE_CHECKING:
    from evals.run.request import Request

R = TypeVar("R", bound="Request")
Decorator = Callable[[Any], Any]

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Bytes, as a whole number with a unit: 500MB, 5GB, 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,18})\s*([A-Za-z]*)", str(value).strip(), re.ASCII)
        if match is None or match[2].upper() not in _UNITS or int(match[1]) == 0:
            self.fail(f"{value!r} is not a size; write for example 500MB or 5GB", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


class Number(click.FloatRange):
    """A finite number within bounds. Every comparison lets NaN pass, so it is refused by name."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return float(number)


class Choice(click.Choice):  # type: ignore[type-arg]  # generic only in the newest click
    """One of some names. For any other it says which is closest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = suggest(value, self.choices)
            self.fail(f"{error.message.rstrip('.')}; {near}" if near else error.message, param, ctx)


def combine(*options: Decorator) -> Decorator:
    """One decorator for several options, in the order of `--help`."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def fill_request(kind: type[R], options: Mapping[str, Any], **more: Any) -> R:
    """The request that options fill. Raises `UsageError`, one line for each mistake."""
    from pydantic import ValidationError

    from evals.run.request import describe_mistakes

    try:
        return kind.of(options, **more)
    except ValidationError as error:
        raise click.UsageError(describe_mistakes(error)) from None


def end_with(state: str | None, *, allow_undecided: bool) -> None:
    """Ends a command with the exit code of its verdict: 3 for a missed limit, and 4 for one that is
    not decided, unless that is allowed."""
    if state == "missed":
        raise click.exceptions.Exit(3)
    if state == "undecided" and not allow_undecided:
        note("not decided, so the exit code is 4; --allow-undecided makes it 0")
        raise click.exceptions.Exit(4)


COMMAS = "A,B"
"""How --help shows an option whose text holds several values. A file may list them."""
PATH = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SHARE = Number(0, 1)
POSITIVE = Number(min=0, min_open=True)


def flag(name: str, text: str, *names: str) -> Decorator:
    return click.option(name, *names, is_flag=True, help=text)


def option(
    name: str, metavar: str | None, text: str, kind: Any = None, *names: str, **more: Any
) -> Decorator:
    """An option that takes a value, by default any text."""
    return click.option(name, *names, type=kind, metavar=metavar, help=text, **more)


def several(
    name: str,
    text: str,
    default: str = "",
    metavar: str | None = "FILE",
    kind: Any = None,
    **more: Any,
) -> Decorator:
    """An option that may be given several times. `default`: what is taken without it."""
    text += " Repeatable." + (f"  [default: {default}]" if default else "")
    return option(name, metavar, text, kind, multiple=True, **more)


def count(name: str, default: int | None, text: str, *, least: int | None = None) -> Decorator:
    """A whole number. Without `least`, the request checks how small it may be."""
    kind = int if least is None else click.IntRange(min=least)
    return option(name, "N", text, kind, default=default, show_default=True)


def choice(
    name: str, values: Collection[str], text: str, default: str | None = None, *names: str
) -> Decorator:
    kind = Choice(list(values))
    return click.option(
        name, *names, type=kind, default=default, show_default=default is not None, help=text
    )


def limit(
    name: str, form: str, example: str, text: str, *, most: float, groups: Collection[str] = ()
) -> Decorator:
    """A repeatable limit by name, such as TASK=X, from 0 to `most`. It gives {name: limit}.

    `groups`: names of several rates, which one limit cannot be for.
    """

    def parse(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
        found: dict[str, float] = {}
        for value in values:
            name, _, number = value.rpartition("=")
            name = name.strip()
            if not name:
                raise click.BadParameter(f"{value!r} is not {form}; write for example {example!r}")
            if name in found:
                raise click.BadParameter(f"{name!r} has more than one limit")
            if name in groups:
                raise click.BadParameter(f"{name!r} is not a single rate, so it takes no limit")
            try:
                found[name] = float(number)
            except ValueError:
                found[name] = math.nan
            if not (0 <= found[name] <= most and math.isfinite(found[name])):
                allowed = f"from 0 to {most:g}" if math.isfinite(most) else "from 0 on"
                raise click.BadParameter(f"{number!r} in {value!r} is not a number {allowed}")
        return found

    return several(name, text, metavar=form, callback=parse)


def samples(text: str, *, required: bool = False) -> Decorator:
    return combine(
        option("--samples", "SAMPLES", text, required=required),
        flag(
            "--skip-short",
            "Leave out passages that are shorter than prefix and suffix, and say how many.",
        ),
    )


def control(default: str) -> Decorator:
    text = "Text that the models were not trained on: a file, a folder, or hf:DATASET:SPLIT:COLUMN."
    return several("--control", text, default, kind=PATH)


def layout(text: str) -> Decorator:
    return choice("--layout", ["auto", "stock", "compact"], text, "auto")


def variants(text: str, default: str) -> Decorator:
    return several("--variant", text, default, None, Choice(list(VARIANTS)))


def output(text: str, kind: click.Path = PATH, metavar: str = "DIR", **more: Any) -> Decorator:
    return option("--output", metavar, text, kind, **more)


def max_recovered(text: str) -> Decorator:
    """--max, a limit for an attack."""
    groups = ("cheap", "default", "all", "membership")
    return limit("--max", "A=X", "hints:2=0.02", text, most=1, groups=groups)


def tasks(default: str, suite: str) -> Decorator:
    """--tasks, --suite, --include-path, --limit. `default`, `suite`: defaults of the first two."""
    return combine(
        option(
            "--tasks",
            COMMAS,
            f"lm-eval tasks, groups, or patterns, separated by commas.  [default: {default}]",
        ),
        choice(
            "--suite",
            ["standard", "quick", "lab"],
            "standard: lambada_openai, hellaswag, piqa, winogrande, arc_easy, arithmetic_2da, "
            "webqs. quick: 250 documents each of three of them. lab: three tasks that need no "
            f"download.  [default: {suite}]",
        ),
        several(
            "--include-path", "Folder with more lm-eval task files.", metavar="DIR", kind=FOLDER
        ),
        option(
            "--limit",
            "N",
            "Use only the first N documents of each task, or this share of them.",
            POSITIVE,
        ),
    )


json = flag("--json", "Print one JSON object on stdout, and nothing else.", "as_json")
revision = option("--revision", "R", "Branch, tag, or commit of a Hub model, such as step143000.")
overwrite = flag(
    "--overwrite",
    "Replace the output of an earlier run. The old output stays until the new one is complete.",
)
twin = option(
    "--twin",
    "MODEL",
    "A model that never saw the passages, as a yardstick: results say how far the edit goes from "
    "the base toward it.",
)
sibling = option(
    "--sibling",
    "MODEL",
    "A checkpoint that an attacker may copy attention back from (graft): the public base of a "
    "fine-tune, or an earlier checkpoint.",
)
lengths = combine(
    count(
        "--prefix-length",
        None,
        "Tokens of a passage that the model is given.  [default: 32, or a pair's own]",
    ),
    count(
        "--suffix-length",
        None,
        "Tokens that the model must complete.  [default: 32, or a pair's own]",
    ),
)
corpus = several(
    "--corpus",
    "Held-out text, which the model was not trained on: it shows what an edit costs. A file, a "
    "folder, or hf:DATASET:SPLIT:COLUMN.",
    "a lab model's own",
    kind=PATH,
)
calibration = several(
    "--calibration",
    "Text to fit mean and linear on: a file, a folder, or hf:DATASET:SPLIT:COLUMN.",
    "a lab model's own",
)
heal = combine(
    several(
        "--heal",
        "Train the edited model on this text, which may hold none of the passages: a file, a "
        "folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's.",
        "no training",
        "TEXT",
    ),
    count("--heal-steps", 80, "Steps of 16 x 128 tokens to train for.", least=1),
)
erase = combine(
    flag(
        "--erase",
        "Before the cut, teach the model to forget the passages of --samples, with its cut as the "
        "teacher (as `erase` does).",
    ),
    count("--erase-steps", 60, "Steps of 24 passages and 16 x 128 tokens of text.", least=1),
    several(
        "--text",
        "Other text for --erase, which may hold none of the passages.",
        "that of --heal, else a lab model's own",
        "TEXT",
    ),
)
allow_undecided = flag(
    "--allow-undecided",
    "Exit with 0, not 4, if no limit is missed and one is not decided.",
)
attack = combine(
    several(
        "--attack",
        "Attack to try: greedy, hints:K, prefix, sampling:N (or leak@N), span:M, any, near, "
        "near-beams, early-exit, perturbed, guided, quantized:BITS (2 to 8), quantized:nf4, graft "
        "(or graft:MODEL, which names --sibling, too), soft-prompt, relearn, relearn-alike, "
        "relearn-benign, revive, membership, or one of your own at package.module:ATTACK, whose "
        "code then runs. cheap stands for all that need only one pass, default for strong ones "
        "that are fast, all for all of ours; each of these includes graft if there is a sibling.",
        "default",
        "A",
    ),
    count(
        "--draws",
        None,
        "Runs of each attack that trains, each on other passages or in another order. The rate is "
        "their mean.  [default: 5, fewer where a run takes over a minute]",
        least=1,
    ),
)
attacks = combine(
    attack,
    max_recovered(
        "Gate: attack A may recover at most the share X of the passages. A runs even if --attack "
        "does not name it."
    ),
)
device = combine(
    choice(
        "--dtype",
        ["auto", "float32", "bfloat16", "float16"],
        "auto: as stored, but float16 runs as float32 on a CPU.",
        "auto",
    ),
    option("--device", "D", "cpu, cuda, cuda:1, …  [default: a GPU if there is one]"),
)
running = combine(
    device,
    choice(
        "--device-map",
        ["auto"],
        "auto: spread a model that is too large for one device over all of them.",
    ),
    count("--batch-size", None, "Rows at a time.  [default: chosen to fit memory]", least=1),
)
measuring = combine(revision, lengths, running)
"""--revision, --prefix-length, --suffix-length, and how the model is run."""
gated_tasks = combine(
    tasks("the tasks of --suite", "lab for a lab model, standard for any other"),
    flag("--no-benchmarks", "Run no benchmark tasks."),
    count(
        "--num-fewshot", None, "Examples before each question.  [default: the task's own]", least=0
    ),
)
max_drop = limit(
    "--max-drop",
    "TASK=X",
    "lambada_openai=0.03",
    "Gate: TASK, or every task that a pattern such as '*' matches, may lose at most X.",
    most=math.inf,
)
evaluation = combine(
    gated_tasks,
    samples("Passages to test, as for extract.  [default: a lab model's own]"),
    lengths,
    control("a lab model's own"),
    max_drop,
    option(
        "--max-extraction",
        "X",
        "Gate: the model may still recite at most this share of the passages.",
        SHARE,
    ),
    flag("--audit", "Also try the default attacks. --attack and --max imply this option."),
    attacks,
    allow_undecided,
)
"""What is measured: tasks, passages, held-out text, and the gates."""
choosing = combine(
    choice(
        "--grain",
        ["blocks", "heads", "mixed"],
        "Choose whole blocks, single heads, or both.",
        "mixed",
    ),
    option(
        "--measure",
        "M",
        "What counts as recovered: greedy (word for word), hints:K (after at most K wrong tokens "
        "are corrected), prefix, sampling:N (or leak@N), span:M, or any (by greedy, hints:2, "
        "prefix, or sampling:100). See docs/threat-model.md.",
        default="any",
        show_default=True,
    ),
    variants(
        "What a block or head may become.",
        "all if there is calibration text, else identity and zero",
    ),
    corpus,
    calibration,
    layout("Choose only edits that this layout can hold. auto: either layout."),
    count(
        "--max-evaluations",
        64,
        "Measure at most this many edits. If fewer are possible, all are measured. Otherwise, "
        "estimates choose which.",
        least=1,
    ),
    count("--seed", 0, "Decides which passages and windows are held back.", least=0),
    measuring,
)
"""What is searched, and how."""
