"""Values that keep their identity while they pass between a judge and a program.

A message is a root and a table of nodes: what can change (lists, dictionaries, sets, arrays,
objects) is a node, all else stands inline as `values` tags it. A reply tells what has become of
the nodes of its request, so that a change in place, however deep, happens on both sides. What has
no value, a function or an iterator, is a node that names an entry of its owner's table.
"""

import builtins
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from grpo_envs.sandbox.values import MAX_DEPTH, Opaque, Unreadable, load_tagged, tag_scalar

_ARRAY_KINDS = "biufcSU"
_BY_TEXT = {
    "Decimal": ("decimal", "Decimal"),
    "Fraction": ("fractions", "Fraction"),
}
_BY_FORM = {"date": "date", "datetime": "datetime", "time": "time"}
Node = list[Any]
Export = Callable[[Any], Node | None]
"""Returns the node of a thing that has no value, None where it does not pass."""
Import = Callable[[Node], Any]
"""Returns what stands here for such a node of the other side."""


class Unreturnable(Exception):
    """The other side answered with what does not pass by value."""


class Packer:
    """Writes one message."""

    def __init__(self, export: Export, known: list[Any], *, strict: bool) -> None:
        """Begin.

        Args:
            export: Makes nodes of functions, iterators and objects.
            known: What the other side has already, by its number in the table.
            strict: Whether what does not pass raises here, not where it is read.
        """
        self.export = export
        self.strict = strict
        self.objects = list(known)
        self.numbers = {id(value): number for number, value in enumerate(known)}
        self.nodes: list[Node | None] = []

    def pack(self, root: Any, before: list[Node] | None = None) -> str:
        """Return the message for `root`; known nodes that are as they were `before` are null.

        Raises:
            Opaque: `strict`, and something does not pass.
            ValueError: tuples are nested deeper than MAX_DEPTH, or an integer is too long.
        """
        written = self.inline(root, MAX_DEPTH)
        while len(self.nodes) < len(self.objects):
            number = len(self.nodes)
            node: Node | None = self._node(self.objects[number])
            if before is not None and number < len(before) and node == before[number]:
                node = None
            self.nodes.append(node)
        return json.dumps([written, self.nodes], separators=(",", ":"), allow_nan=False)

    def inline(self, value: Any, depth: int) -> Any:
        """Return `value` as it stands within a node."""
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if depth == 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}: it does not pass by value")
        if isinstance(value, (int, float, str, bytes, complex)):
            return tag_scalar(value)
        if isinstance(value, tuple):
            return {"t": [self.inline(item, depth - 1) for item in tuple.__iter__(value)]}
        if isinstance(value, frozenset):
            return {"z": [self.inline(item, depth - 1) for item in frozenset.__iter__(value)]}
        if kind is range:
            return {"R": [value.start, value.stop, value.step]}
        if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
            return {"T": value.__name__}
        if hasattr(kind, "tolist") and hasattr(kind, "dtype") and not _is_array(value):
            return self.inline(value.tolist(), depth - 1)
        return {"r": self._number(value)}

    def _number(self, value: Any) -> int:
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # kept, so that no other object gets its id
        return number

    def _node(self, value: Any) -> Node:
        every, deep = self.inline, MAX_DEPTH
        if isinstance(value, list):
            return ["l", [every(item, deep) for item in list.__iter__(value)]]
        if isinstance(value, dict):
            return ["d", [[every(k, deep), every(v, deep)] for k, v in dict.items(value)]]
        if isinstance(value, set):
            return ["s", [every(item, deep) for item in set.__iter__(value)]]
        if isinstance(value, bytearray):
            return ["y", bytearray.hex(value)]
        if _is_array(value):
            flat = [every(item, deep) for item in value.reshape(-1).tolist()]
            return ["n", value.dtype.str, list(value.shape), flat]
        name = type(value).__name__
        if name == "deque" and type(value).__module__ == "collections":
            return ["q", [every(item, deep) for item in value], value.maxlen]
        if name in _BY_TEXT and type(value).__module__ == _BY_TEXT[name][0]:
            return ["x", name, str(value)]
        if name in _BY_FORM and type(value).__module__ == "datetime":
            return ["x", name, value.isoformat()]
        node = self.export(value)
        if node is None:
            error = f"a {name[:80]} does not pass by value"
            if self.strict:
                raise Opaque(error)
            return ["?", error]
        if node[0] == "o":
            node[3] = [[key, every(item, deep)] for key, item in node[3].items()]
        return node


