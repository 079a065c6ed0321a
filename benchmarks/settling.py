"""Commands whose settings are given like options, also those that only a file has."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.main import COMMANDS, main


def settle(*arguments: object) -> list[str]:
    """The words of a command. Settings that only a file has move into one text after --config."""
    words, held = list[str](), dict[str, Any]()
    known = bool(arguments) and arguments[0] in COMMANDS
    command = main.get_command(click.Context(main), str(arguments[0])) if known else None
    settings = getattr(command, "in_file", {})
    rest = iter(map(str, arguments))
    for word in rest:
        option, equals, value = word.partition("=")
        name = option.removeprefix("--")
        if (kind := settings.get(name.replace("-", "_"))) is None or name == option:
            words.append(word)
        elif kind.is_flag:
            held[name] = "true"
        else:
            value = value if equals else next(rest)
            held[name] = [*held.get(name, ()), value] if kind.multiple else value
    return [*words, "--config", json.dumps(held)] if held else words
