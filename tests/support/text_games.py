"""Plain Gymnasium environments of text, for the tests of env=gym: nothing of ours is in them."""

import math
import random
import sys
from typing import Any

import gymnasium
from gymnasium import spaces

_PRINTABLE = "".join(map(chr, range(32, 127)))


class Reverse(gymnasium.Env[str, str]):
    """One answer: a word backwards."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012  as Gymnasium has it

    def __init__(self, length: int = 5, render_mode: str | None = None) -> None:
        self.length = length
        self.render_mode = render_mode
        self.observation_space = spaces.Text(100, min_length=0, charset=_PRINTABLE)
        self.action_space = spaces.Text(20, charset="abcdefghijklmnopqrstuvwxyz")
        self.word = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        letters = self.np_random.choice(list("abcdefghij"), size=self.length)
        self.word = "".join(letters)
        return f"Reverse {self.word}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        return "", float(action == self.word[::-1]), True, False, {}


class Guess(gymnasium.Env[str, str]):
    """A number to find: -1 for each wrong guess, 10 for the right one. It opens always the same."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.observation_space = spaces.Text(100, min_length=0, charset=_PRINTABLE)
        self.action_space = spaces.Text(3, charset="0123456789")
        self.number = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(1, self.most + 1))
        return f"Find my number, 1 to {self.most}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        guess = int(action)
        if guess == self.number:
            return "Right.", 10.0, True, False, {}
        return "Higher." if guess < self.number else "Lower.", -1.0, False, False, {}


class Faulty(Reverse):
    """It raises for one word."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "boom":
            raise RuntimeError("broken inside")
        return super().step(action)


class Forgetful(Reverse):
    """It forgets its seed."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        return super().reset(seed=None, options=options)


class Quirky(Reverse):
    """Two turns, with one thing that it does wrong: `quirk`."""

    def __init__(self, quirk: str = "") -> None:
        super().__init__()
        self.quirk = quirk
        self.resets = self.turn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        text, info = super().reset(seed=seed)
        self.resets += 1
        self.turn = 0
        if self.quirk == "exit in reset" and self.resets > 60:
            raise SystemExit(3)
        if self.quirk == "global random":
            self.word = "".join(random.sample("abcdefghij", 5))
            return f"Reverse {self.word}.", info
        return f"{self.resets} {text}" if self.quirk == "counts resets" else text, info

    def step(  # noqa: C901  a case for each quirk
        self, action: str
    ) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        self.turn += 1
        last = self.turn == 2
        said = "Again." if not last else ""
        odd = self.resets % 2 == 1
        match self.quirk:
            case "exit in step" if last:
                raise SystemExit("over")
            case "exit at once":
                sys.exit()
            case "cancelled":
                raise GeneratorExit
            case "Ctrl-C":
                raise KeyboardInterrupt
            case "other words" if not last:
                said = "Once more."
            case "random answers":
                said = f"{random.random()} Again."
            case "random last answer" if last:
                said = f"{random.random()}"
            case "random end":
                last = last or odd
            case "truncates at random":
                return said, 0.0, last and odd, last and not odd, {}
            case "random reward":
                return said, float(odd and last), last, False, {}
            case "None" | "inf" | "-inf" | "nan" | "huge" | "1" | "1j" if last:
                return said, _ODD_REWARDS[self.quirk], last, False, {}
        return said, float(last and action == self.word[::-1]), last, False, {}


_ODD_REWARDS = {
    "None": None,
    "inf": math.inf,
    "-inf": -math.inf,
    "nan": math.nan,
    "huge": 10**400,
    "1": "1",
    "1j": 1j,
}


gymnasium.register("text_games/Reverse-v0", entry_point=f"{__name__}:Reverse")
gymnasium.register("text_games/Guess-v0", entry_point=f"{__name__}:Guess", max_episode_steps=7)
gymnasium.register("text_games/Faulty-v0", entry_point=f"{__name__}:Faulty")
gymnasium.register("text_games/Forgetful-v0", entry_point=f"{__name__}:Forgetful")
gymnasium.register("text_games/Quirky-v0", entry_point=f"{__name__}:Quirky")
