"""The code that runs in the sandbox: reasoning-gym's generators and graders run only there.

`library` sends the text of this module to the sandbox together with `grpo_envs.seeding`; no other
module of ours is available there. Each function is called in a separate process, which is killed if
it takes too long.

Some graders evaluate the policy's text (`eval`, sympy's `parse_expr`). Its code would run in the
sandbox, but in the process that computes the verdict. So these functions are replaced by readers of
literals and arithmetic, which raise for anything else.
"""

import ast
import dataclasses
import datetime
import enum
import pickle
import random
import re
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from grpo_envs.seeding import seed_for, split_of

EVAL_SHARE = 0.25
"""Share of the questions for `eval`: larger than elsewhere, because drawing one of them takes
1 / share draws on average."""
TRIES = 200
"""The most draws for a question."""
_ITEM_S, _DRAW_S = 5.0, 20.0
"""The most seconds of processor time for one draw, and for all draws of a question."""
EVALUATING = (
    *("algorithmic.binary_matrix", "algorithmic.number_sorting", "algorithmic.spiral_matrix"),
    *("algorithmic.string_insertion", "games.n_queens"),
)
"""Modules whose graders call `eval`."""
PARSING = ("games.countdown", "games.puzzle24")
"""Modules with their own name `parse_expr`; others call `sympy.parse_expr`."""
NOT_OPTIONS = ("seed", "size")
_LONGEST = 1000
_NAMES = frozenset(
    {
        *("pi", "exp", "log", "ln", "sqrt", "cbrt", "Abs"),
        *("sin", "cos", "tan", "cot", "sec", "csc"),
        *("asin", "acos", "atan", "acot", "asec", "acsc", "sinh", "cosh", "tanh"),
        *("asinh", "acosh", "atanh"),
    }
)
"""Names that are allowed beside single letters."""
_TOKEN = re.compile(r"\s+|\d+\.?\d*|\.\d+|([A-Za-z]+)|\*\*|[-+*/(),]", re.ASCII)


def tasks() -> list[str]:
    """Return the names of all generators, without `composite`, which mixes others."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})


def options(task: str) -> list[str]:
    """Return the names of a generator's options."""
    return [field.name for field in _fields(task)]


def draw(task: str, given: dict[str, Any], split: str, key: int) -> dict[str, Any]:
    """Draw until a question belongs to `split`.

    Args:
        task: A generator.
        given: Its options.
        split: `train` or `eval`.
        key: Determines the question; neighbouring keys are unrelated.

    Returns:
        The question and the data for its grader. If no question was found in TRIES draws or in
        time: the number of `draws`, and the number of different `questions` among them.
    """
    start, number = divmod(seed_for(task, repr(sorted(given.items())), split, key), 2**31 - TRIES)
    dataset = _dataset(task, given, number)  # start at any item: item 0 may always be of one kind
    seen: set[str] = set()
    for attempt in range(TRIES):
        if time.process_time() > _DRAW_S:
            return {"draws": attempt, "questions": len(seen)}
        entry = _item(dataset, number, (start + attempt) % TRIES)
        question = str(entry["question"]) if entry else ""
        if entry and split_of(question, EVAL_SHARE) == split:
            return {"question": question, "number": number, **_answered(dataset, entry)}
        seen.add(question)
    return {"draws": TRIES, "questions": len(seen)}


def grade(task: str, given: dict[str, Any], drawn: tuple[int, bytes], answer: str) -> float:
    """Return the value of reasoning-gym's grader for an answer to a question.

    Args:
        task: A generator.
        given: Its options.
        drawn: `number` and `entry` of the return value of `draw`.
        answer: The policy's answer.
    """
    number, entry = drawn
    return _graded(_dataset(task, given, number), pickle.loads(entry), answer)


def configured(task: str, given: dict[str, Any]) -> None:
    """Raise unless the generator accepts these options."""
    _dataset(task, given, 0)


def _item(dataset: Any, number: int, index: int) -> dict[str, Any]:
    """Return an item; {} if the generator takes too long."""
    _seed(number + index)
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, _ITEM_S)
    try:
        item: dict[str, Any] = dataset[index]
    except _Endless:
        return {}
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return item


