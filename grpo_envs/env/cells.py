"""Cells of a dataset as text: chat messages, nested names, several columns in one prompt."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_USER, _ASSISTANT, _SYSTEM = "user", "assistant", "system"
_ROLES = {
    "user": _USER,
    "human": _USER,
    "system": _SYSTEM,
    "developer": _SYSTEM,
    "assistant": _ASSISTANT,
    "gpt": _ASSISTANT,
    "model": _ASSISTANT,
    "tool": "tool",
    "function": "tool",
}
"""Names of roles in conversations, and the role that each means."""
_STARTS = ("[{", "{", "[ {", "[\n", "array([{")
_PRINTED = re.compile(r"(array\()?\[\s*\{'(role|content|from|value)': ['\"]")
"""The beginning of messages as pandas writes an array of them into a CSV."""


class Unreadable(Exception):
    """A cell has none of the supported forms; the message says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The content of a prompt cell."""

    prompt: str
    """The text; for several turns their transcript."""
    system: str | None = None
    """The system messages of a conversation; None if there are none."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The turns of a conversation, up to its last user message; () for a text."""


def asked(cell: Any) -> Asked | None:
    """Return the prompt that a cell holds; None if the cell is blank.

    A conversation ends with its last user message: later messages are the answer, and are left out.

    >>> asked([{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]).prompt
    '1+1?'

    Raises:
        Unreadable: the cell is neither text nor a conversation.
    """
    if cell is None:
        return None
    if isinstance(cell, str):
        text = cell.strip()
        messages = _messages_in(text) if text.startswith(_STARTS) else None
        if messages is None:
            return Asked(text) if text else None
        return _of_messages(messages)
    messages = _messages_of(cell)
    if messages is not None:
        return _of_messages(messages)
    if isinstance(cell, list | tuple) and len(cell) == 1 and isinstance(cell[0], str):
        return asked(cell[0])
    return Asked(plain_text(cell))


def plain_text(cell: Any) -> str:
    """Return a cell as stripped text; for a list of numbers its `str`.

    Raises:
        Unreadable: the cell is an object, bytes, or a list of anything else.
    """
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, Mapping):
        names = ", ".join(map(str, cell))[:80]
        raise Unreadable(f"is an object with {names}: name one of them, as in column.name")
    if isinstance(cell, bytes | bytearray):
        raise Unreadable("is bytes and no text")
    if isinstance(cell, list | tuple) and not (cell and all(type(x) in (int, float) for x in cell)):
        raise Unreadable(f"is a list and no text: {str(cell)[:60]}")
    return str(cell).strip()


def _messages_of(cell: Any) -> list[Any] | None:
    """Return the messages of a conversation; None if `cell` is not one."""
    if isinstance(cell, Mapping):
        if "messages" in cell:
            return _messages_of(cell["messages"])
        if "conversations" in cell:
            return _messages_of(cell["conversations"])
        roles, contents = cell.get("role"), cell.get("content")
        if isinstance(roles, list) and isinstance(contents, list) and len(roles) == len(contents):
            return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        return [cell] if _is_message(cell) else None
    if isinstance(cell, list | tuple) and cell and all(map(_is_message, cell)):
        return list(cell)
    return None


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and (
        ("role" in item and "content" in item) or ("from" in item and "value" in item)
    )


def _messages_in(text: str) -> list[Any] | None:
    """Return the messages of a conversation in a text.

    Raises:
        Unreadable: the text is a conversation as NumPy prints it, without commas between messages.
    """
    if not ("role" in text and "content" in text) and not ("from" in text and "value" in text):
        return None
    found = _messages_of(opened(text))
    if found is None and _PRINTED.match(text):
        raise Unreadable(
            "is a printed array of messages, which cannot be read back: write the column as JSON"
        )
    return found


def opened(text: str) -> Any:
    """Return the object or list in a text, written as JSON or as a Python literal; else None."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, Mapping | list) else None
    return None


def _of_messages(messages: Sequence[Mapping[str, Any]]) -> Asked:
    roles = [_role(message) for message in messages]
    shown = (_USER, _SYSTEM)
    texts = [_text(one) if role in shown else "" for role, one in zip(roles, messages, strict=True)]
    asking = [i for i, role in enumerate(roles) if role == _USER and texts[i]]
    if not asking:
        raise Unreadable("has no user message with text")
    turns: list[dict[str, str]] = []
    for role, text, message in list(zip(roles, texts, messages, strict=True))[: asking[-1] + 1]:
        if role == _SYSTEM or (role == _USER and not text):
            continue
        content = text or _earlier(role, message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
    systems = [text for role, text in zip(roles, texts, strict=True) if role == _SYSTEM and text]
    return Asked(transcript(turns), "\n\n".join(systems) or None, tuple(turns))


def transcript(turns: Sequence[Mapping[str, str]]) -> str:
    """Return a conversation as text: one message unchanged, several with their roles.

    >>> transcript([{"role": "user", "content": "1+1?"}])
    '1+1?'
    """
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _role(message: Mapping[str, Any]) -> str:
    role = str(message.get("role", message.get("from"))).lower()
    if role not in _ROLES:
        raise Unreadable(f"has a message of role {role[:40]!r}. Allowed: {', '.join(_ROLES)}")
    return _ROLES[role]


def _text(message: Mapping[str, Any]) -> str:
    return _content(message.get("content", message.get("value")))


def _earlier(role: str, message: Mapping[str, Any]) -> str:
    """Return an assistant's message before the last user message.

    Raises:
        Unreadable: the message is a tool call, or has another role.
    """
    text = "" if role != _ASSISTANT else _text(message)
    if not text or message.get("tool_calls") or message.get("function_call"):
        raise Unreadable(f"has a {role} message before its last user message that is no plain text")
    return text


def _content(content: Any) -> str:
    """Return the text of a message, whose content may be a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list | tuple) else [content]
    texts = []
    for part in parts:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, str):
            texts.append(part)
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise Unreadable(f"has a message with a part that is no text ({str(kind)[:40]})")
    return "\n".join(texts).strip()


def joined(cells: Sequence[Any]) -> Any:
    """Return the cells of several columns as one prompt; None if all are blank.

    Raises:
        Unreadable: a cell is neither text nor a conversation.
    """
    if len(cells) == 1:
        return cells[0]
    found = [one for one in map(asked, cells) if one is not None]
    if any(len(one.messages) > 1 for one in found):
        raise Unreadable("are several columns, one of them a conversation of several turns")
    systems = [one.system for one in found if one.system]
    text = "\n".join(one.prompt for one in found)
    if not systems:
        return text or None
    system = {"role": "system", "content": "\n\n".join(systems)}
    return [system, {"role": "user", "content": text}]


def nested(cell: Any, keys: Sequence[str]) -> Any:
    """Return the value under `keys` in a cell; None if there is none.

    A key is a name in an object or a position in a list; an object may be given
    as JSON or as a Python literal.
    """
    for number, key in enumerate(keys):
        if isinstance(cell, str) and cell.lstrip().startswith(("{", "[")):
            cell = opened(cell)
        if isinstance(cell, Mapping):
            whole = ".".join(keys[number:])
            if whole in cell:  # a name with a dot
                return cell[whole]
            cell = cell.get(key)
        elif isinstance(cell, list | tuple) and key.isdigit() and int(key) < len(cell):
            cell = cell[int(key)]
        else:
            return None
    return cell