class Unpacker:
    """Reads one message. What it says may be anything; what is returned was made here."""

    def __init__(
        self,
        stand_in: Import,
        known: Sequence[Any] = (),
        sent: Sequence[Node | None] = (),
        *,
        arrays: bool,
    ) -> None:
        """Begin.

        Args:
            stand_in: Makes what stands for functions, iterators and objects of the other side.
            known: The values that a reply is about, by number; they are changed in place.
            sent: Their nodes in the request: a value stays of its kind.
            arrays: Whether arrays of numpy become arrays, not lists.
        """
        self.stand_in = stand_in
        self.known = known
        self.sent = sent
        self.arrays = arrays
        self.nodes: list[Any] = []
        self.made: dict[int, Any] = {}
        self.todo: list[int] = []

    def unpack(self, text: str) -> Any:
        """Return the root.

        Raises:
            Unreadable: it is no message.
            Unreturnable: it holds what does not pass by value.
        """
        try:
            root, self.nodes = json.loads(text, object_pairs_hook=_pairs)
            for number in range(len(self.known)):
                if self.nodes[number] is not None:
                    self._reach(number)
            value = self._inline(root)
            while self.todo:
                self._fill(self.todo.pop())
        except Unreturnable:
            raise
        except Exception as error:  # noqa: BLE001  whatever an untrusted text leads to
            raise Unreadable(f"no message: {error!r}"[:200]) from None
        return value

    def table(self) -> tuple[list[Any], list[Node]]:
        """Return the values of all nodes, by number, and the nodes."""
        for number in range(len(self.nodes)):
            self._reach(number)
        while self.todo:
            self._fill(self.todo.pop())
        return [self.made[number] for number in range(len(self.nodes))], self.nodes

    def _inline(self, item: Any) -> Any:
        if type(item) is not dict:
            return item
        ((mark, inner),) = item.items()
        if mark == "r":
            return self._reach(inner)
        if mark == "t":
            return tuple([self._inline(part) for part in inner])
        if mark == "z":
            return frozenset([self._inline(part) for part in inner])
        if mark == "R":
            return range(*inner)
        if mark == "T":
            kind = getattr(builtins, inner)
            if not isinstance(kind, type):
                raise Unreadable("no type")
            return kind
        return load_tagged(mark, inner)

    def _reach(self, number: int) -> Any:
        """Return the value of a node; what is in it follows."""
        if number in self.made:
            return self.made[number]
        node = self.nodes[number]
        value = self.known[number] if number < len(self.known) else self._shell(node)
        self.made[number] = value
        if node is not None and node[0] in _FILLED:
            self.todo.append(number)
        return value

    def _shell(self, node: Node) -> Any:
        kind = node[0]
        if kind in _SHELLS:
            return _SHELLS[kind]()
        if kind == "y":
            return bytearray.fromhex(node[1])
        if kind == "n":
            return _array([self._inline(item) for item in node[3]], node, arrays=self.arrays)
        if kind == "q":
            return _module("collections").deque((), node[2])
        if kind == "x":
            return _constructed(node[1], node[2])
        if kind == "?":
            raise Unreturnable(str(node[1])[:120])
        return self.stand_in(node)

    def _fill(self, number: int) -> None:
        node, value = self.nodes[number], self.made[number]
        kind = node[0]
        own = self.sent[number] if number < len(self.known) else node
        if own is None or own[0] != kind:
            return  # a function of ours, say, is no object that the other side could change
        if kind in ("l", "q"):
            items = [self._inline(item) for item in node[1]]
            if isinstance(value, list):
                value[:] = items
            else:
                value.clear()
                value.extend(items)
        elif kind == "d":
            pairs = [(self._inline(key), self._inline(item)) for key, item in node[1]]
            value.clear()
            value.update(pairs)
        elif kind == "s":
            members = [self._inline(item) for item in node[1]]
            value.clear()
            value.update(members)
        elif kind == "y":
            value[:] = bytearray.fromhex(node[1])
        elif kind == "n" and number < len(self.known):
            value[...] = _array([self._inline(item) for item in node[3]], node, arrays=True)
        elif kind == "o" and not getattr(type(value), "stands_for_other", False):
            for key, item in node[3]:
                if type(key) is str and key[:2] + key[-2:] != "____":  # never __class__
                    object.__setattr__(value, key, self._inline(item))


_SHELLS: dict[str, Callable[[], Any]] = {"l": list, "d": dict, "s": set}
_FILLED = "ldsqyno"


def attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, those of its slots too."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                found[name] = getattr(value, name)
    return {name: item for name, item in found.items() if type(name) is str}


def is_iterator(value: Any) -> bool:
    """Return whether `value` gives its items one by one."""
    return isinstance(value, Iterator) and not isinstance(value, type)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != 1:
        raise Unreadable("not a tagged value")
    return dict(pairs)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    array = getattr(numpy, "ndarray", None)
    if not isinstance(array, type) or type(value) is not array:
        return False
    return bool(value.dtype.kind in _ARRAY_KINDS)


def _array(flat: list[Any], node: Node, *, arrays: bool) -> Any:
    _, dtype, shape, _ = node
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise Unreadable("no shape")
        count *= size
    if count != len(flat) or len(shape) > MAX_DEPTH or dtype[1:2] not in _ARRAY_KINDS:
        raise Unreadable("no array")
    if arrays:
        numpy = _module("numpy")
        return numpy.array(flat, dtype=numpy.dtype(str(dtype))).reshape(shape)
    if not count and len(shape) > 1:
        return [[] for _ in range(min(shape[0], MAX_DEPTH))]
    for size in reversed(shape[1:]):
        flat = [flat[at : at + size] for at in range(0, len(flat), size)]
    return flat if shape else flat[0]


def _constructed(name: str, text: str) -> Any:
    if name in _BY_TEXT:
        module, kind = _BY_TEXT[name]
        return getattr(_module(module), kind)(str(text))
    return getattr(_module("datetime"), _BY_FORM[name]).fromisoformat(text)


def _module(name: str) -> Any:
    __import__(name)
    return sys.modules[name]
