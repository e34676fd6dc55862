"""The floors: a module imports its own floor and those below. And nothing grows too large."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = tuple(p.parent.name for p in (ROOT / "envs").glob("*/__init__.py"))
# Lowest floor first. A folder covers everything in it; a new file inherits its folder's floor.
FLOORS = [
    ("types", "errors", "seeding"),
    ("runtime",),
    ("env", "sandbox", "graders"),
    (*ENVIRONMENTS, "runs"),
    ("config", "loggers"),
    ("grpo_policy",),
    ("training", "grpo_agent"),
    ("report", "commands"),
]
COMMANDS = ("run", "check", "evaluate", "doctor", "play", "plot", "sweep_report", "new_env")
"""Files in grpo_envs/ that a user runs: the floor `commands`."""
WINGS = ("graders", "sandbox")
"""Environments use them; the framework does without."""
GROUPS = ("envs", "rewards", "loggers", "agents", "samplers", "conf")
"""Entry-point groups `grpo_envs.<group>`. Other packages write them down: they never change."""
# Third-party packages that only these areas may import.
HEAVY = {
    "torch": {"grpo_agent", "grpo_policy", "runs", "loggers", "training", "runtime"},
    "transformers": {"grpo_agent", "grpo_policy", "training"},
    "accelerate": {"grpo_agent", "grpo_policy", "training", "runtime"},
    "peft": {"grpo_policy"},
    "hydra": {"config", "training", "commands"},
    "omegaconf": {"config", "training", "commands"},
    "datasets": {"env"},
    "matplotlib": {"commands"},
    "plotly": {"report", "commands"},
    "sympy": {"graders"},
    "mpmath": {"graders"},
    "wandb": {"loggers"},
    "mlflow": {"loggers"},
    "trackio": {"loggers"},
}
MODULES = sorted(p for d in ("grpo_envs", "envs", "agents") for p in (ROOT / d).rglob("*.py"))
EVERY_MODULE = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))


def area(path: Path) -> str:
    """grpo_envs/graders/math/grade.py -> graders; envs/grpo_env_math/env.py -> grpo_env_math."""
    _, first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return "commands" if not rest and first in COMMANDS else first


def floor(name: str) -> int | None:
    return next((number for number, names in enumerate(FLOORS) if name in names), None)


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each imported module and whether it is at the top of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: relative import"
            yield node.module, id(node) in top
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


@EVERY_MODULE
def test_every_module_has_a_floor(path: Path) -> None:
    assert area(path) == "__init__" or floor(area(path)) is not None


@EVERY_MODULE
def test_imports_point_down(path: Path) -> None:
    here = area(path)
    if here == "__init__":
        pytest.skip("the front door re-exports from several floors")
    own = floor(here)
    assert own is not None
    for name, _ in imported(path):
        package, _, rest = name.partition(".")
        there = rest.partition(".")[0] if package == "grpo_envs" else package
        there = "commands" if package == "grpo_envs" and there in COMMANDS else there
        other = floor(there)
        if other is not None:
            assert other <= own, f"{here} must not import {name}: it is a floor above"
        players = {here, there} <= set(ENVIRONMENTS)
        assert not players or here == there, f"{here} must not know {there}"
        assert here in HEAVY.get(package, {here}), f"{here} must not import {package}"


@EVERY_MODULE
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1 - len(doc.splitlines())
            assert lines <= 40, f"{path.name}: {node.name} has {lines} lines"
            positional = [a for a in node.args.posonlyargs + node.args.args if a.arg != "self"]
            assert len(positional) <= 4, f"{path.name}: {node.name} takes {len(positional)}"


def test_there_is_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts if parts[0] == "grpo_envs" else parts[1:]).removesuffix(".__init__")
        graph[name] = {module for module, top in imported(path) if top}
    state: dict[str, str] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == "done" or name not in graph:
            return
        assert state.get(name) != "open", f"import cycle: {' -> '.join((*trail, name))}"
        state[name] = "open"
        for other in sorted(graph[name]):
            if other != name:
                visit(other, (*trail, name))
        state[name] = "done"

    for name in graph:
        visit(name, ())


def test_source_roots_are_not_packages() -> None:
    """An __init__.py in envs/ or agents/ would make `import agents` ours."""
    assert not [d for d in ("envs", "agents") if (ROOT / d / "__init__.py").exists()]
