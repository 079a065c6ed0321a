"""Contract: the Python API is what `dir(surgery)` shows, and takes the models that commands do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, attn_surgery

import surgery
from surgery.errors import SourceError
from surgery.lab import find_lab_folder


def test_dir_shows_the_api() -> None:
    assert dir(surgery) == sorted(surgery.__all__)
    for name in dir(surgery):
        assert callable(getattr(surgery, name))
    assert {"apply", "export", "inspect", "push", "short_circuit", "verify"} <= set(dir(surgery))
    with pytest.raises(AttributeError, match="no attribute 'exprt'"):
        _ = surgery.exprt  # type: ignore[attr-defined]


def test_an_embedded_model_by_its_name() -> None:
    assert surgery.inspect("lab:gpt-neo").model == "lab:gpt-neo"
    with pytest.raises(SourceError, match="no embedded model 'lab:llama'"):
        surgery.inspect("lab:llama")
    with pytest.raises(SourceError, match="revision"):
        surgery.inspect("lab:pythia", revision="main")


@pytest.mark.parametrize("variant", ["identity", "zero"])
def test_an_export_in_the_stock_layout_imports_no_torch(tmp_path: Path, variant: str) -> None:
    """Nor transformers, which take seconds and hundreds of MB."""
    options = ["export", "lab:pythia", "--drop-attn", "4-5", "--variant", variant]
    code = (
        "import sys, surgery\n"
        "heavy = {'torch', 'transformers', 'numpy'}\n"
        "assert not heavy & sys.modules.keys()\n"
        "from cli.main import main\n"
        f"main({[*options, '--output', str(tmp_path / 'out')]!r}, standalone_mode=False)\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_errors_name_arguments_and_commands_their_options(tmp_path: Path) -> None:
    """One line for both: a command shows an argument as the option that is typed."""
    out = tmp_path / "out"
    cases: list[tuple[dict[str, Any], list[object], str, str]] = [
        (
            {"variant": "mean"},
            ["--variant", "mean"],
            "name text files that resemble the model's use with `calibration`",
            "name text files that resemble the model's use with --calibration",
        ),
        (
            {"layout": "stock"},
            ["--layout", "stock"],
            "take `variant=zero` or mean, or `layout=compact`",
            "take --variant zero or mean, or --layout compact",
        ),
        (
            {},
            [],
            "already exists; choose another `output` or give `overwrite=True`",
            "already exists; choose another --output or give --overwrite",
        ),
        (
            {"revision": "main"},
            ["--revision", "main"],
            "`revision` goes with a Hub id, and this is a folder",
            "--revision goes with a Hub id, and this is a folder",
        ),
    ]
    out.mkdir()
    source = find_lab_folder("gpt-neo")
    for arguments, options, called, shown in cases:
        output = out if "already" in called else tmp_path / "new"
        with pytest.raises(surgery.SurgeryError) as caught:
            surgery.export(source, "1", output=output, **arguments)
        assert called in str(caught.value)
        command = attn_surgery("export", source, "--drop-attn", "1", "--output", output, *options)
        command.assert_error(shown)


def test_no_error_of_the_api_names_an_option() -> None:
    """But for texts for whoever runs commands, and options of other programs."""
    commands = {
        "evals/jobs/demonstrating.py",
        "evals/jobs/reporting.py",
        "evals/table/page.py",
        "evals/tasks/extraction/passages.py",  # those of lm_eval
        "surgery/card/command.py",
        "surgery/card/facts.py",
    }
    found: dict[str, list[str]] = {}
    for path in (path for part in ("surgery", "evals") for path in (ROOT / part).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.findall(r"(?<![\w-])--[a-z][a-z-]*", node.value)
                if named and id(node) not in docstrings:
                    where = path.relative_to(ROOT).as_posix()
                    found.setdefault(where, []).append(f"line {node.lineno}: {named}")
    assert {where: lines for where, lines in found.items() if where not in commands} == {}
    assert commands <= found.keys(), "each of these names one"
