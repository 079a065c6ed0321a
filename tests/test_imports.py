"""Contract: the packages depend on each other in one direction, and every module has a name.

errors ← families, variants ← layouts ← plan ← export; checkpoint knows only errors; the modeling
file travels with a checkpoint, so it knows only torch and transformers; evals may use surgery,
surgery never evals; cli uses both and nothing uses cli. Heavy libraries stay where they are needed.
"""

from __future__ import annotations

import ast
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


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Modules that a file imports; with `top_only`, those that importing it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
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

    visit(tree)
    return found


MODULES = {module_name(path): path for path in FILES}


def ours(path: Path) -> set[str]:
    """Modules of this project that a file imports, the packages above them left out."""
    return {name for name in imports(path) if name in MODULES and name not in OURS}


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


# Rooms, lowest first: a module imports from its own room and from lower ones. What stands beside
# the rooms of a package is a room of its own.
ORDER = [
    "surgery.errors",
    "surgery.selection",
    "surgery.families",
    "surgery.variants",
    "surgery.modeling",
    "surgery.layouts",
    "surgery.checkpoint",
    "surgery.plan",
    "surgery.output",
    "surgery.record",
    "surgery.hub",
    "surgery.reading",
    "surgery.editing",
    "surgery.fitting",
    "surgery.card",
    "surgery.exporting",
    "surgery.proof",
    "surgery.publishing",
    "evals.statistics",
    "evals.files",
    "evals.drawing",
    "evals.lab",
    "evals.samples",
    "evals.running",
    "evals.models",
    "evals.memorization",
    "evals.attacks",
    "evals.bounds",
    "evals.response",
    "evals.sweep",
    "evals.search",
    "evals.tasks",
    "evals.benchmarks",
    "evals.evaluation",
    "evals.publication",
    "evals.speed",
    "cli.options",
    "cli.progress",
    "cli.inputs",
    "cli.tables",
    "cli.evaluating",
    "cli.searching",
    "cli.recipe",
    "cli.exporting",
    "cli.repeated_evaluation",
    "cli.commands",
    "cli.main",
]


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_packages_are_found() -> None:
    assert len(FILES) > 40
    assert {module.partition(".")[0] for module in MODULES} == OURS
    assert "surgery.plan" in ours(ROOT / "surgery" / "exporting.py")  # the parser sees imports
    assert "torch" in imports(ROOT / "surgery" / "editing" / "loading.py") | imports(
        ROOT / "surgery" / "proof" / "mixing.py"
    )


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in MODULES} - OURS == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("name", sorted(MODULES.keys() - OURS))
def test_rooms_import_downward_only(name: str) -> None:
    above = ORDER[ORDER.index(room(name)) + 1 :]
    wrong = {module for module in ours(MODULES[name]) if room(module) in above}
    assert not wrong, f"{name} imports from rooms above its own"


def test_rooms_are_small_and_little_stands_beside_them() -> None:
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= 12 + 1, folder  # and its __init__
    assert len(list((ROOT / "evals").glob("*.py"))) <= 5 + 1


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
    }
    for name in graph:
        if (ROOT / Path(*name.split("."))).is_dir():  # a package is imported by its members
            graph[name] = set()
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above, name))
        if name in done:
            return
        for imported in graph[name]:
            visit(imported, (*above, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_the_modeling_file_stands_alone() -> None:
    (path,) = (ROOT / "surgery" / "modeling").glob("modeling_*.py")  # one for all families
    roots = {name.partition(".")[0] for name in imports(path)}
    assert roots <= {"__future__", "typing", "torch", "transformers"}


HEAVY = {
    "torch", "transformers", "lm_eval", "numpy", "scipy", "datasets", "accelerate", "matplotlib",
    "huggingface_hub",
}  # fmt: skip
LIGHT = [
    "surgery",
    "surgery.errors",
    "surgery.selection",
    "surgery.families",
    "surgery.modeling.names",
]


@pytest.mark.parametrize("module", [*LIGHT, *(name for name in MODULES if within(name, {"cli"}))])
def test_nothing_heavy_at_import(module: str) -> None:
    """Neither directly nor through what the module imports."""
    seen: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in seen or name not in MODULES:
            continue
        seen.add(name)
        found = imports(MODULES[name], top_only=True)
        heavy = {import_ for import_ in found if within(import_, HEAVY)}
        assert not heavy, f"{module} → {name} imports {heavy}"
        pending += found


def test_lm_eval_is_imported_by_few() -> None:
    users = [name for name, path in MODULES.items() if within_any(imports(path), "lm_eval")]
    assert not [name for name in users if not within(name, {"evals"})]


def within_any(modules: set[str], package: str) -> bool:
    return any(within(module, {package}) for module in modules)


def test_nothing_runs_what_a_checkpoint_brings() -> None:
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        calls = [
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
        ]
        assert not {"eval", "exec", "pickle.load", "pickle.loads"} & set(calls), name
        assert text.count("weights_only=True") >= calls.count("torch.load"), name
        assert "trust_remote_code=True" not in text, name


def test_modules_have_names_that_say_what_they_do() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    assert not [name for name in MODULES if vague & set(name.split("."))]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_module_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), path
    assert "from __future__ import annotations" in path.read_text() or len(tree.body) == 1
