"""Programs in datasets: the solution of a row, the requested function, and its starter code."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from grpo_env_code.forms import opened
from grpo_envs.graders.code import program_of

_PYTHON3 = ("3", "python3", "python", "py3", "py", "pypy3", "cpython3")
_METHOD = re.compile(r"Solution\(\)\.([A-Za-z_]\w*)")


def first_python(cell: Any) -> str:
    """Return the first Python program of a cell, or '' if there is none.

    A cell is a program, a program in a fenced block, a list of programs, JSON text of such a list,
    or an object of languages and solutions in which 3 is Python 3 (CodeContests).
    """
    cell = opened(cell)
    if isinstance(cell, Mapping):
        languages, programs = cell.get("language"), cell.get("solution")
        if not isinstance(languages, list) or not isinstance(programs, list):
            return _bare(programs) if isinstance(programs, str) else ""
        pairs = zip(languages, programs, strict=False)
        cell = [program for language, program in pairs if str(language).lower() in _PYTHON3]
    if isinstance(cell, list | tuple):
        texts = [_bare(text) for text in map(_program_in, cell) if text.strip()]
        return next((text for text in texts if parses(text)), "")
    return "" if cell is None else _bare(str(cell))


def _program_in(item: Any) -> str:
    """Return the program of a list item; '' if it is in another language."""
    if isinstance(item, Mapping):
        if str(item.get("language", "python")).lower() not in _PYTHON3:
            return ""
        return str(item.get("solution") or item.get("code") or "")
    return item if isinstance(item, str) else ""


def _bare(text: str) -> str:
    """Return a program without the fences around it."""
    fenced = "```" in text and not parses(text)
    return (program_of(text) or text) if fenced else text


def parses(program: str) -> bool:
    """Return whether a text is a program that this Python version parses."""
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def entry_point_of(name: str, *programs: str) -> str:
    """Return `Solution().name` if a program defines it as a method of `Solution`, else the name."""
    if not name or _METHOD.fullmatch(name):
        return name
    method = re.compile(rf"\s+def\s+{re.escape(name)}\s*\(\s*self\b")
    for program in programs:
        before, found, after = program.partition("class Solution")
        if found and method.search(after) and f"\ndef {name}" not in f"\n{before}":
            return f"Solution().{name}"
    return name


def first_function(starter: str) -> str:
    """Return the name of the first function in starter code, or '' if there is none."""
    found = re.search(r"^\s*def\s+([A-Za-z_]\w*)", starter, re.MULTILINE)
    return found[1] if found else ""


def wanted(entry_point: str, solution: str) -> str:
    """Return the sentence that asks for the function, class or method of that name."""
    owner, _, method = entry_point.partition("().")
    found = _defined(solution, method or owner, owner if method else None)
    signature = f"{method or owner}({ast.unparse(found.args)})" if found else method or owner
    if method:
        return f"Write the class `{owner}` with the method `{signature}`."
    is_class = owner == "Solution" or re.search(rf"^class\s+{re.escape(owner)}\b", solution, re.M)
    return f"Write the class `{owner}`." if is_class else f"Write the function `{signature}`."


def is_named(entry_point: str, prompt: str) -> bool:
    """Return whether a prompt names the function, class or method to define."""
    owner, _, method = map(re.escape, entry_point.partition("()."))
    called = re.search(rf"\b{method or owner}\s*\(", prompt)
    return bool(called or (not method and re.search(rf"\bclass\s+{owner}\b", prompt)))


def function_in(program: str, name: str) -> ast.FunctionDef | None:
    """Return the top-level function `name` of `program`, or None if there is none."""
    return _defined(program, name, None)


def _defined(program: str, name: str, owner: str | None) -> ast.FunctionDef | None:
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if owner is not None:
        classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == owner]
        body = classes[-1].body if classes else []
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found[-1] if found else None
