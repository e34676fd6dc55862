"""A game of TextArena for one player, by its name: Sudoku, FrozenLake, Mastermind and others.

Task: the rules of the game and its current state, in TextArena's words.
Answer: a move in the form of the rules, such as `[up]`: the text after any `<think>` block, or the
text in `<answer>` (`env.answer=tag`).
Reward: `score` is the game's own reward at the end, scaled from `env.return_range` to [0, 1] and
clipped. A game that is not over after `env.turns` answers earns 0.

As in `env=gym`, a game is replayed from its start for every turn. If the first message of a game
does not determine the problem (a number to guess), its problems are `hidden`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from grpo_env_gym.arena_game import ID
from grpo_env_gym.env import GymEnv
from grpo_envs.errors import ConfigError, install, nearest

HIDDEN = ("Bandit", "GuessTheNumber", "Hangman", "Mastermind", "Minesweeper", "Wordle")
"""Games whose first message does not depend on the solution."""


class TextArenaEnv(GymEnv):
    """One game of TextArena, played by the policy alone."""

    def __init__(
        self,
        split: str = "train",
        *,
        game: str = "Sudoku-v0",
        answer: str = "text",
        return_range: list[float] | None = None,
        turns: int | None = None,
        system_prompt: str = "",
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`; they have different seeds, and different first messages if
                there are enough.
            game: A game's name in TextArena, such as `FrozenLake-v0-random`.
            answer: The part that is the move: `text`, all after any think block, or `tag`, the text
                in <answer>.
            return_range: [least, most] of the game's reward; None: [0, 1].
            turns: The most answers of an episode; None: 16.
            system_prompt: The system message of a chat model.
            rewards: Weight of `score`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: the package is missing, or there is no such game for one player.
        """
        known = games()
        if game not in known:
            allowed = "a game of TextArena for one player (docs/textarena.md lists them)"
            raise ConfigError(f"env.game={game}. Allowed: {allowed}.{nearest(str(game), known)}")
        self.hidden = re.split(r"-v\d", game)[0] in HIDDEN
        super().__init__(
            split,
            id=ID,
            kwargs={"game": game},
            answer=answer,
            return_range=return_range,
            turns=turns,
            system_prompt=system_prompt,
            rewards=rewards,
            render_mode=render_mode,
        )


@cache
def games() -> tuple[str, ...]:
    """Return the names of TextArena's games, for any number of players.

    Raises:
        ConfigError: the package cannot be imported.
    """
    try:
        from textarena.envs.registration import ENV_REGISTRY
    except ImportError as error:
        missing = f"env=textarena: {error}. It needs textarena: {install('textarena')}"
        raise ConfigError(missing) from error
    return tuple(sorted(name for name in ENV_REGISTRY if not name.endswith(("-raw", "-train"))))
