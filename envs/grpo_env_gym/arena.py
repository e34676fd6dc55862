"""A game of TextArena for one player, by its name: Sudoku, FrozenLake, Mastermind and others.

Task: the rules of the game and where it stands, as TextArena tells them.
Answer: a move in the form that the rules ask for, such as `[up]`; what follows any `<think>` block,
or what stands in `<answer>` (`env.answer=tag`).
Reward: `score` is the game's own reward, scaled from `env.return_range` to [0, 1] and clipped; paid
at the end. A game that is not over after `env.turns` answers earns 0.

Everything of `env=gym` holds: a game is played again from its start for every turn. Games whose
first message does not tell the problem (a number to guess) say so: their problems are `hidden`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from grpo_env_gym.arena_game import ID
from grpo_env_gym.env import GymEnv
from grpo_envs.errors import ConfigError, install, nearest

HIDDEN = ("Bandit", "GuessTheNumber", "Hangman", "Mastermind", "Minesweeper", "Wordle")
"""Games whose first message is the same whatever there is to find."""


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
            split: `train` or `eval`: other seeds, and other first messages if there are enough.
            game: A game's name in TextArena, such as `FrozenLake-v0-random`.
            answer: What is the move: the `text` after any think block, or what is in the `tag`.
            return_range: [least, most] that a game pays; [0, 1] when None.
            turns: Most answers of an episode; 16 when None.
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
