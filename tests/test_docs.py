"""Contract: the pages name every command, show only commands that the program takes, and link only
to what is there. Generated parts are what the code says."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest
from command_line import ROOT
from reference import PARTS_OF_PAGES, write_parts

from benchmarks.results import list_results
from cli.main import COMMANDS, main

DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "evals/lab/README.md"),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
]
_BLOCK = re.compile(
    r"^```(?:bash)?\n(.*?)^```|((?:^ {4}[^\n]*\n|^\n(?= {4}))+)", re.MULTILINE | re.DOTALL
)


def list_commands(document: str) -> list[list[str]]:
    """The words of every command of attn-surgery in a document's code blocks."""
    found = []
    for fenced, indented in _BLOCK.findall((ROOT / document).read_text()):
        text = (fenced or indented).replace("\\\n", " ")
        found += re.findall(r"^\s*(?:\.venv/bin/)?attn-surgery (.*)", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_as_the_program_takes_them(document: str) -> None:
    check_commands(document, list_commands(document))


@pytest.mark.parametrize("results", list_results())
def test_results_name_commands_that_still_exist(results: str) -> None:
    typed = [shlex.split(line) for line in list_results()[results].command]
    check_commands(results, [words[1:] for words in typed if words[0] == "attn-surgery"])


def check_commands(where: str, commands: list[list[str]]) -> None:
    for name, *rest in commands:
        command = main.get_command(click.Context(main), name)
        assert command is not None, name
        file = [words for words in itertools.pairwise(rest) if words[0] == "--config"]
        if any(not text.startswith("{") for _, text in file):  # a file of yours
            continue
        try:
            command.make_context(name, rest)
        except click.exceptions.Exit:
            pass  # --help
        except click.ClickException as error:
            pytest.fail(f"{where}: {name} {shlex.join(rest)}: {error.format_message()}")


def test_the_readme_shows_commands() -> None:
    assert list_commands("README.md")


def test_a_page_lists_every_command() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    table = page[page.index("|command|what it does|") :].split("\n\n", 1)[0]
    assert set(re.findall(r"^\|`([a-z-]+)`", table, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("page", PARTS_OF_PAGES)
def test_references_are_what_the_code_says(page: str) -> None:
    """To write them again: python tests/reference.py"""
    text = (ROOT / "docs" / page).read_text()
    assert write_parts(page, text) == text


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_inside_the_repository_exist(document: str) -> None:
    """Files, pictures and, in documents, headings."""
    text = (ROOT / document).read_text()
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", text):
        path: Path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, f"{target}#{heading}"
