"""The floors: a module imports its own floor and those below. And nothing grows too large.

`python tests/test_architecture.py` prints the picture: each floor's folders and what they import.
"""

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from grpo_envs.env import installed

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
    ("training", "grpo_agent", "grpo_ppo", "grpo_sft", "interop"),
    ("report", "commands"),
]
COMMANDS = (
    *("run", "sft", "plan", "check", "play", "doctor", "plot", "evaluate", "export"),
    *("sweep_report", "compare", "explain", "new_env", "engine", "export_data", "serve"),
)
"""Files in grpo_envs/ that a user runs: the floor `commands`."""
WINGS = ("graders", "sandbox")
"""Environments use them; the framework does without."""
GROUPS = {f"grpo_envs.{name}" for name in ("envs", "rewards", "loggers", "agents", "conf")}
"""Entry-point groups. Other packages write them down: they never change."""
NEW_GROUPS = {f"grpo_envs.{name}" for name in ("samplers", "advantages", "objectives")}
"""Groups that came later."""
# Third-party packages that only these areas may import.
HEAVY = {
    "torch": {
        "grpo_agent",
        "grpo_policy",
        "grpo_ppo",
        "grpo_sft",
        "runs",
        "loggers",
        "training",
        "runtime",
    },
    "transformers": {"grpo_agent", "grpo_policy", "training", "interop"},
    "accelerate": {"grpo_agent", "grpo_policy", "grpo_ppo", "training", "runtime"},
    "peft": {"grpo_policy"},
    "hydra": {"config", "training", "commands"},
    "omegaconf": {"config", "training", "commands"},
    "datasets": {"env", "interop"},
    "verifiers": {"interop"},
    "matplotlib": {"runs"},
    "plotly": {"report", "runs"},
    "sympy": {"graders"},
    "mpmath": {"graders"},
    "wandb": {"loggers"},
    "mlflow": {"loggers"},
    "trackio": {"loggers"},
    "openenv": {"interop"},
    "fastapi": {"interop"},
    "uvicorn": {"interop"},
    "ray": {"env"},
    "websockets": {"grpo_env_openenv"},
}
MODULES = sorted(p for d in ("grpo_envs", "envs", "agents") for p in (ROOT / d).rglob("*.py"))
EVERY_MODULE = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))


def area(path: Path) -> str:
    """grpo_envs/graders/math/grade.py -> graders; envs/grpo_env_math/env.py -> grpo_env_math."""
    _, first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return "commands" if not rest and first in COMMANDS else first


def area_of(module: str) -> str:
    """grpo_envs.graders.math -> graders; grpo_env_math.env -> grpo_env_math; torch -> torch."""
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0] if package == "grpo_envs" else package
    return "commands" if package == "grpo_envs" and first in COMMANDS else first


def floor(name: str) -> int | None:
    return next((number for number, names in enumerate(FLOORS) if name in names), None)


@cache
def statements(path: Path) -> list[tuple[list[str], bool]]:
    """The modules that each import statement names, and whether it is at the top of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [([alias.name], id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.append(([node.module, *names], id(node) in top))
    return found


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each imported module and whether it is at the top of the file."""
    yield from ((name, top) for names, top in statements(path) for name in names)


def upward(path: Path) -> list[str]:
    """What a module imports from a floor above its own; nothing for the front door."""
    own = floor(area(path))
    if own is None:
        return []
    return [names[0] for names, _ in statements(path) if any(above(name, own) for name in names)]


def above(module: str, own: int) -> bool:
    other = floor(area_of(module))
    return other is not None and other > own


def arrows() -> Counter[tuple[str, str]]:
    """How many import statements lead from one folder to another."""
    found: Counter[tuple[str, str]] = Counter()
    for path in MODULES:
        here = area(path)
        for names, _ in statements(path) if floor(here) is not None else ():
            theirs = {area_of(name) for name in names} - {here}
            found.update((here, there) for there in theirs if floor(there) is not None)
    return found


def modules() -> dict[str, set[str]]:
    """What each module of ours imports at its top: an import cycle fails only there."""
    graph = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts if parts[0] == "grpo_envs" else parts[1:]).removesuffix(".__init__")
        graph[name] = {module for module, top in imported(path) if top and module != name}
    return graph


