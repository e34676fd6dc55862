"""Any Gymnasium environment whose observations and actions are text.

Task: the first observation after `reset(seed=...)`, with a hashed seed.
Answer: the text after any `<think>` block, stripped, or the text in `<answer>` (`env.answer=tag`).
Reward: `score` is the return of the episode (the sum of its rewards), scaled from
`env.return_range` to [0, 1] and clipped. It is paid at the end, so that an offset of the range does
not reward every turn. An answer outside the action space is not passed on: it ends the episode and
earns 0.

A reply is a function of the seed and the actions: the episode is replayed from its start for every
turn, so turn t costs t steps, and once more at its end. So the environment must be deterministic
after `reset(seed=...)`. The reward is invalid if a replay differs from the play before in an
observation, in its end or in its return, if the return is not finite, or if the environment raises
an exception, including SystemExit. Truncation ends an episode like termination.
"""

import math
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from grpo_env_gym.wrapped import Step, Wrapped
from grpo_envs.env import TextEnv
from grpo_envs.env.returns import ReturnRange
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.graders.text import action_in
from grpo_envs.seeding import rng_for, split_of
from grpo_envs.types import Problem, Reply, Reward, Turn

_TURNS = 16
_OPENINGS = 40  # first observations that are compared, once
_DRAWS = 1000
_NO_REPEAT = "the environment does not repeat itself after reset(seed=...)"


class GymEnv(TextEnv):
    """Conversations with a Gymnasium environment of another package."""

    parts: ClassVar[Mapping[str, float]] = {"score": 1.0}
    concurrency = "none"  # one instance with its own state

    def __init__(
        self,
        split: str = "train",
        *,
        id: str | None = None,
        kwargs: dict[str, Any] | None = None,
        answer: str = "text",
        return_range: list[float] | None = None,
        turns: int | None = None,
        system_prompt: str = "",
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`; they have different seeds, and different first observations if
                there are enough.
            id: An id registered with Gymnasium; `module:Name-v0` imports the module first.
            kwargs: Keyword arguments of its constructor.
            answer: The part that is the action: `text`, all after any think block, or `tag`, the
                text in <answer>.
            return_range: [least, most] return of an episode; None: [0, 1].
            turns: The most answers of an episode; None: the id's `max_episode_steps`, or 16.
            system_prompt: The system message of a chat model.
            rewards: Weight of `score`.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or there is no such environment of text.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require_one_of("env.answer", answer, ("text", "tag"))
        self.returns = ReturnRange.of(return_range)
        whole = turns is None or (type(turns) is int and turns > 0)
        require(whole, "env.turns", turns, "a whole number above 0, or null")
        named = kwargs is None or isinstance(kwargs, Mapping)
        require(named, "env.kwargs", repr(kwargs)[:80], "{name: value, ...} for its constructor")
        self.wrapped = Wrapped(id, kwargs or {})
        self.answer, self.system_prompt = answer, system_prompt
        self.max_turns = turns or self.wrapped.most_steps or _TURNS
        first = islice(_seeds(rng_for("openings")), _OPENINGS)
        owners = {split_of(self._first(seed)) for seed in first}
        self.by_observation = len(owners) > 1

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw seeds until one belongs to `split`; with enough observations its first one, too."""
        for seed in islice(_seeds(rng), _DRAWS):
            if split_of(str(seed)) != split:
                continue
            prompt = self._first(seed)
            if not self.by_observation or split_of(prompt) == split:
                return Problem(prompt=prompt, gold=seed, solution="")
        raise ConfigError(f"{_DRAWS} seeds of the environment gave no question of {split}.")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Play the episode up to its last turn; the last reply has the reward."""
        actions = [action_in(turn.action, self.answer) for turn in turns]
        step = self.wrapped.play(problem.gold, actions)
        seen = (problem.prompt, *(turn.observation for turn in turns[:-1]))
        difference = _difference(seen, step.said)
        last = len(turns) >= self.max_turns
        done = step.terminated or (step.truncated and not last)
        if not difference and not done and not last:
            return Reply(reward=_paid(0.0), observation=step.observation, done=False)
        if not difference and not math.isfinite(step.total):
            difference = f"the return of the episode is {step.total}"
        if not difference:
            difference = _other_play(step, self.wrapped.play(problem.gold, actions))
        if difference:
            return Reply(reward=Reward(valid=False, error=difference), observation=step.observation)
        return Reply(reward=self._reward(step), observation=step.observation, done=done)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Return the reward of a single answer; 0 if the episode goes on."""
        return self.respond(problem, [Turn(action=answer)]).reward

    def close(self) -> None:
        """Close the wrapped environment."""
        self.wrapped.close()

    def _first(self, seed: int) -> str:
        try:
            return self.wrapped.open(seed)
        except Exception as error:  # another package's code can raise anything
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"the environment cannot be reset: {cause}.") from error

    def _reward(self, step: Step) -> Reward:
        if step.strange:
            return _paid(0.0, "the answer is outside the action space")
        return self.returns.paid(step.total)


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    """Return how a replay differs from what a player saw; '' if it does not.

    Turns after the first without a recorded observation are not compared.
    """
    for turn, (seen, again) in enumerate(zip(before, now, strict=False)):
        if seen != again and (seen or turn == 0):
            what = f"turn {turn} was answered with" if turn else "it opened with"
            return f"{_NO_REPEAT}: {what} {seen[:80]!r}, and when played again {again[:80]!r}"
    if len(now) <= len(before):
        return f"{_NO_REPEAT}: turn {len(now) - 1} went on, and when played again it ended"
    return ""


def _other_play(step: Step, again: Step) -> str:
    """Return how two plays of all turns differ; '' if they do not."""
    if step == again:
        return ""
    if step.total != again.total and step.said == again.said:
        totals = f"it returned {step.total:g}, and when played again {again.total:g}"
        return f"{_NO_REPEAT}: {totals}"
    return _difference(step.said[:-1], again.said) or f"{_NO_REPEAT}: it ended in another way"


def _paid(score: float, note: str = "") -> Reward:
    return Reward(parts={"score": score}, note=note)


def _seeds(rng: random.Random) -> Any:
    while True:
        yield rng.getrandbits(31)
