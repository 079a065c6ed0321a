"""Contract: what others run before they propose a change is what `.ci/run` runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from command_line import ROOT

HERE = ROOT / ".github"
pytestmark = pytest.mark.skipif(not HERE.is_dir(), reason="the sdist leaves it out")


def test_the_workflow_calls_the_one_script() -> None:
    workflow = yaml.safe_load((HERE / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["check"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    project = (ROOT / "pyproject.toml").read_text()
    (oldest,) = re.findall(r'requires-python = ">=([\d.]+)"', project)
    assert oldest in workflow["jobs"]["check"]["strategy"]["matrix"]["python"]


def test_a_commit_is_checked_as_the_script_checks_it() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    script = re.findall(r"^(ruff \w+|mypy)\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert [hook["entry"].removesuffix(" .") for hook in hooks] == script


@pytest.mark.parametrize(
    "template", sorted(HERE.glob("ISSUE_TEMPLATE/*.yml")), ids=lambda p: p.stem
)
def test_a_template_is_a_form(template: Path) -> None:
    """With what the site asks for: a name, a description, and fields with labels and ids."""
    form = yaml.safe_load(template.read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
