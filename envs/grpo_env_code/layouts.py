"""Layouts of known datasets: their columns, and the part of a problem that each column has.

A dataset gets the first layout whose columns it has; envs/README.md lists the layouts.
"""

import base64
import binascii
import io
import pickle
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Never

from grpo_env_code.forms import UnknownForm, documented, listed, opened
from grpo_env_code.programs import entry_point_of, first_function, first_python, parses
from grpo_envs.graders.code.asserts import asserted_function

Cells = Mapping[str, Any]
_IMPORTED = re.compile(r"^from solution import (\w+)", re.MULTILINE)
_MOST_BYTES = 512 * 2**20
"""The most bytes of unpacked tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of a known dataset."""

    name: str
    has: tuple[str, ...]
    """Columns that identify the layout, the prompt first; `a|b` is the first existing of both."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """The dataset's columns for ours, where the names differ."""
    uses: tuple[str, ...] = ()
    """More columns that `read` uses; a missing column is None."""
    read: Callable[[Cells], Cells] = lambda cells: {}
    """Computes cells of our columns that the dataset does not have in our form."""


def layout_of(columns: Collection[str]) -> Layout | None:
    """Return the first layout whose columns a dataset has, or None if there is none."""
    for layout in LAYOUTS:
        if all(set(name.split("|")) & {*columns} for name in layout.has):
            return layout
    return None


def prompt_of(layout: Layout, columns: Collection[str]) -> str:
    """Return the dataset's column that holds the prompt."""
    return next(name for name in layout.has[0].split("|") if name in columns)


def _with_starter(cells: Cells) -> dict[str, Any]:
    """Return prompt, tests, function and solution of a row with starter code."""
    starter, solution = str(cells.get("starter_code") or ""), first_python(cells.get("solution"))
    metadata = opened(cells.get("metadata"))
    named = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    tests = documented(cells["tests"], str(cells.get("entry_point") or named or ""))
    made: dict[str, Any] = {"tests": tests.cell, "solution": solution}
    if isinstance(tests.cell, Mapping) and tests.cell.get("kind") == "stdio":
        return made
    name = tests.name or first_function(starter)
    prompt = _begun(str(cells["prompt"]), starter)
    return made | {"prompt": prompt, "entry_point": entry_point_of(name, starter, solution)}


def _begun(prompt: str, starter: str) -> str:
    """Return the prompt with its starter code."""
    if not starter.strip() or starter.strip() in prompt:
        return prompt
    return f"{prompt.rstrip()}\n\nBegin with this code:\n```python\n{starter.rstrip()}\n```"


def _code_contests(cells: Cells) -> Cells:
    for name in ("input_file", "output_file"):
        if cells.get(name):
            raise UnknownForm(f"{name} is {str(cells[name])[:40]!r}: programs read standard input")
    inputs: list[Any] = []
    outputs: list[Any] = []
    visible = 0
    for number, name in enumerate(("public_tests", "private_tests", "generated_tests")):
        tests = opened(cells.get(name)) or {}
        if isinstance(tests, list) and all(isinstance(case, Mapping) for case in tests):
            tests = {key: [case.get(key) for case in tests] for key in ("input", "output")}
        if not isinstance(tests, Mapping):
            raise UnknownForm(f'{name} are not {{"input": [...], "output": [...]}}')
        inputs += listed(tests.get("input") or [])
        outputs += listed(tests.get("output") or [])
        visible = visible if number else len(inputs)
    tests = documented({"inputs": inputs, "outputs": outputs}).cell
    return {"tests": {**tests, "visible": visible}, "solution": first_python(cells.get("solution"))}


def _live_code_bench(cells: Cells) -> Cells:
    public = _cases_in(cells.get("public_test_cases"), "public_test_cases")
    private = _cases_in(cells.get("private_test_cases"), "private_test_cases")
    made = _with_starter({**cells, "tests": [*public, *private]})
    if isinstance(made["tests"], Mapping):
        made["tests"] = {**made["tests"], "visible": len(public)}
    return made


def _cases_in(cell: Any, name: str) -> list[Any]:
    cases = opened(cell)
    if isinstance(cases, str) and cases.strip():
        cases = opened(unpacked(cases))
    if not cases:
        return []
    if not isinstance(cases, list):
        raise UnknownForm(f"{name} are not a list of tests")
    return cases


class _TextOnly(pickle.Unpickler):
    """Unpickles text and other plain values; a pickle that names a class or function is refused."""

    def find_class(self, module_name: str, global_name: str) -> Never:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no text")

    def persistent_load(self, pid: Any) -> Never:
        raise pickle.UnpicklingError("a persistent object is no text")


