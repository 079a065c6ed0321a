"""Contract: the documents tell the truth. Every file, variant, layout, and command that they name
exists; every command that exists is named; the program takes every command that they show, word by
word; those of the first pages run, and so does the Python.

Models that are named stand for an embedded one, and work is cut to a few passages and documents.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import ROOT, attn_surgery
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from reference import PARTS_OF_PAGES, write_parts

from cli.main import COMMANDS, main
from evals.lab import find_lab_folder, heldout_texts, samples_path
from evals.measure.memorization.measures import NEAR_MATCH
from surgery.layouts import LAYOUTS
from surgery.proof.distance import TOLERANCE, TRAINED_TOLERANCE
from surgery.record.measured import EDITED
from surgery.variants import VARIANTS

DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "evals/lab/README.md"),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
)
PROGRAMS = (
    *("attn-surgery", ".venv/bin/attn-surgery", "uvx", "accelerate", "torchrun", "lm_eval"),
    *("python", "python3", ".venv/bin/python", "pip", ".venv/bin/pip", "make"),
    *("model_signing", "awk", "jq", "head", "seq", "mkdir", "cd", "source", "."),
)
"""What a document may call. The shell has no others, so that another is an error."""
_RECORD = """
PATH=; set -eu
record() { printf '%s\\0' "$#" "$@" >> "$RECORD"; }
for program in $PROGRAMS; do eval "$program() { record '$program' \\"\\$@\\"; }"; done
"""
_CODE = re.compile(
    r"^```(\w*)\n(.*?)^```|((?:^ {4}[^\n]*\n|^\n(?= {4}))+)", re.MULTILINE | re.DOTALL
)
_SHELL = re.compile(
    rf"^\s*(time|for|eval|_[A-Z_]+=|{'|'.join(map(re.escape, PROGRAMS[:-1]))})\b", re.MULTILINE
)
ATTN_SURGERY = ("attn-surgery", ".venv/bin/attn-surgery")
PYTHON = ("python", "python3", ".venv/bin/python")
NOT_OURS = {
    "model_signing",
    "pip",
    ".venv/bin/pip",
    "awk",
    "jq",
    "head",
    "seq",
    "mkdir",
    "cd",
    "source",
    ".",
}

RUN = {"export", "inspect", "verify", "extract", "evaluate", "audit"}
"""Of the commands of `READ_FIRST`; the others have tests of their own."""
READ_FIRST = ("README.md", "docs/which-passages.md")
README = (ROOT / "README.md").read_text()


def table_rows(header: str, document: str) -> set[str]:
    """First cells, in backticks, of the document's table that begins with `header`."""
    table = document[document.index(header) :].split("\n\n", 1)[0]
    return set(re.findall(r"^\|`([a-z-]+)`", table, re.MULTILINE))


def test_a_page_lists_every_command_and_the_readme_leads_to_every_page() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert table_rows("|command|what it does|", page) == set(COMMANDS)
    pages = {name for name in DOCUMENTS if name.startswith("docs/")}
    assert pages - set(re.findall(r"\]\((docs/[\w/-]+\.md)", README)) == set()


def count_words(*names: str) -> int:
    """As `wc -w` does."""
    return sum(len((ROOT / name).read_text().split()) for name in names)


def test_what_people_read_is_short() -> None:
    """A reader's first minutes, and a version's changes on a page."""
    assert count_words("README.md") <= 1_400
    assert count_words("CONTRIBUTING.md") <= 800
    changes = (ROOT / "CHANGELOG.md").read_text().partition("\n## 0.4.0")[2]
    assert 0 < len(changes.partition("\n## ")[0].split()) <= 1_000


def test_all_pages_are_short() -> None:
    pages = (name for name in DOCUMENTS if name.startswith("docs/"))
    assert count_words("README.md", *pages) <= 20_000


@pytest.mark.parametrize("page", PARTS_OF_PAGES)
def test_references_are_what_the_code_says(page: str) -> None:
    """To write them again: python tests/reference.py"""
    text = (ROOT / "docs" / page).read_text()
    assert write_parts(page, text) == text


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("publishing", f"each fitted tensor within `{TOLERANCE * 100:g} %`"),
        ("publishing", f"all trained weights together within `{TRAINED_TOLERANCE * 100:g} %`"),
        ("which-passages", f"token edit similarity of d and y of at least `{NEAR_MATCH}`"),
    ],
)
def test_a_number_of_the_code_is_what_the_page_says(page: str, said: str) -> None:
    assert said in (ROOT / f"docs/{page}.md").read_text()


