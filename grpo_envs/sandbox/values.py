"""Plain values as text: arguments and results pass between processes as JSON, never as pickle.

Types that JSON lacks have a tag: `{"t": [1, 2]}` is a tuple. `load` reads the output of untrusted
programs: for any bytes it returns plain builtins or raises Unreadable, in short time.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Any

MAX_DEPTH = 64
MAX_DIGITS = 1 << 16
"""Hexadecimal digits of an integer."""
_EXACT = 1 << 53  # integers below it are JSON numbers
_MAX_COLLISIONS = 64  # keys with the same hash: more take quadratic time, and are an attack
_MOST_ITEMS = 1 << 20
VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
"""The types of dictionary views."""
_AS_THEY_ARE = {str, bool, type(None)}
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Opaque(TypeError):
    """A value has a type that does not pass by value."""


class Unreadable(ValueError):
    """A text is not what `dump` writes."""


class Iterated:
    """The items of an iterator: usable in `list` and the like; no equality, no truth value."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        """Hold `items`."""
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __repr__(self) -> str:
        return f"an iterator of {self.items!r}"

    def __bool__(self) -> bool:
        raise TypeError("an iterator is no answer to a question")


def dump(value: Any) -> str:
    """Return a plain value as one line of text.

    Subclasses of builtins become the builtin; scalars and arrays of numpy become numbers and lists.

    Raises:
        Opaque: the value holds anything else.
        ValueError: the value is nested deeper than MAX_DEPTH, or holds an integer with too many
            digits.

    >>> dump([1, (2.5, None), {3: "x"}])
    '[1,{"t":[2.5,null]},{"d":[[3,"x"]]}]'
    """
    return json.dumps(_tag(value, MAX_DEPTH), separators=(",", ":"), allow_nan=False)


def dump_result(value: Any) -> str:
    """Return the result of a call as one line; an iterator as its items, for `Iterated`.

    A deque is written like an iterator: it is not a list, but usable in `list` and the like.

    Raises:
        Opaque: the value holds something that does not pass.
        ValueError: as in `dump`, or the iterator has more than a million items.
    """
    if not isinstance(value, (Iterator, range, deque, *VIEWS)) or callable(value):
        return dump(value)
    given: Any = value
    items = list(islice(given, _MOST_ITEMS + 1))
    if len(items) > _MOST_ITEMS:
        raise ValueError(f"an iterator of more than {_MOST_ITEMS} items")
    return f'{{"g":{dump(items)}}}'


def load(text: str | bytes) -> Any:
    """Return the value of an untrusted text.

    Raises:
        Unreadable: the text is not one that `dump` writes.

    >>> load('[1,{"t":[2.5,null]},{"d":[[3,"x"]]}]')
    [1, (2.5, None), {3: 'x'}]
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(
            text,
            object_pairs_hook=_untag,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"not a plain value: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise Unreadable(f"nested deeper than {MAX_DEPTH}")
    return value


def are_plain(values: Collection[Any]) -> bool:
    """Return whether JSON writes all values untagged; False may be a false negative.

    Most lists hold texts or numbers of one type, which are checked without a Python loop.
    """
    kinds = set(map(type, values))
    if kinds == {int}:
        return bool(min(values) > -_EXACT and max(values) < _EXACT)
    if kinds == {float}:
        return all(map(math.isfinite, values))
    return kinds <= _AS_THEY_ARE


def tag_scalar(value: Any) -> Any:
    """Return a number, a text or bytes in tagged JSON; subclasses as their builtin."""
    if type(value) is int and -_EXACT < value < _EXACT:
        return value
    return _tag(value, 1)


def load_tagged(tag: str, inner: Any) -> Any:
    """Return the number, text or bytes that a tagged JSON object stands for.

    Raises:
        ValueError: the object is not a tagged value.
    """
    if tag not in ("i", "f", "b", "c"):
        raise ValueError(f"not a tagged value: {tag}")
    return _untag([(tag, inner)])


def _tag(value: Any, depth: int) -> Any:
    """Return `value` in tagged JSON."""
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}: it does not pass by value")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    writer = _WRITERS.get(kind)
    if writer is None:
        writer = next((_WRITERS[base] for base in _BASES if issubclass(kind, base)), None)
    if writer is not None:
        return writer(value, depth - 1)
    if hasattr(kind, "tolist") and hasattr(kind, "dtype"):
        return _tag(value.tolist(), depth - 1)
    raise Opaque(f"a {kind.__name__[:80]} does not pass by value")


