"""What models write, side by side, with the tokens that differ from the base's text in color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.console import make_console, make_line
from cli.escaping import escape_lines, escape_text
from cli.tables import print_table
from cli.terminal import echo

_DIFFERS = "bold red"
_LEAST = 20
"""Characters of a model's column. With fewer, the texts stand one below another."""
_LABEL = 14


def print_comparison(result: dict[str, Any], names: Sequence[str] = ()) -> None:
    """Prints the object of `compare --json`. `names`: headings for the models."""
    paths = result["models"]
    short = [path.rstrip("/").rpartition("/")[2] for path in paths]
    names = names or (short if len(set(short)) == len(short) else paths)
    figures = []
    for row in result["rows"]:
        if "prompt" in row:
            _print_texts(make_console(), row, names)
        else:
            figures.append((row["id"], *map(_score, row["outputs"])))
    if figures:
        echo("tokens of the suffix that a model gets right, each after the true ones, and loss")
        print_table(("passage", *names), figures)


def _score(output: dict[str, Any]) -> str:
    return f"{output['next_token_accuracy']:.1%}, loss {output['nll']:.3f}"


def _print_texts(out: Console, row: dict[str, Any], names: Sequence[str]) -> None:
    """One row with its texts. Into a pipe, each text is one line."""
    outputs = row["outputs"]
    beside = out.is_terminal and (out.width - _LABEL) // len(names) >= _LEAST
    out.print()
    given = [("prompt" if "id" not in row else f"{row['id']}, prefix", row["prompt"])]
    given += [("what really follows", row["follows"])] if "follows" in row else []
    for label, text in given:
        out.print(make_line((f"{label}: ", "bold"), text), soft_wrap=not beside)
    made = zip(*([output, *output["drawn"]] for output in outputs), strict=True)
    lines = [
        (f"drawn {at}" if at else "greedy", [_color(text, lines=beside) for text in texts])
        for at, texts in enumerate(made)
    ]
    if "follows" in row:
        lines.insert(0, ("tokens right", [Text(_score(output)) for output in outputs]))
    if beside:
        table = Table("", box=SIMPLE_HEAD, pad_edge=False, show_edge=False, expand=True)
        for name in names:
            table.add_column(name, ratio=1, overflow="fold")
        for label, cells in lines:
            table.add_row(label, *cells)
        out.print(table)
    else:
        for at, name in enumerate(names):
            for label, cells in lines:
                line = make_line((f"{name}, {label}: ", "bold"), cells[at])
                out.print(line, soft_wrap=not out.is_terminal)


def _color(made: dict[str, Any], *, lines: bool) -> Text:
    """A text with color where it differs from the base's. `lines`: keeps its line breaks."""
    whole, text, done = made["text"], Text(), 0
    for begin, end in [*made["differs"], [len(whole), len(whole)]]:
        for part, style in ((whole[done:begin], ""), (whole[begin:end], _DIFFERS)):
            text.append(escape_lines(part) if lines else escape_text(part), style)
        done = end
    return text