def folders() -> dict[str, set[str]]:
    """Which folders each folder imports, anywhere in its files."""
    graph: dict[str, set[str]] = {}
    for here, there in arrows():
        graph.setdefault(here, set()).add(there)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """Each edge that closes a circle of imports, with the way around."""
    state: dict[str, str] = {}
    found: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == "open":
            found.append(" -> ".join((*trail[trail.index(name) :], name)))
        if name in state or name not in graph:
            return
        state[name] = "open"
        for other in sorted(graph[name]):
            visit(other, (*trail, name))
        state[name] = "done"

    for name in graph:
        visit(name, ())
    return found


def picture() -> int:
    """Print the floors, lowest first, and who imports whom; return 1 if a rule is broken."""
    sizes = Counter(map(area, MODULES))
    counts = sorted(arrows().items(), key=lambda arrow: (-arrow[1], arrow[0]))
    for number, names in enumerate(FLOORS):
        print(f"floor {number}")
        for name in names:
            size = f"{sizes[name]} module{'s' * (sizes[name] != 1)}"
            theirs = ", ".join(
                f"{there} {count}" for (here, there), count in counts if here == name
            )
            print(f"  {name:24}{size:12}{theirs and f'-> {theirs}'}".rstrip())
    around = [*circles(modules()), *circles(folders())]
    up = [f"{path.relative_to(ROOT)} -> {name}" for path in MODULES for name in upward(path)]
    for line in (*around, *up):
        print(f"  {line}")
    print(f"circles: {len(around)}\nupward: {len(up)}")
    return int(bool(around or up))


@EVERY_MODULE
def test_every_module_has_a_floor(path: Path) -> None:
    assert area(path) == "__init__" or floor(area(path)) is not None


@EVERY_MODULE
def test_imports_point_down(path: Path) -> None:
    here = area(path)
    if here == "__init__":
        pytest.skip("the front door re-exports from several floors")
    assert upward(path) == [], f"{here} must not import from a floor above"
    for name, _ in imported(path):
        package, there = name.partition(".")[0], area_of(name)
        players = {here, there} <= set(ENVIRONMENTS)
        assert not players or here == there, f"{here} must not know {there}"
        assert here in HEAVY.get(package, {here}), f"{here} must not import {package}"


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.is_relative_to(ROOT / "grpo_envs")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_the_framework_knows_no_agent_and_no_grader(path: Path) -> None:
    theirs = {area_of(name) for name, _ in imported(path)}
    assert not theirs & {"grpo_agent", "grpo_ppo", "grpo_sft"}
    assert area(path) in WINGS or not theirs & {*WINGS}
    assert area(path) in ("interop", "commands") or "interop" not in theirs


def test_the_groups_of_entry_points_are_pinned() -> None:
    """Some are the names of modules, too: who renames a module must not rename a group."""
    constants = {str(value) for name, value in vars(installed).items() if name.isupper()}
    groups = {value for value in constants if value.startswith("grpo_envs.")}
    assert groups >= GROUPS
    assert groups <= GROUPS | NEW_GROUPS
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["entry-points"]) <= groups | {"inspect_ai"}  # Inspect's, for our task


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
    assert circles(modules()) == []
    assert circles(folders()) == []
    loop = {"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"a"}}
    assert circles(loop) == ["a -> b -> d -> a"]


def test_the_picture_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, __file__], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["circles: 0", "upward: 0"]
    assert [line for line in lines if line.startswith("floor")] == [
        f"floor {number}" for number in range(len(FLOORS))
    ]
    shown = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert shown.keys() == {name for names in FLOORS for name in names}
    for (here, there), count in arrows().items():
        assert f"{there} {count}" in shown[here]


def test_source_roots_are_not_packages() -> None:
    """An __init__.py in envs/ or agents/ would make `import agents` ours."""
    assert not [d for d in ("envs", "agents") if (ROOT / d / "__init__.py").exists()]


if __name__ == "__main__":
    sys.exit(picture())
