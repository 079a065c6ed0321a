"""Measuring a repeated model as the report of the original was made, and comparing the figures."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from surgery.errors import MeasurementError

# a report comes from anywhere: what it asks for is measured, but no file is written where it says,
# and no code is run that it names
_OPTIONS = (
    "tasks", "suite", "num_fewshot", "limit", "samples", "prefix_length", "suffix_length",
    "controls", "dtype", "device", "device_map", "batch_size",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A recorded figure with its 95 % interval, and what it is when it is measured again."""

    name: str
    recorded: float
    ci95: tuple[float, float]
    repeated: float

    @property
    def ok(self) -> bool:
        """Whether the repeated figure is in the recorded interval, or the very same."""
        low, high = self.ci95
        return low <= self.repeated <= high or self.repeated == self.recorded

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "ci95": list(self.ci95), "ok": self.ok}


def measured_again(report: Mapping[str, Any], edited: Path, base: str) -> list[Figure]:
    """Evaluates the folder `edited` against `base` with the options that the report records.

    **Raises:** `MeasurementError` when the report does not say how it was made; errors of
    `evaluate`.
    """
    from cli.evaluate import command

    options = _recorded_options(report)
    with tempfile.TemporaryDirectory(prefix="attn-surgery-") as folder:
        output = Path(folder) / "evaluation"
        words = [str(edited), "--baseline", base, "--output", str(output), "--json", *options]
        with contextlib.redirect_stdout(io.StringIO()):
            command.main(words, prog_name="attn-surgery evaluate", standalone_mode=False)
        again = json.loads((output / "report.json").read_text(encoding="utf-8"))
    found = dict(_figures(again))
    return [
        Figure(name, value, ci95, found[name][0])
        for name, (value, ci95) in _figures(report)
        if name in found
    ]


def _recorded_options(report: Mapping[str, Any]) -> list[str]:
    from cli.evaluate import command

    words = shlex.split(str((report.get("commands") or [""])[-1]))
    if words[:2] != ["attn-surgery", "evaluate"]:
        raise MeasurementError("the report does not say how it was made", where="report.json")
    context = click.Context(command)
    given, _, _ = command.make_parser(context).parse_args(args=words[2:])
    options = []
    for parameter in command.params:
        if parameter.name in _OPTIONS and parameter.name in given:
            value = given[parameter.name]
            for item in value if isinstance(value, list) else [value]:
                options += [parameter.opts[0], str(item)]
    return options


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, tuple[float, float]]]]:
    for name, task in report["tasks"].items():
        yield f"{name} {task['metric']} difference", (task["difference"], task["ci95"])
    if (extraction := report["extraction"]) is not None:
        for metric, key in (
            ("exact_match", "rate"),
            ("memorization_score", "mean"),
            ("suffix_nll", "mean"),
        ):
            yield f"extraction {metric}", (extraction[metric][key], extraction[metric]["ci95"])
    if (heldout := report["heldout"]) is not None:
        difference = heldout["difference"]
        yield "held-out loss difference", (difference["mean"], difference["ci95"])
