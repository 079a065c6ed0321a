"""Contract: a command or option of an earlier version is answered with what to type now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import attn_surgery

from cli.main import COMMANDS, main
from cli.retired import EARLIER, RETIRED

ALL = [f"extract {name}" if name.startswith("--") else name for name in RETIRED]
OPTIONS = [name for name in ALL if " " in name and name.rpartition("--")[2] not in EARLIER]


def advise(name: str) -> str:
    return RETIRED.get(name) or RETIRED[name.rpartition(" ")[2]]


@pytest.mark.parametrize("name", ALL)
def test_a_retired_name_says_what_to_type(name: str) -> None:
    outcome = attn_surgery(*name.split())
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"error: {name} is gone: {advise(name)} (see" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("name", OPTIONS)
def test_so_does_one_in_a_file_of_options(name: str, tmp_path: Path) -> None:
    command, option = name.split(" --")
    file = tmp_path / "old.yaml"
    file.write_text(f"{option}: true\n")
    outcome = attn_surgery(command, "--config", file)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"{option}: {name} is gone: {advise(name)} (see" in outcome.stderr


def test_what_to_type_is_there() -> None:
    """In `init MODEL --dry-run`, and in `export --plan FILE`, both the command and the option."""
    pattern = rf"\b({'|'.join(COMMANDS)})\b[A-Z ]*(--[a-z-]+)"
    typed = {match for line in RETIRED.values() for match in re.findall(pattern, line)}
    assert {("export", "--plan"), ("erase", "--as-adapter")} <= typed
    context = main.make_context("attn-surgery", [], resilient_parsing=True)
    for name, option in typed:
        command = main.get_command(context, name)
        assert command is not None
        assert option in {opt for param in command.params for opt in param.opts}
