"""Stand-ins in the tests for functions, classes and objects of the program."""

from typing import Any


class Stub:
    """A function or a class of the program, or a member of one."""

    stands_for_other = True

    def __init__(self, peer: Any, base: Any, member: str | None = None) -> None:
        """Stand for the program's object `base`, or for a member of it."""
        own = {"__peer__": peer, "__base__": base, "__member__": member}
        self.__dict__.update(own, __name__=member or str(base).rpartition(".")[2])

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        """Call the program's function; its changes of arguments are applied to ours."""
        peer = self.__dict__["__peer__"]
        return peer.call(
            self.__dict__["__base__"], self.__dict__["__member__"], arguments, keywords
        )

    def __getattr__(self, name: str) -> Any:
        if name[:2] + name[-2:] == "____" or self.__dict__["__member__"] is not None:
            raise AttributeError(f"{self.__name__} has no {name} that passes by value")
        return self.__dict__["__peer__"].member(self.__dict__["__base__"], name)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind like a function: as an attribute of a class of the tests, get the object first."""
        if instance is None or self.__dict__["__member__"] is not None:
            return self
        return lambda *arguments, **keywords: self(instance, *arguments, **keywords)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and value.__kind__ == self.__dict__["__base__"]


class Remote:
    """An object that the tests made from a class of the program.

    It is equal only to itself: an object that equals everything would pass every test.
    """

    stands_for_other = True
    __hash__ = object.__hash__

    def __init__(self, peer: Any, place: int, kind: str) -> None:
        """Stand for the object number `place` of the program."""
        self.__dict__.update({"__peer__": peer, "__place__": place, "__kind__": kind})

    def __getattr__(self, name: str) -> Any:
        if name[:2] + name[-2:] == "____":
            raise AttributeError(name)
        return self.__dict__["__peer__"].member(self.__dict__["__place__"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["__peer__"].do("set", self.__dict__["__place__"], name, value)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        raise TypeError(f"a {self.__dict__['__kind__']} of the program cannot be compared")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        own = self.__dict__
        return own["__peer__"].do("truth", own["__place__"], None)[1] is True


def _forwarded(name: str) -> Any:
    def method(self: Remote, *arguments: Any, **keywords: Any) -> Any:
        own = self.__dict__
        return own["__peer__"].call(own["__place__"], name, arguments, keywords)

    return method


for _name in ("call", "contains", "delitem", "getitem", "iter", "len", "next", "repr", "setitem"):
    setattr(Remote, f"__{_name}__", _forwarded(f"__{_name}__"))
for _name in ("add", "enter", "exit", "mul", "neg", "str", "sub", "truediv"):
    setattr(Remote, f"__{_name}__", _forwarded(f"__{_name}__"))