def test_the_picture_of_the_readme_is_small() -> None:
    (picture,) = re.findall(r"!\[[^]]+\]\((docs/pictures/[^)]+)\)", README)
    assert (ROOT / picture).stat().st_size < 150_000


def test_documents_list_every_variant_and_layout() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    assert table_rows("|variant|", page) == set(VARIANTS)
    assert table_rows("|layout|", page) == {*LAYOUTS, "auto"}


def test_security_opens_with_four_promises_each_with_its_tests() -> None:
    head, *parts = (ROOT / "SECURITY.md").read_text().split("\n## ")
    promises = re.findall(r"[A-Z][^.]*", head.split("\n\n")[1].replace("\n", " "))
    assert len(promises) == 4
    for promise, part in zip(promises, parts, strict=False):
        heading, _, text = part.partition("\n")
        assert heading == promise
        assert re.findall(r"`tests/[\w/]+\.py`", text.rpartition("Tests: ")[2])


def test_changelog_names_every_command() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    named = set(re.findall(r"`(?:attn-surgery )?([a-z-]+)[ `]", changelog))
    assert COMMANDS.keys() - named == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    """Such as `surgery/families/` and `benchmarks/export.py`."""
    text = (ROOT / document).read_text()
    tops = "surgery|evals|cli|tests|benchmarks|docs"
    for name in re.findall(rf"`((?:{tops})/[\w/.-]*?)(?:[ `])", text):
        assert re.search("[A-Z]{3}", name) or (ROOT / name).exists(), name  # GROUP: any


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_inside_the_repository_exist(document: str) -> None:
    """Files, pictures and, in documents, headings."""
    text = (ROOT / document).read_text()
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", text):
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, f"{target}#{heading}"


def test_the_lock_holds_what_development_needs() -> None:
    """Every requirement of pyproject.toml at one version that it admits, from no named place."""
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    text = (ROOT / "requirements-dev.lock").read_text()
    pins = dict(line.split("==") for line in text.splitlines())
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        needed = Requirement(line)
        if needed.name != project["name"]:
            assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), line
    assert "://" not in text
    assert "+" not in text


# --- commands


@cache
def commands(document: str) -> list[list[str]]:
    """Every command of a document's code blocks, in order: the program and its arguments.

    Loops, variables and quotes are those of bash; `AssertionError` for what bash does not read.
    """
    found = []
    for language, fenced, indented in _CODE.findall((ROOT / document).read_text()):
        block = fenced or re.sub("^    ", "", indented, flags=re.MULTILINE)
        if language in ("", "bash") and _SHELL.search(block):
            found += _recorded(block, document)
    return found


