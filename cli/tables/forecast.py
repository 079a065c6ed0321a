"""A forecast for people: the inputs, the steps with their time, and the disk space."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cli.tables import print_table
from cli.terminal import echo


def print_forecast(found: dict[str, Any]) -> None:
    """Prints the object of `mitigate --dry-run --json`."""
    from rich.filesize import decimal

    echo("Nothing is written. Every input opens:")
    for one in found["inputs"]:
        echo(f"  {one['name']}: {one['what']}")
    rows = [(one["name"], one["what"], _format_time(one["seconds"])) for one in found["steps"]]
    rows.append(("all", "", _format_time(found["seconds"])))
    echo("Steps, with the time that each takes about, as measured on a small part of its work:")
    print_table(("step", "what", "about"), rows, labels=2)
    needed, free = (found["disk"][key] for key in ("needed", "free"))
    echo(f"Disk: {decimal(needed)} for the model; {decimal(free)} are free.")
    if needed > free:
        echo("That is not enough: free some space, or choose another --output.")


def _format_time(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))
