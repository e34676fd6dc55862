"""Games behind OpenEnv's protocol, of somebody who knows nothing of us; each has its quirks."""

from __future__ import annotations

import os
import random
from typing import Any

from tests.support.openenv_stand_in import StandIn, Told, schema

WORDS = schema({"answer": {"type": "string"}}, "question", "score")
NUMBER = schema({"guess": {"type": "integer", "minimum": 1, "maximum": 100}}, "text", "hints")
TOOLS = schema(
    {
        "type": {"const": "call_tool"},
        "tool_name": {"type": "string"},
        "arguments": {"type": "object"},
    },
    *("tool_name", "result", "error"),
    needed=("tool_name",),
)


class Words:
    """One answer: a word backwards."""

    def __init__(self, quirk: str = "") -> None:
        self.quirk, self.word = quirk, ""

    def reset(self, seed: int | None = None, length: int = 5) -> Told:
        if self.quirk == "ignores seeds":
            seed = None
        if self.quirk == "refuses resets":
            raise ValueError("no\ndata")
        rng = random.Random(seed)
        self.word = "".join(rng.choice("abcdefghij") for _ in range(length))
        question = "" if self.quirk == "says nothing" else f"Reverse {self.word}."
        return {"question": question, "score": None, "reward": 0.0}

    def step(self, action: Told) -> Told:
        if self.quirk == "raises":
            raise RuntimeError("broken inside")
        earned: Any = float(action["answer"] == self.word[::-1])
        if self.quirk == "random rewards":
            earned = random.random()
        reward = _ODD.get(self.quirk, earned)
        return {"question": None, "score": earned, "reward": reward, "done": True}


_ODD: dict[str, Any] = {"null": None, "nan": float("nan"), "text": "1", "true": True}


class Number:
    """A number from 1 to 100 to find: -1 for each wrong guess, 10 for it. All games open alike."""

    def __init__(self, quirk: str = "") -> None:
        self.quirk, self.number, self.turn = quirk, 0, 0

    def reset(self, seed: int | None = None) -> Told:
        self.number = random.Random(None if self.quirk == "ignores seeds" else seed).randint(1, 100)
        self.turn = 0
        return {"text": "Find my number.", "hints": [{"content": "It is"}, {"content": "whole."}]}

    def step(self, action: Told) -> Told:
        self.turn += 1
        if self.quirk == "random replies":
            return {"text": os.urandom(4).hex(), "hints": [], "reward": 0.0}
        if action["guess"] == self.number:
            return {"text": "Right.", "hints": [], "reward": 10, "done": True}
        text = "Higher." if action["guess"] < self.number else "Lower."
        reward = None if self.quirk == "pays at the end" else -1
        return {"text": text, "hints": [], "reward": reward, "done": self.quirk == "short"}


class Tools:
    """Two tools; the second call of `submit` ends the episode, the first is not paid."""

    _TOOLS = ({"name": "add", "description": "Adds.", "input_schema": {"type": "object"}},)

    def __init__(self) -> None:
        self.goal = 0

    def reset(self, seed: int | None = None) -> Told:
        self.goal = random.Random(seed).randint(1, 1000)
        return {"metadata": {"task": f"Submit {self.goal}."}}

    def step(self, action: Told) -> Told:
        if action.get("type") == "list_tools":
            return {"tools": list(self._TOOLS)}
        name, given = action["tool_name"], action.get("arguments", {})
        if name == "add":
            text = {"content": [{"type": "text", "text": str(given["a"] + given["b"])}]}
            return {"tool_name": name, "result": text, "error": None, "reward": 0.0}
        if name == "submit":
            right = float(given.get("value") == self.goal)
            return {
                "tool_name": name,
                "result": "done",
                "error": None,
                "reward": right,
                "done": True,
            }
        unknown = {"error_type": "tool_not_found", "message": f"no tool {name!r}"}
        return {"tool_name": name, "result": None, "error": unknown, "reward": 0.0}


def words(quirk: str = "", *, room: int = 256) -> StandIn:
    """Return a server of `Words`."""
    return StandIn(lambda: Words(quirk), WORDS, room=room)


def number(quirk: str = "") -> StandIn:
    """Return a server of `Number`."""
    return StandIn(lambda: Number(quirk), NUMBER)


def tools() -> StandIn:
    """Return a server of `Tools`."""
    return StandIn(Tools, TOOLS)
