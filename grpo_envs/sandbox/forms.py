"""The kinds of values that pass as nodes, see `passing`: writing, making and filling each."""

import importlib
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

from grpo_envs.sandbox.values import MAX_DEPTH, are_plain

ARRAY_KINDS = "biufcSU"
_BY_TEXT = {"Decimal": "decimal", "Fraction": "fractions"}
_BY_FORM = ("date", "datetime", "time")
Node = list[Any]
Inline = Callable[[Any], Any]


def node_of(value: Any, every: Inline) -> Node | None:
    """Return the node of a value, None if it has none of these kinds; `every` writes items."""
    for kind, written in _WRITERS.items():
        if isinstance(value, kind):
            return written(value, every)
    if is_array(value):
        flat = written_all(value.reshape(-1).tolist(), every)
        return ["n", value.dtype.str, list(value.shape), flat]
    name, module = type(value).__name__, type(value).__module__
    if name == "deque" and module == "collections":
        return ["q", [every(item) for item in value], value.maxlen]
    if module == _BY_TEXT.get(name):
        return ["x", name, str(value)]
    if name in _BY_FORM and module == "datetime":
        return ["x", name, value.isoformat()]
    return None


def shell(node: Node, read: Inline, *, arrays: bool) -> Any:
    """Return the value of a node, empty if `FILL` fills it later; None for other kinds."""
    kind = node[0]
    if kind in _EMPTY:
        return _EMPTY[kind]()
    if kind == "y":
        return bytearray.fromhex(node[1])
    if kind == "n":
        return array(read_all(node[3], read), node, arrays=arrays)
    if kind == "q":
        return _module("collections").deque((), node[2])
    return constructed(node[1], node[2]) if kind == "x" else None


def written_all(items: Collection[Any], every: Inline) -> list[Any]:
    """Return items in the form that they have within a node."""
    return [*items] if are_plain(items) else [every(item) for item in items]


def read_all(items: list[Any], read: Inline) -> list[Any]:
    """Return the values of items within a node."""
    return [read(item) for item in items] if dict in set(map(type, items)) else items


def _fill_list(value: Any, node: Node, read: Inline) -> None:
    value[:] = read_all(node[1], read)


def _fill_deque(value: Any, node: Node, read: Inline) -> None:
    items = read_all(node[1], read)
    value.clear()
    value.extend(items)


def _fill_dict(value: Any, node: Node, read: Inline) -> None:
    pairs = [(read(key), read(item)) for key, item in node[1]]
    value.clear()
    value.update(pairs)


def _fill_set(value: Any, node: Node, read: Inline) -> None:
    members = read_all(node[1], read)
    value.clear()
    value.update(members)


def _fill_array(value: Any, node: Node, read: Inline) -> None:
    value[...] = array(read_all(node[3], read), node, arrays=True)


def _fill_bytes(value: Any, node: Node, _: Inline) -> None:
    value[:] = bytearray.fromhex(node[1])


def _fill_object(value: Any, node: Node, read: Inline) -> None:
    if getattr(type(value), "stands_for_other", False):
        return
    for key, item in node[3]:
        if type(key) is str and key[:2] + key[-2:] != "____":  # never __class__
            object.__setattr__(value, key, read(item))


_WRITERS: dict[type, Callable[[Any, Inline], Node]] = {
    list: lambda value, every: ["l", written_all([*list.__iter__(value)], every)],
    dict: lambda value, every: ["d", [[every(k), every(v)] for k, v in dict.items(value)]],
    set: lambda value, every: ["s", written_all([*set.__iter__(value)], every)],
    bytearray: lambda value, _: ["y", bytearray.hex(value)],
}
_EMPTY: dict[str, Callable[[], Any]] = {"l": list, "d": dict, "s": set}
FILL: dict[str, Callable[[Any, Node, Inline], None]] = {
    "l": _fill_list,
    "d": _fill_dict,
    "s": _fill_set,
    "q": _fill_deque,
    "y": _fill_bytes,
    "n": _fill_array,
    "o": _fill_object,
}
"""Functions that put the items of a node into its value, which may exist already."""


def attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, including slots."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                found[name] = getattr(value, name)
    return {name: item for name, item in found.items() if type(name) is str}


def is_iterator(value: Any) -> bool:
    """Return whether `value` is an iterator."""
    return isinstance(value, Iterator) and not isinstance(value, type)


def is_array(value: Any) -> bool:
    """Return whether `value` is an array of numpy that passes as one."""
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)
    return kind is not None and type(value) is kind and value.dtype.kind in ARRAY_KINDS


def array(flat: list[Any], node: Node, *, arrays: bool) -> Any:
    """Return the array of a node, or lists; ValueError if it is not an array."""
    _, dtype, shape, _ = node
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError("no shape")
        count *= size
    if count != len(flat) or len(shape) > MAX_DEPTH or dtype[1:2] not in ARRAY_KINDS:
        raise ValueError("no array")
    if arrays:
        numpy = _module("numpy")
        return numpy.array(flat, dtype=numpy.dtype(str(dtype))).reshape(shape)
    if not count and len(shape) > 1:
        return [[] for _ in range(min(shape[0], MAX_DEPTH))]
    for size in reversed(shape[1:]):
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat if shape else flat[0]


def constructed(name: str, text: str) -> Any:
    """Return a number or a date of the standard library."""
    if name in _BY_TEXT:
        return getattr(_module(_BY_TEXT[name]), name)(str(text))
    if name not in _BY_FORM:
        raise ValueError("no such kind")
    return getattr(_module("datetime"), name).fromisoformat(text)


def _module(name: str) -> Any:
    return importlib.import_module(name)