class _Endless(BaseException):
    """The time of a draw is up. Not an Exception, because generators catch those."""


def _give_up(*_: object) -> None:
    raise _Endless


def _answered(dataset: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the best known answer and its grade, which is None if the grader raises."""
    packed = pickle.dumps(entry)
    known = (entry["answer"], *(entry["metadata"].get(name) for name in _EXAMPLES))
    answer = next((str(one) for one in known if one not in (None, "")), "").strip()
    try:
        best = _graded(dataset, entry, answer) if answer else 0.0
    except Exception:  # noqa: BLE001  a grader can raise anything, also for its own answer
        best = None
    return {"answer": answer, "best": best, "entry": packed}


_EXAMPLES = ("example_answer", "example_correct_answer")


def _graded(dataset: Any, entry: dict[str, Any], answer: str) -> float:
    _guard()
    return float(dataset.score_answer(answer, entry))


def _dataset(task: str, given: Mapping[str, Any], number: int) -> Any:
    from reasoning_gym.factory import DATASETS

    kind, settings = DATASETS[task]
    fields = {field.name: field for field in _fields(task)}
    read = {name: _read(fields[name], value) for name, value in given.items()}
    config = settings(seed=number, size=TRIES, **read)
    if hasattr(config, "validate"):
        config.validate()
    return kind(config)


def _fields(task: str) -> list[Any]:
    from reasoning_gym.factory import DATASETS

    return [f for f in dataclasses.fields(DATASETS[task][1]) if f.name not in NOT_OPTIONS]


def _read(field: Any, value: Any) -> Any:
    """Convert an option to the type of its default: YAML has no tuples, dates or enumerations."""
    default = field.default
    if default is dataclasses.MISSING:
        default = field.default_factory()
    kind = type(default)
    try:
        if isinstance(default, datetime.date | datetime.time):
            return kind.fromisoformat(value)
        if isinstance(default, enum.Enum):
            return kind(value)
        if default and isinstance(default, list) and isinstance(default[0], enum.Enum):
            return [type(default[0])(item) for item in value]
        if dataclasses.is_dataclass(kind):
            return kind(**value)
    except (TypeError, ValueError):
        raise ValueError(f"{field.name} {_allowed(default)}") from None
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        return kind(tuple(item) if isinstance(item, list) else item for item in value)
    kinds = {int, float} if kind is float or field.type in (float, "float") else {kind}
    if default is not None and type(value) not in kinds:
        raise ValueError(f"{field.name} {_allowed(default)}")
    return value


def _allowed(default: Any) -> str:
    """Return a description of the values that an option accepts."""
    one = default[0] if default and isinstance(default, list) else default
    if isinstance(one, enum.Enum):
        return f"is one of {', '.join(str(member.value) for member in type(one))}"
    dated = isinstance(one, datetime.date | datetime.time)
    return f"is a value like {default if dated else repr(default)}"


def _seed(number: int) -> None:
    """Seed the global generators of `random` and `numpy.random`, which some generators use."""
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)


def _guard() -> None:
    """Replace the functions with which graders evaluate text by safe readers."""
    for name in EVALUATING:
        vars(sys.modules[f"reasoning_gym.{name}"])["eval"] = ast.literal_eval
    for name in PARSING:
        vars(sys.modules[f"reasoning_gym.{name}"])["parse_expr"] = arithmetic
    vars(sys.modules["sympy"])["parse_expr"] = arithmetic


def arithmetic(text: str, *arguments: Any, **keywords: Any) -> Any:
    """Parse a text with sympy if it is only arithmetic: numbers, letters, known functions.

    Raises:
        ValueError: the text may be something else, which sympy would run as Python.
    """
    if not readable(text):
        raise ValueError("not arithmetic")
    parser = sys.modules["sympy.parsing.sympy_parser"]  # reasoning-gym has imported it
    return parser.parse_expr(text, *arguments, **keywords)


def readable(text: str) -> bool:
    """Return whether `text` has only tokens of arithmetic.

    >>> readable("3*x**2 + sin(x)/2"), readable("__import__('os')"), readable("x.args")
    (True, False, False)
    """
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or (token[1] and len(token[1]) > 1 and token[1] not in _NAMES):
            return False
        place = token.end()
    return len(text) <= _LONGEST
