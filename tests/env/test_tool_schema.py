"""From functions to schemas, which are compared with what Transformers makes of them."""

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest
from transformers.utils.chat_template_utils import get_json_schema

from grpo_envs.env.tool_schema import tool_from, tool_of_schema
from grpo_envs.errors import ConfigError
from grpo_envs.types import Tool


def plain(a: int, b: float, c: str, d: bool) -> str:
    """Do something.

    Args:
        a: A whole number.
        b: A number.
        c: A text.
        d: Yes or no.
    """
    return ""


def optional(a: int, b: str = "x", c: int | None = None) -> str:
    """Do something else,
    in two lines.

    Args:
        a: It has a colon: this one.
        b: It goes on
            in another line.
        c: Or nothing.

    Returns:
        a: This is no parameter.
    """
    return ""


def nested(rows: list[dict[str, int]], names: list[str]) -> None:
    """Take rows.

    Args:
        rows: Numbers by name.
        names: Their names.
    """


@pytest.mark.parametrize("function", [plain, optional, nested])
def test_the_schema_is_that_of_transformers(function: Callable[..., Any]) -> None:
    theirs = get_json_schema(function)["function"]
    ours = tool_from(function)
    properties = {
        name: {k: v for k, v in each.items() if k != "nullable"}
        for name, each in theirs["parameters"]["properties"].items()
    }
    assert ours.name == theirs["name"]
    assert ours.description == " ".join(theirs["description"].split())
    assert ours.parameters.get("required") == theirs["parameters"].get("required")
    assert {k: v["description"] for k, v in ours.parameters["properties"].items()} == {
        k: " ".join(v["description"].split()) for k, v in properties.items()
    }
    if function is not optional:  # an optional one may be null: Transformers writes `nullable`
        assert ours.parameters["properties"] == properties


def rest(state: Any, a: int, b: "str | None" = None) -> None:
    """Do it.

    :param a: The first,
        which goes on.
    :param str b: The second.
    :returns: Nothing
        at all.
    """


def test_a_docstring_of_rest_is_read_and_the_state_is_left_out() -> None:
    assert tool_from(rest).parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "The first, which goes on."},
            "b": {"type": ["string", "null"], "description": "The second."},
        },
        "required": ["a"],
    }


NUMPY = """Do it.

Parameters
----------
a : int, optional
    It has a colon: this one.

    And a paragraph.
b
    The second.

Returns
-------
int
    A number.
"""
GOOGLE = """Do it.

Args:
    a (list(int)): It has a colon: this one.
        And a line.

Keyword Args:
    b: The second.

See Also:
    another
"""


@pytest.mark.parametrize(
    ("docstring", "more"), [(NUMPY, "And a paragraph."), (GOOGLE, "And a line.")], ids=["numpy", ""]
)
def test_a_docstring_of_another_style_is_read(docstring: str, more: str) -> None:
    def f(a: int, *, b: str) -> None: ...

    f.__doc__ = docstring
    tool = tool_from(f)
    assert tool.description == "Do it."
    assert {name: each["description"] for name, each in tool.parameters["properties"].items()} == {
        "a": f"It has a colon: this one. {more}",
        "b": "The second.",
    }


class Looks:
    """A callable object."""

    def __call__(self, word: str) -> str:
        """Look a word up.

        Args:
            word: It.
        """
        return word


def test_a_callable_object_is_described_by_its_method() -> None:
    tool = tool_from(Looks())
    assert (tool.name, tool.description) == ("Looks", "Look a word up.")
    assert tool.parameters["properties"] == {"word": {"type": "string", "description": "It."}}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (Any, {}),
        (list, {"type": "array"}),
        (Sequence[int], {"type": "array", "items": {"type": "integer"}}),
        (dict, {"type": "object"}),
        (Mapping[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Annotated[int, "whole"], {"type": "integer"}),
        (int | str, {"type": ["integer", "string"]}),
        (
            list[int] | None,
            {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
        ),
    ],
    ids=str,
)
def test_a_type_hint(hint: Any, schema: dict[str, Any]) -> None:
    def f(x: Any) -> None:
        """Do it.

        Args:
            x: It.
        """

    f.__annotations__["x"] = hint
    assert tool_from(f).parameters["properties"]["x"] == {**schema, "description": "It."}


def no_docstring(a: int) -> None: ...


def no_hint(a) -> None:  # type: ignore[no-untyped-def]
    """Do it.

    Args:
        a: It.
    """


def no_description(price: int) -> None:
    """Do it."""


def empty_description(price: int) -> None:
    """Do it.

    Args:
        price:
    """


def misspelt(price: int) -> None:
    """Do it.

    Args:
        prise: It.
    """


class Colour(enum.Enum):
    RED = 1


def a_member(a: Literal[Colour.RED]) -> None:
    """Do it.

    Args:
        a: It.
    """


def any_number(*a: int) -> None:
    """Do it."""


def a_set(a: set[int]) -> None:
    """Do it.

    Args:
        a: It.
    """


def a_class(a: "Unknown") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Do it.

    Args:
        a: It.
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "tool no_docstring: no docstring that tells the model what the tool does."),
        (functools.partial(plain), "tools: functools.partial(<function plain at 0x"),
        (empty_description, "tool empty_description: the docstring does not describe parameter p"),
        (
            misspelt,
            "tool misspelt: the docstring does not describe parameter price. Allowed: a line "
            "`price: ...` under `Args:`, or `:param price: ...`. Did you mean 'prise'?",
        ),
        (a_member, "tool a_member: parameter a has the type hint typing.Literal[<Colour.RED: 1>]."),
        (no_hint, "tool no_hint: parameter a has no type hint. Allowed: str, int,"),
        (
            no_description,
            "tool no_description: the docstring does not describe parameter price. Allowed: a "
            "line `price: ...` under `Args:`, or `:param price: ...`.",
        ),
        (any_number, "tool any_number: *a. Allowed: parameters with a name and a type."),
        (a_set, "tool a_set: parameter a has the type hint set[int]. Allowed: str, int,"),
        (a_class, "tool a_class: a type hint cannot be read: name 'Unknown' is not defined."),
    ],
)
def test_what_is_missing_is_named(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tool_from(function)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_schema_of_openai_is_taken(wrapped: bool) -> None:
    about = {"name": "f", "description": "It.", "parameters": {"type": "object"}}
    given = {"type": "function", "function": about} if wrapped else about
    tool = tool_of_schema(given)
    assert tool == Tool(name="f", description="It.", parameters={"type": "object"})
    assert tool_of_schema(tool) is tool


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "tool schema {}. Allowed: "),
        ({"name": "a b"}, "tool a b: not a name for a tool. Allowed: letters,"),
        ({"name": "f", "parameters": {"type": "array"}}, "tool f: its parameters are not a"),
        (
            {"name": "f", "parameters": {"type": "thing"}},
            "tool f: its parameters are not a JSON Schema: 'thing' is not",
        ),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_used_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tool_of_schema(given)
    assert str(caught.value).startswith(message)
