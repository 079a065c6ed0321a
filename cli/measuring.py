"""Options of commands that run models, and how they open them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.options import note

if TYPE_CHECKING:
    from evals.subjects import Subject

F = TypeVar("F", bound=Callable[..., Any])


def running_options(command: F) -> F:
    """--dtype, --device, --device-map, --batch-size."""
    for option in (
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            metavar="N",
            help="Rows at a time.  [default: as many as memory allows and help]",
        ),
        click.option(
            "--device-map",
            type=click.Choice(["auto"]),
            help="auto: spread a model that is larger than one device over all of them.",
        ),
        click.option("--device", metavar="D", help="cpu, cuda, cuda:1, …  [default: a GPU if any]"),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            default="auto",
            show_default=True,
            help="auto: as stored; float16 is measured in float32 on a CPU.",
        ),
    ):
        command = option(command)
    return command


def open_model(
    model: str,
    *,
    revision: str | None = None,
    dtype: str,
    device: str | None,
    device_map: str | None,
) -> Subject:
    """MODEL as typed → the loaded model."""
    from evals.subjects import open_subject

    return open_subject(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        say=note,
    )
