"""Contract: the documents tell the truth: every command, variant, layout and file they name exists,
and every command and file that exists is named.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documented import DOCUMENTS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.main import COMMANDS
from evals.lab import heldout_texts
from surgery.layouts import LAYOUTS
from surgery.variants import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def table_rows(header: str, document: str = README) -> set[str]:
    """First cells, in backticks, of the document's table that begins with `header`."""
    table = document[document.index(header) :].split("\n\n", 1)[0]
    return set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE))


def test_readme_lists_every_command() -> None:
    assert table_rows("| command |") == set(COMMANDS)


def test_documents_list_every_variant_and_layout() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    assert table_rows("| variant |", page) == set(VARIANTS)
    assert table_rows("| layout |", page) == {*LAYOUTS, "auto"}


def test_changelog_names_every_command() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert {name for name in COMMANDS if f"`attn-surgery {name}`" not in changelog} == set()


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


@pytest.mark.slow
def test_python_in_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evals.lab.heldout_texts", lambda: ["\n".join(heldout_texts())[:6_000]])
    names: dict[str, object] = {}
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        block = block.replace("slice(0, 60)", "slice(0, 12)")
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["found"].strongest.edited.rate < 0.2  # type: ignore[attr-defined]
