"""Contract: imports point one way, without circles.

evals may use surgery; cli uses both, and nothing uses cli. The modeling file travels with a
checkpoint, so it knows only torch and transformers. What answers at once imports nothing heavy.
"""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("surgery", "cli", "evals")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OURS = set(PACKAGES)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_deferred(node: ast.AST) -> bool:
    """Whether what stands in a statement is left out when a module is imported."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Modules that a file imports; with `top_only`, those that importing it imports."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif top_only and is_deferred(node):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parse(path))
    return found


MODULES = {module_name(path): path for path in FILES}


def ours(path: Path) -> set[str]:
    """Modules of this project that a file imports, the packages above them left out."""
    return {name for name in imports(path) if name in MODULES and name not in OURS}


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def room(module: str) -> str:
    """The folder of a package that a module is in, or the module that stands beside the folders."""
    return ".".join(module.split(".")[:2])


def test_rooms_import_one_way() -> None:
    """No room imports from one that imports from it, however long the way around."""
    above: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name not in OURS:
            above.setdefault(room(name), set()).update(map(room, ours(path)))
    TopologicalSorter({name: found - {name} for name, found in above.items()}).prepare()


ROOMS = ("lab", "run", "data", "table", "measure", "choose", "jobs", "tasks")
"""The rooms of evals, from the lowest to the highest."""


def test_rooms_of_evals_import_from_those_below() -> None:
    for name, path in MODULES.items():
        if within(name, {"evals"}) and name != "evals":
            here = ROOMS.index(name.split(".")[1])
            up = {
                m
                for m in ours(path)
                if within(m, {"evals"}) and ROOMS.index(m.split(".")[1]) > here
            }
            assert not up, f"{name} imports {up}"


@pytest.mark.parametrize("package", PACKAGES)
def test_direction_of_packages(package: str) -> None:
    forbidden = {"surgery": {"evals", "cli"}, "evals": {"cli"}, "cli": set()}[package]
    for name, path in MODULES.items():
        if within(name, {package}):
            wrong = {module for module in imports(path) if within(module, forbidden)}
            assert not wrong, f"{name} imports {wrong}"
    assert not {m for path in FILES for m in imports(path) if within(m, {"tests", "benchmarks"})}


def test_no_circles() -> None:
    """Importing any module of ours never comes back to itself."""
    graph = {
        name: {m for m in imports(path, top_only=True) if m in MODULES and m != name}
        for name, path in MODULES.items()
        if path.name != "__init__.py"  # a package is imported by its members
    }
    TopologicalSorter(graph).prepare()


HEAVY = {
    "torch", "transformers", "lm_eval", "numpy", "scipy", "datasets", "accelerate", "matplotlib",
    "huggingface_hub",
}  # fmt: skip
LIGHT = [
    "surgery",
    "surgery.errors",
    "surgery.selection",
    "surgery.families",
]


COMMANDS = {name for name in MODULES if within(name, {"cli.commands", "cli.requests"})}
"""What only the use of a command imports. Its request may import numpy."""


@pytest.mark.parametrize(
    ("first", "heavy"),
    [
        ([*LIGHT, *(name for name in {*MODULES} - COMMANDS if within(name, {"cli"}))], HEAVY),
        (sorted(COMMANDS), HEAVY - {"numpy"}),
    ],
)
def test_nothing_heavy_at_import(first: list[str], heavy: set[str]) -> None:
    """Neither in what answers at once, the command line among it, nor in what that imports."""
    seen: set[str] = set()
    pending = [*first]
    while pending:
        name = pending.pop()
        if name in seen or name not in MODULES:
            continue
        seen.add(name)
        found = imports(MODULES[name], top_only=True)
        wrong = {import_ for import_ in found if within(import_, heavy)}
        assert not wrong, f"{name} imports {wrong}"
        pending += found


def test_nothing_runs_what_a_checkpoint_brings() -> None:
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        made = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
        calls = [ast.unparse(node.func) for node in made]
        assert not {"eval", "exec", "pickle.load", "pickle.loads"} & set(calls), name
        assert text.count("weights_only=True") >= calls.count("torch.load"), name
        asked = [ast.unparse(word) for node in made for word in node.keywords]
        assert "trust_remote_code=True" not in asked, name
