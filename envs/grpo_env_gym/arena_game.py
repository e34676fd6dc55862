"""A single-player game of TextArena as a Gymnasium environment of text."""

from __future__ import annotations

import io
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import gymnasium

from grpo_envs.env.spaces import UnicodeText

ID = "TextArenaGame-v0"
PLAYER = 0
_WRONG_MOVE = -1.0
"""What TextArena pays for a wrong move. Four games of 0.7.4 (Countdown, Cryptarithm, Slitherlink,
ThreeCardMonte) swap the arguments of `set_invalid_move`, so that the reason is the reward."""
_NLTK = re.compile(r"nltk\.download\('(\w+)'\)")
"""In NLTK's error message about a missing corpus."""
_generator = threading.Lock()
"""Held while a game uses the global random generator and stdout: threads may play several games."""


class TextArenaGame(gymnasium.Env[str, str]):
    """One game; `reset` makes it anew, because some games keep their board between games.

    TextArena seeds and reads Python's global random generator. The game swaps in its own state of
    the generator, and restores the state for other code afterwards.
    """

    def __init__(self, game: str) -> None:
        """Make the environment; `reset` makes the game.

        Args:
            game: A name of TextArena's registry.
        """
        self.game = game
        self.observation_space = self.action_space = UnicodeText()
        self._random = random.getstate()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        """Begin a game."""
        super().reset(seed=seed, options=options)
        with self._own_random():
            self._begin(seed)
            return self._seen(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a turn; the reward is paid at the end."""
        with self._own_random():
            done, _ = self.play.step(action)
            if not done:
                return self._seen(), 0.0, False, False, {}
            rewards, _ = self.play.close()
        about = self.play.state.game_info[PLAYER]
        paid = (rewards or {}).get(PLAYER, 0.0)
        if isinstance(paid, str) and about.get("invalid_move"):
            return paid, _WRONG_MOVE, True, False, {}
        return str(about.get("reason") or ""), float(paid), True, False, {}

    def _begin(self, seed: int | None) -> None:
        import textarena  # imported here: registering the game does not need it

        try:
            random.seed(seed)  # some draw their puzzle before `reset` seeds them
            self.play = textarena.make(self.game)
            self.play.reset(num_players=1, seed=seed)
        except LookupError as error:
            missing = _NLTK.search(str(error))
            if missing is None:
                raise
            name = missing[1]
            remedy = f"python -m nltk.downloader {name}"
            raise RuntimeError(f"{self.game} needs the words of NLTK: {remedy}") from error

    def _seen(self) -> str:
        _, observation = self.play.get_observation()
        return str(observation)

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        with _generator:
            others = random.getstate()
            random.setstate(self._random)
            try:
                with redirect_stdout(io.StringIO()):  # some games print while making a puzzle
                    yield
            finally:
                self._random = random.getstate()
                random.setstate(others)


gymnasium.register(ID, entry_point=f"{__name__}:{TextArenaGame.__name__}")
