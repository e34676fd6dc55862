"""Games: Countdown, and a number to guess in a few turns."""

from grpo_env_games.countdown import CountdownEnv
from grpo_env_games.guess import GuessEnv

__all__ = ["CountdownEnv", "GuessEnv"]
