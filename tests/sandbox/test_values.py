"""Values that cross between processes: they arrive as they were, and nothing else arrives."""

import json
import math
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum
from fractions import Fraction
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_envs.sandbox.values import MAX_DEPTH, MAX_DIGITS, Opaque, Unreadable, dump, load

KEYS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    KEYS | st.complex_numbers(allow_nan=False) | st.integers(-(1 << 300), 1 << 300),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=12,
)


class Lying(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__

    def __index__(self) -> int:
        return 42

    __int__ = __index__


class LyingText(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__

    def __str__(self) -> str:
        return "lie"


class LyingList(list[int]):
    def __iter__(self) -> Any:
        return iter([42])

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


class Colour(IntEnum):
    RED = 3


Point = namedtuple("Point", "x y")


def same(left: Any, right: Any) -> bool:
    """Equal, of the same kinds all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, (set, frozenset)):
        return left == right and {*map(typed, left)} == {*map(typed, right)}
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)


def typed(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


@given(VALUES)
def test_plain_values_come_back(value: Any) -> None:
    text = dump(value)
    assert "\n" not in text
    assert text.isascii()
    assert same(load(text), value)
    assert same(load(text.encode()), value)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (True, True),
        (Lying(7), 7),
        (Colour.RED, 3),
        (LyingText("x"), "x"),
        (LyingList([1, 2]), [1, 2]),
        (Point(1, 2), (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (OrderedDict(a=1), {"a": 1}),
        (bytearray(b"x"), b"x"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(1.5), 1.5),
        ({"a": np.arange(2)}, {"a": [0, 1]}),
        (2**53, 2**53),
        (-(2**53) - 1, -(2**53) - 1),
        ("\ud800", "\ud800"),
        (-0.0, -0.0),
        (math.inf, math.inf),
    ],
    ids=repr,
)
def test_subclasses_arrive_plain(given: Any, plain: Any) -> None:
    assert same(load(dump(given)), plain)


def test_nan_arrives_as_nan() -> None:
    value = load(dump([math.nan, complex(math.nan, 1)]))
    assert math.isnan(value[0])
    assert math.isnan(value[1].real)


@pytest.mark.parametrize(
    "value",
    [object(), ANY, len, int, iter([]), (x for x in ""), Fraction(1, 2), range(3), {}.keys(), ...],
    ids=lambda value: type(value).__name__,
)
def test_other_kinds_do_not_pass(value: Any) -> None:
    with pytest.raises(Opaque, match="does not pass by value"):
        dump([value])


def test_cycles_and_huge_integers_do_not_pass() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="deeper"):
        dump(cycle)
    with pytest.raises(ValueError, match="integer"):
        dump(1 << (4 * MAX_DIGITS + 1))


def nest(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_the_same_on_both_sides() -> None:
    assert load(dump(nest(MAX_DEPTH))) == nest(MAX_DEPTH)
    with pytest.raises(ValueError, match="deeper"):
        dump(nest(MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="deeper"):
        load("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


HOSTILE = {
    "nothing": b"",
    "not JSON": b"passed",
    "not UTF-8": b'"\xff"',
    "two values": b"1 2",
    "deep": b"[" * 500_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "deep tags": b'{"t":[' * 5000 + b"]}" * 5000,
    "nan": b"NaN",
    "infinity": b"-Infinity",
    "overflow": b"1e999",
    "long float": b"0." + b"1" * 100_000,
    "long integer": b"1" * 100_000,
    "integer beyond exactness": b"123456789012345678",
    "hexadecimal too long": b'{"i":"' + b"f" * (MAX_DIGITS + 1) + b'"}',
    "hexadecimal with a prefix": b'{"i":"0x10"}',
    "hexadecimal with underscores": b'{"i":"1_0"}',
    "hexadecimal with blanks": b'{"i":" 10"}',
    "no digits": b'{"i":""}',
    "integer of a number": b'{"i":16}',
    "unknown tag": b'{"o":"x"}',
    "two tags": b'{"t":[],"s":[]}',
    "one tag twice": b'{"t":[1],"t":[2]}',
    "no tag": b"{}",
    "list in a set": b'{"s":[[1]]}',
    "list as a key": b'{"d":[[[1],2]]}',
    "triple in a dict": b'{"d":[[1,2,3]]}',
    "text as a pair": b'{"d":["ab"]}',
    "dict of text": b'{"d":"ab"}',
    "tuple of text": b'{"t":"ab"}',
    "tuple of a set": b'{"t":{"s":[1]}}',
    "bytes that are none": b'{"b":"zz"}',
    "complex of three": b'{"c":[1.0,2.0,3.0]}',
    "complex of text": b'{"c":["1","2"]}',
    "float of text": b'{"f":"1e999"}',
    "float of words": b'{"f":"infinity"}',
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_a_value_error_at_once(data: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(Unreadable):
        load(data)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("tag", ["s", "z", "d"])
def test_colliding_keys_cost_no_time(tag: str) -> None:
    """Inserting them would take half a minute."""
    keys = [{"i": f"{k * (2**61 - 1):x}"} for k in range(40_000)]
    items = [[key, 0] for key in keys] if tag == "d" else keys
    began = time.monotonic()
    with pytest.raises(ValueError, match="one hash"):
        load(json.dumps({tag: items}))
    assert time.monotonic() - began < 2


@given(st.binary(max_size=60) | st.text(alphabet='[]{}":,0123456789.-eintdszbcf ').map(str.encode))
def test_any_bytes_give_a_plain_value_or_a_value_error(data: bytes) -> None:
    try:
        value = load(data)
    except Unreadable:
        return
    assert dump(value)
