"""Options that commands share, and the requests that options fill."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from evals.running.request import Request

R = TypeVar("R", bound="Request")
F = TypeVar("F", bound=Callable[..., Any])

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


def combine_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for several options, in the order of `--help`."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def fill_request(kind: type[R], options: Mapping[str, Any], **more: Any) -> R:
    """The request that options fill. Raises `UsageError` for what it refuses."""
    with refuse_misuse():
        return kind.of(options, **more)


@contextmanager
def refuse_misuse() -> Iterator[None]:
    """Raises `UsageError` for requests that contradict themselves or name tasks that do not run."""
    try:
        yield
    except ValueError as error:
        from pydantic import ValidationError

        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = "".join(f"`{name}`: " for name in first["loc"][:1])
            text = where + first["msg"].removeprefix("Value error, ")
        else:
            from evals.evaluation.gates import UnknownTaskError

            if not isinstance(error, UnknownTaskError):
                raise
            text = str(error)
        raise click.UsageError(text) from None


def count_option(
    option: str, default: int | None, text: str, *, least: int | None = None
) -> Callable[[F], F]:
    """A whole number. Without `least`, the request checks how small it may be."""
    kind = int if least is None else click.IntRange(min=least)
    return click.option(
        option, type=kind, default=default, show_default=True, metavar="N", help=text
    )


COMMAS = "A,B"
"""How --help shows an option whose text holds several values. A file may list them."""
PATH = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def samples_option(text: str, *, required: bool = False) -> Callable[[F], F]:
    return combine_options(
        click.option("--samples", required=required, metavar="SAMPLES", help=text),
        click.option(
            "--skip-short",
            is_flag=True,
            help="Leave out passages that are shorter than prefix and suffix, and say how many.",
        ),
    )


def control_option(default: str) -> Callable[[F], F]:
    """`default`: what is read without it."""
    return click.option(
        "--control",
        multiple=True,
        type=PATH,
        metavar="FILE",
        help="Text that the models were not trained on: a file, a folder, or "
        f"hf:DATASET:SPLIT:COLUMN. Repeatable.  [default: {default}]",
    )


def twin_option(command: F) -> F:
    return click.option(
        "--twin",
        metavar="MODEL",
        help="A model that never saw the passages, as a yardstick: results say how far the edit "
        "goes from the base toward it.",
    )(command)


def layout_option(text: str) -> Callable[[F], F]:
    layouts = click.Choice(["auto", "stock", "compact"])
    return click.option("--layout", type=layouts, default="auto", show_default=True, help=text)


def output_option(
    text: str, kind: click.Path = PATH, metavar: str = "DIR", **more: Any
) -> Callable[[F], F]:
    return click.option("--output", type=kind, metavar=metavar, help=text, **more)


heal_options = combine_options(
    click.option(
        "--heal",
        multiple=True,
        metavar="TEXT",
        help="Train the edited model on this text, which may hold none of the passages: a file, a "
        "folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's. Repeatable.  [default: no "
        "training]",
    ),
    count_option("--heal-steps", 80, "Steps of 16 x 128 tokens to train for.", least=1),
)
"""--heal, --heal-steps."""
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else."
)
revision_option = click.option(
    "--revision", metavar="R", help="Branch, tag, or commit of a Hub model, such as step143000."
)
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the output of an earlier run. The old output stays until the new one is "
    "complete.",
)
length_options = combine_options(
    count_option(
        "--prefix-length",
        None,
        "Tokens of a passage that the model is given.  [default: 32, or a pair's own]",
    ),
    count_option(
        "--suffix-length",
        None,
        "Tokens that the model must complete.  [default: 32, or a pair's own]",
    ),
)
corpus_option = click.option(
    "--corpus",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Held-out text, which the model was not trained on: it shows what an edit costs. A file, "
    "a folder, or hf:DATASET:SPLIT:COLUMN. Repeatable.  [default: a lab model's own]",
)
calibration_option = click.option(
    "--calibration",
    multiple=True,
    metavar="FILE",
    help="Text to fit mean and linear on: a file, a folder, or hf:DATASET:SPLIT:COLUMN. "
    "Repeatable.  [default: a lab model's own]",
)


def limit_option(
    option: str, form: str, example: str, text: str, *, most: float, groups: Collection[str] = ()
) -> Callable[[F], F]:
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

    return click.option(option, multiple=True, callback=parse, metavar=form, help=text)


attack_option = click.option(
    "--attack",
    multiple=True,
    metavar="A",
    help="Attack to try: greedy, hints:K, prefix, sampling:N, span:M, any, near, near-beams, "
    "perturbed, guided, quantized:BITS, quantized:nf4, relearn, relearn-alike, relearn-benign, "
    "soft-prompt, membership, or one of your own at package.module:ATTACK, whose code then runs. "
    "cheap stands for all that need only one pass, default for strong ones that are fast, all for "
    "all of ours. Repeatable.  [default: default]",
)


def max_option(text: str) -> Callable[[F], F]:
    """--max, a limit for an attack."""
    groups = ("cheap", "default", "all", "membership")
    return limit_option("--max", "A=X", "hints:2=0.02", text, most=1, groups=groups)


attack_options = combine_options(
    attack_option,
    max_option(
        "Gate: attack A may recover at most the share X of the passages. A runs even if --attack "
        "does not name it. Repeatable."
    ),
)
"""--attack, --max."""
device_options = combine_options(
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="auto: as stored, but float16 runs as float32 on a CPU.",
    ),
    click.option(
        "--device", metavar="D", help="cpu, cuda, cuda:1, …  [default: a GPU if there is one]"
    ),
)
running_options = combine_options(
    device_options,
    click.option(
        "--device-map",
        type=click.Choice(["auto"]),
        help="auto: spread a model that is too large for one device over all of them.",
    ),
    count_option("--batch-size", None, "Rows at a time.  [default: chosen to fit memory]", least=1),
)
"""--dtype, --device, --device-map, --batch-size."""
measuring_options = combine_options(revision_option, length_options, running_options)
"""--revision, --prefix-length, --suffix-length, and how the model is run."""
