"""Values that keep their identity while they pass between a judge and a program.

A message is a root and a table of nodes. Mutable values (lists, dictionaries, sets, arrays,
objects) are nodes; all others are inline, tagged as in `values`. A reply contains the new state of
the nodes of its request, so that changes in place, at any depth, happen on both sides. A function
or an iterator does not pass by value: its node is the number of an entry in its owner's table.
"""

import builtins
import json
from collections.abc import Callable, Sequence
from typing import Any

from grpo_envs.sandbox.forms import FILL, Node, is_array, node_of, read_all, shell, written_all
from grpo_envs.sandbox.values import MAX_DEPTH, Opaque, Unreadable, load_tagged, tag_scalar

_WRITE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_READ = json.JSONDecoder().decode
Export = Callable[[Any], Node | None]
"""Returns the node of something that does not pass by value; None if it cannot pass at all."""
Import = Callable[[Node], Any]
"""Returns the stand-in for such a node of the other side."""


class Unreturnable(Exception):
    """The other side answered with something that does not pass by value."""


class Packer:
    """Writes one message."""

    def __init__(self, export: Export, known: list[Any], *, strict: bool) -> None:
        """Start an empty message.

        Args:
            export: Makes nodes of functions, iterators and objects.
            known: Values that the other side has already, by number in the table.
            strict: Whether something that does not pass raises here, not when it is read.
        """
        self.export = export
        self.strict = strict
        self.objects = list(known)
        self.numbers = {id(value): number for number, value in enumerate(known)}
        self.nodes: list[Node | None] = []

    def pack(self, root: Any, before: list[Node] | None = None) -> str:
        """Return the message for `root`; known nodes that did not change since `before` are null.

        Raises:
            Opaque: `strict` is set, and something does not pass.
            ValueError: tuples are nested deeper than MAX_DEPTH, or an integer is too long.
        """
        written = self.inline(root, MAX_DEPTH)
        while len(self.nodes) < len(self.objects):
            number = len(self.nodes)
            node: Node | None = self._node(self.objects[number])
            if before is not None and number < len(before) and node == before[number]:
                node = None
            self.nodes.append(node)
        return _WRITE([written, self.nodes])

    def inline(self, value: Any, depth: int) -> Any:
        """Return `value` in the form that it has within a node."""
        kind = type(value)
        if kind is list or kind is dict:
            return {"r": self._number(value)}
        if value is None or kind is bool or kind is str:
            return value
        if depth == 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}: it does not pass by value")
        if isinstance(value, (int, float, str, bytes, complex)):
            return tag_scalar(value)
        if isinstance(value, tuple):
            items = [*tuple.__iter__(value)]
            return {"t": written_all(items, lambda item: self.inline(item, depth - 1))}
        if isinstance(value, frozenset):
            return {"z": [self.inline(item, depth - 1) for item in frozenset.__iter__(value)]}
        if kind is range:
            return {"R": [value.start, value.stop, value.step]}
        if isinstance(value, type) and vars(builtins).get(getattr(value, "__name__", "")) is value:
            return {"T": getattr(value, "__name__", "")}
        if hasattr(kind, "tolist") and hasattr(kind, "dtype") and not is_array(value):
            return self.inline(value.tolist(), depth - 1)
        return {"r": self._number(value)}

    def _number(self, value: Any) -> int:
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)  # kept alive, so that its id stays unique
        return number

    def _node(self, value: Any) -> Node:
        node = node_of(value, lambda item: self.inline(item, MAX_DEPTH)) or self.export(value)
        if node is None:
            error = f"a {type(value).__name__[:80]} does not pass by value"
            if self.strict:
                raise Opaque(error)
            return ["?", error]
        if node[0] == "o":
            node[3] = [[key, self.inline(item, MAX_DEPTH)] for key, item in node[3].items()]
        return node


class Unpacker:
    """Reads one message. The text is untrusted; all returned values are made here."""

    def __init__(
        self,
        stand_in: Import,
        known: Sequence[Any] = (),
        sent: Sequence[Node | None] = (),
        *,
        arrays: bool,
    ) -> None:
        """Start without a message.

        Args:
            stand_in: Makes stand-ins for functions, iterators and objects of the other side.
            known: The values that a reply changes in place, by number.
            sent: Their nodes in the request: a value keeps its kind.
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
            Unreadable: the text is not a message.
            Unreturnable: the message has something that does not pass by value.
        """
        try:
            root, self.nodes = _READ(text)
            for number in range(len(self.known)):
                if self.nodes[number] is not None:
                    self._reach(number)
            value = self._inline(root)
            while self.todo:
                self._fill(self.todo.pop())
        except Unreturnable:
            raise
        except Exception as error:  # noqa: BLE001  an untrusted text may cause any error
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
            return tuple(read_all(inner, self._inline))
        if mark == "z":
            return frozenset(read_all(inner, self._inline))
        if mark == "R":
            return range(*inner)
        if mark == "T":
            kind = getattr(builtins, inner)
            if not isinstance(kind, type):
                raise Unreadable("no type")
            return kind
        return load_tagged(mark, inner)

    def _reach(self, number: int) -> Any:
        """Return the value of a node; its items are filled in later."""
        if number in self.made:
            return self.made[number]
        node = self.nodes[number]
        value = self.known[number] if number < len(self.known) else self._shell(node)
        self.made[number] = value
        if node is not None and node[0] in FILL:
            self.todo.append(number)
        return value

    def _shell(self, node: Node) -> Any:
        if node[0] == "?":
            raise Unreturnable(str(node[1])[:120])
        made = shell(node, self._inline, arrays=self.arrays)
        return self.stand_in(node) if made is None else made

    def _fill(self, number: int) -> None:
        node, value = self.nodes[number], self.made[number]
        own = self.sent[number] if number < len(self.known) else node
        if own is None or own[0] != node[0]:
            return  # the other side cannot change it (a function of ours, for example)
        if node[0] != "n" or number < len(self.known):
            FILL[node[0]](value, node, self._inline)