def _recorded(block: str, document: str) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record")
        given = {"MODEL": "MODEL", "SAMPLES": "SAMPLES", "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(
            ["/bin/bash", "-c", _RECORD + block],
            cwd=folder,
            env={**given, "RECORD": str(record), "PROGRAMS": " ".join(PROGRAMS)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{document}: {done.stderr}\n{block}"
        words = record.read_text().split("\0")[:-1]
    found = []
    while words:
        length = int(words[0])
        found.append(words[1 : length + 1])
        del words[: length + 1]
    return found


def parse(arguments: Sequence[str], where: str) -> None:
    """As the command line does: the command and its options exist, none is missing or wrong."""
    if not arguments:  # to print how a shell completes
        return
    name, *rest = arguments
    assert name in COMMANDS, where
    command = main.get_command(click.Context(main), name)
    assert command is not None
    file = rest[rest.index("--config") + 1] if "--config" in rest else "{"
    if not (file.startswith("{") or Path(file).exists()):
        rest = ["--help"]  # yours, which `init` writes
    try:
        command.make_context(name, rest, resilient_parsing=rest == ["--help"])
    except click.ClickException as error:
        pytest.fail(f"{where}: {error.format_message()}")


def parse_launched(program: str, arguments: list[str], where: str) -> None:
    """`accelerate launch … cli.main COMMAND …`, or the same by torchrun."""
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert arguments.pop(0) == "launch", where
        parsed = launch_command_parser().parse_args(arguments)
        assert parsed.module, where
    else:
        from torch.distributed.run import get_args_parser

        numbered = ["0" if argument == "R" else argument for argument in arguments]
        parsed = get_args_parser().parse_args(numbered)
    assert parsed.training_script == "cli.main", where
    parse(parsed.training_script_args, where)


def parse_python(arguments: Sequence[str], where: str) -> None:
    """A script or module of the repository: it is there, and its source names the options.

    Not asked with --help: some need engines that are not installed.
    """
    if arguments[:2] in (["-m", "venv"], ["-m", "pytest"]):
        return
    script = ROOT / arguments[0]
    if arguments[0] == "-m":
        inside = arguments[1].replace(".", "/")
        names = (f"{inside}.py", f"{inside}/__main__.py", f"tests/{inside}.py")
        script = next((ROOT / name for name in names if (ROOT / name).is_file()), ROOT / names[0])
    source = script.read_text()
    assert '__name__ == "__main__"' in source, where
    for option in filter(re.compile(r"--[^ ]+$").match, arguments):
        assert f'"{option}"' in source, f"{where}: {option}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_as_the_programs_take_them(
    document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program, *arguments in commands(document):
        where = f"{document}: {program} {' '.join(arguments)}"
        if program == "uvx":
            assert arguments.pop(0) == "--from", where
            assert arguments.pop(0).startswith("git+"), where
            program = arguments.pop(0)
        if program in ATTN_SURGERY:
            parse(arguments, where)
        elif program in ("accelerate", "torchrun"):
            parse_launched(program, arguments, where)
        elif program == "lm_eval":
            from lm_eval._cli.harness import HarnessCLI

            monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
            assert HarnessCLI().parse_args().tasks, where
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M), where
        elif program in PYTHON:
            parse_python(arguments, where)
        else:
            assert program in NOT_OURS, where


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_in_the_text_exist(document: str) -> None:
    """Such as `sweep --estimate`, `attn-surgery export … --layout stock`."""
    text = (ROOT / document).read_text()
    for name, rest in re.findall(
        rf"`(?:attn-surgery )?({'|'.join(COMMANDS)}) ([^`]*--[^`]*)`", text
    ):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {*re.findall(r"--[a-z-]+", rest)} <= known | {"--help"}, f"{name} {rest}"


def shorten(arguments: Sequence[str]) -> list[str]:
    """A command of attn-surgery on the models, passages, texts, and tasks that are here."""
    found = list[str]()
    for last, word in zip(("", *arguments), arguments, strict=False):
        before = found[-1] if found else ""
        if "--attack" in (last, word):
            continue
        if re.match("MODEL|BASE|RETAIN|EleutherAI/", word):
            word = "model"
        elif word in ("OWNER/NAME", "ERASED", "UNLEARNED"):
            word = "received"
        elif before == "--samples":
            word = "few.jsonl"
        elif before in ("--heldout", "--corpus", "--calibration"):
            word = "text.txt"
        elif before == "--drop-attn":
            word = "4-5"
        elif before not in ("--suite", "--tasks", "--limit"):
            found.append(word)
            continue
        else:
            found.pop()
            continue
        found.append(word)
    if found[0] == "audit" or "--attack" in arguments:
        found += ["--attack", "cheap"]
    if found[0] == "evaluate":
        found += ["--tasks", "lab_copy", "--limit", "2", "--heldout", "text.txt"]
    return found


@pytest.mark.slow
def test_commands_of_the_first_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(find_lab_folder("pythia"), "model")
    Path("few.jsonl").write_text("\n".join(samples_path("pythia").read_text().splitlines()[::40]))
    Path("text.txt").write_text("\n".join(heldout_texts())[:20_000])
    assert attn_surgery("export", "model", "--drop-attn", "4-5", "--output", "received").code == 0
    ran = set()
    for program, *arguments in (one for page in READ_FIRST for one in commands(page)):
        if program not in ATTN_SURGERY or not arguments or arguments[0] not in RUN:
            continue
        ran.add(arguments[0])
        done = attn_surgery(*shorten(arguments))
        gated = any(word.startswith("--max") for word in arguments)
        assert done.code in ({0, 3, 4} if gated else {0}), (arguments, done)
    assert ran == RUN


@pytest.mark.slow
def test_python_in_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evals.lab.heldout_texts", lambda: ["\n".join(heldout_texts())[:6_000]])
    names: dict[str, Any] = {}
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        block = block.replace("slice(0, 60)", "slice(0, 12)")
        exec(compile(block, "docs/python.md", "exec"), names)
    shares = [
        row.value
        for row in names["figures"]
        if row.of == EDITED and row.on != "never trained on" and row.name.startswith("recovered.")
    ]
    assert max(shares) < 0.2