def _tag_integer(value: int, _: int) -> Any:
    number = int.__int__(value)
    if -_EXACT < number < _EXACT:
        return number
    if number.bit_length() > 4 * MAX_DIGITS:
        raise ValueError("an integer of that length does not pass by value")
    return {"i": f"{number:x}"}


def _tag_float(value: float, _: int) -> Any:
    number = float.__float__(value)
    return number if math.isfinite(number) else {"f": repr(number)}


def _tag_complex(value: complex, depth: int) -> Any:
    return {"c": [_tag_float(value.real, depth), _tag_float(value.imag, depth)]}


def _tag_dict(value: dict[Any, Any], depth: int) -> Any:
    return {"d": [[_tag(key, depth), _tag(item, depth)] for key, item in dict.items(value)]}


def _tag_all(values: Iterable[Any], depth: int) -> list[Any]:
    return [_tag(item, depth) for item in values]


_WRITERS: dict[type, Callable[[Any, int], Any]] = {
    int: _tag_integer,
    float: _tag_float,
    str: lambda value, _: str.__str__(value),
    list: lambda value, depth: _tag_all(list.__iter__(value), depth),
    tuple: lambda value, depth: {"t": _tag_all(tuple.__iter__(value), depth)},
    dict: _tag_dict,
    set: lambda value, depth: {"s": _tag_all(set.__iter__(value), depth)},
    frozenset: lambda value, depth: {"z": _tag_all(frozenset.__iter__(value), depth)},
    bytes: lambda value, _: {"b": bytes.hex(value)},
    bytearray: lambda value, _: {"b": bytearray.hex(value)},
    complex: _tag_complex,
}
_BASES = tuple(_WRITERS)


def _untag(pairs: list[tuple[str, Any]]) -> Any:
    """Return the value of a tagged JSON object, whose items were read before."""
    if len(pairs) != 1 or pairs[0][0] not in _READERS:
        raise ValueError("not a tagged value")
    (tag, inner), *_ = pairs
    kind, read = _READERS[tag]
    if type(inner) is not kind:
        raise ValueError(f"not a tagged value: {tag}")
    return read(inner)


def _integer(text: str) -> int:
    if len(text) > 17:
        raise ValueError("an integer too long to stand as it is")
    return int(text)


def _finite(text: str) -> float:
    number = float(text) if len(text) < 32 else math.nan
    if not math.isfinite(number):
        raise ValueError("a number too long or too large")
    return number


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _long_integer(text: str) -> int:
    digits = text.removeprefix("-")
    if not 0 < len(digits) <= MAX_DIGITS or not set(digits) <= set("0123456789abcdef"):
        raise ValueError("not an integer")
    return int(text, 16)


def _complex(parts: list[Any]) -> complex:
    real, imaginary = (_untag([*p.items()]) if type(p) is dict else p for p in parts)
    if type(real) is not float or type(imaginary) is not float:
        raise ValueError("not a complex number")
    return complex(real, imaginary)


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
        raise ValueError("not a dict")
    _check_keys(key for key, _ in pairs)
    return dict(pairs)


def _set(items: list[Any]) -> set[Any]:
    _check_keys(items)
    return set(items)


def _check_keys(keys: Iterable[Any]) -> None:
    """Refuse keys that were chosen to collide: inserting a megabyte of them would take minutes."""
    hashes = Counter(map(hash, keys))
    if hashes and max(hashes.values()) > _MAX_COLLISIONS:
        raise ValueError("too many keys with one hash")


_READERS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "i": (str, _long_integer),
    "f": (str, lambda text: _SPECIAL[text] if text in _SPECIAL else _finite(text)),
    "t": (list, tuple),
    "d": (list, _dict),
    "s": (list, _set),
    "z": (list, lambda items: frozenset(_set(items))),
    "b": (str, bytes.fromhex),
    "c": (list, _complex),
    "g": (list, Iterated),
}


def _deeper(value: Any, depth: int) -> bool:
    """Return whether `value` has more than `depth` levels, without recursion."""
    level = [value]
    while level and depth:
        depth -= 1
        nested: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                nested += [*item.keys(), *item.values()]
            elif isinstance(item, (list, tuple, set, frozenset)):
                nested += item
        level = [item for item in nested if isinstance(item, (list, tuple, dict, set, frozenset))]
    return bool(level)
