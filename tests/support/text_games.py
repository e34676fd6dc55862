"""Plain Gymnasium environments of text, for the tests of env=gym: nothing of ours is in them."""

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


gymnasium.register("text_games/Reverse-v0", entry_point=f"{__name__}:Reverse")
gymnasium.register("text_games/Guess-v0", entry_point=f"{__name__}:Guess", max_episode_steps=7)
gymnasium.register("text_games/Faulty-v0", entry_point=f"{__name__}:Faulty")
gymnasium.register("text_games/Forgetful-v0", entry_point=f"{__name__}:Forgetful")