def unpacked(text: str) -> str:
    """Return a text that was pickled, compressed with zlib and encoded in base64 (LiveCodeBench).

    Only text is unpickled: a pickle that names a class or a function is refused.

    Raises:
        UnknownForm: the tests are packed in another way.
    """
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
        value = _TextOnly(io.BytesIO(data)).load()
    except (binascii.Error, zlib.error, ValueError, pickle.UnpicklingError) as error:
        raise UnknownForm(f"packed tests cannot be read ({error})") from error
    except (EOFError, IndexError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise UnknownForm(f"packed tests cannot be read ({type(error).__name__})") from error
    except (MemoryError, RecursionError, ImportError) as error:
        raise UnknownForm(f"packed tests cannot be read ({type(error).__name__})") from error
    if inflate.unconsumed_tail or not isinstance(value, str):
        raise UnknownForm("packed tests hold no text, or too much of it")
    return value


def _eurus(cells: Cells) -> Cells:
    ability = str(cells.get("ability") or "code").lower()
    if "cod" not in ability and "program" not in ability:
        raise UnknownForm(f"ability {ability[:30]!r} is no code")
    return _with_starter(cells)


def _kod_code(cells: Cells) -> Cells:
    info = opened(cells.get("test_info"))
    first = info[0] if isinstance(info, list) and info else info
    name = first.get("function_name") if isinstance(first, Mapping) else None
    solution, name = first_python(cells.get("solution")), cells.get("entry_point") or name
    if not name:
        imported = _IMPORTED.search(str(cells["tests"]))
        name = imported[1] if imported else ""
    return {"entry_point": entry_point_of(str(name), solution), "solution": solution}


def _leetcode(cells: Cells) -> Cells:
    starter, imports = (str(cells.get(name) or "") for name in ("starter_code", "imports"))
    name, solution = str(cells.get("entry_point") or ""), first_python(cells.get("solution"))
    return {
        "prompt": _begun(str(cells["prompt"]), starter),
        "setup": imports if parses(imports) else "",
        "entry_point": entry_point_of(name, starter, solution),
        "solution": solution,
    }


def _mbpp(cells: Cells) -> Cells:
    """Join the imports and the setup of MBPP's tests."""
    imports = opened(cells.get("test_imports"))
    lines = imports if isinstance(imports, list) else [imports]
    setup = [str(line) for line in (*lines, cells.get("test_setup_code")) if line]
    return {"setup": "\n".join(setup)}


def _mbpp_plus(cells: Cells) -> Cells:
    lines = opened(cells.get("test_list"))
    code = "\n".join(map(str, lines)) if isinstance(lines, list) else str(lines or "")
    return {"entry_point": asserted_function(code) or ""}


_CANONICAL = {"tests": "test", "solution": "canonical_solution"}

LAYOUTS = (
    Layout(
        name="own",
        has=("prompt", "tests"),
        roles={"setup": "setup", "checker": "checker"},
        uses=("starter_code",),
        read=_with_starter,
    ),
    Layout(
        name="LiveCodeBench",
        has=("question_content", "public_test_cases"),
        roles={"tests": "public_test_cases"},
        uses=("public_test_cases", "private_test_cases", "metadata", "starter_code"),
        read=_live_code_bench,
    ),
    Layout(
        name="CodeContests",
        has=("description", "public_tests"),
        roles={"tests": "public_tests", "solution": "solutions"},
        uses=("public_tests", "private_tests", "generated_tests", "input_file", "output_file"),
        read=_code_contests,
    ),
    Layout(
        name="SYNTHETIC-1",
        has=("prompt|problem|question", "verification_info"),
        roles={"tests": "verification_info", "solution": "gold_standard_solution"},
        uses=("starter_code",),
        read=_with_starter,
    ),
    Layout(
        name="Eurus-2",
        has=("prompt", "reward_model"),
        roles={"tests": "reward_model.ground_truth"},
        uses=("ability", "starter_code"),
        read=_eurus,
    ),
    Layout(
        name="LeetCodeDataset",
        has=("problem_description", "entry_point", "test"),
        roles={"tests": "test", "solution": "completion", "imports": "prompt"},
        uses=("starter_code",),
        read=_leetcode,
    ),
    Layout(
        name="BigCodeBench",
        has=("complete_prompt", "test", "entry_point"),
        roles={**_CANONICAL},
    ),
    Layout(
        name="KodCode",
        has=("question|prompt|problem", "test", "solution|test_info"),
        roles={"tests": "test"},
        uses=("test_info",),
        read=_kod_code,
    ),
    Layout(
        name="MBPP+",
        has=("prompt", "test_list", "test"),
        roles={"tests": "test", "solution": "code"},
        uses=("test_list",),
        read=_mbpp_plus,
    ),
    Layout(
        name="MBPP",
        has=("text|prompt|question|problem", "test_list"),
        roles={"tests": "test_list", "solution": "code"},
        uses=("test_imports", "test_setup_code"),
        read=_mbpp,
    ),
    Layout(
        name="HumanEval", has=("prompt|question|problem", "test", "entry_point"), roles=_CANONICAL
    ),
    Layout(
        name="AceCode",
        has=("question|prompt|problem", "test_cases"),
        roles={"tests": "test_cases"},
    ),
    Layout(
        name="DeepCoder",
        has=("problem|question", "tests"),
        roles={"solution": "solutions"},
        uses=("metadata", "starter_code"),
        read=_with_starter,
    ),
    Layout(
        name="APPS, TACO",
        has=("question|problem|prompt", "input_output"),
        roles={"tests": "input_output", "solution": "solutions"},
        uses=("metadata", "starter_code"),
        read=_with_starter,
    ),
)
"""The first layout that fits is used."""
