"""Problems and rewards of any OpenEnv server, such as `python -m grpo_envs.serve`.

Task: the first observation after a reset with a hashed seed. The field `env.observation` of an
observation is shown, by default the first of prompt, question, text, message.
Answer: the text after any `<think>` block, stripped, or the text in `<answer>` (`env.answer=tag`).
It is sent in the field `env.action` of the server's action, by default the only field, as text or
as the JSON value that the server's schema requires. An answer that the schema does not allow is not
sent: it ends the episode and earns 0. If the actions are tool calls, each call of an answer is an
action, and an answer without a call ends the episode.
Reward: `score` is the return of the episode (the sum of its rewards) at its end, scaled from
`env.return_range` to [0, 1] and clipped. Our own server sends rewards with their parts and weights.

An episode is a function of the seed and the actions: it goes on in the session that has played the
actions, or is replayed in another session, also after a lost connection. The reward is invalid if a
replay differs from the play before, if a reset does not return the problem's prompt (a server that
ignores seeds), if the last reward is null, or if the server fails or does not answer within
`env.timeout`. The server ends an episode; `env.turns` limits it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from grpo_env_openenv.foreign import Foreign, Reading
from grpo_env_openenv.own import Own, speaks
from grpo_env_openenv.player import invalid
from grpo_env_openenv.sessions import shared_sessions
from grpo_env_openenv.wire import WireError, base_of, schema_of
from grpo_envs.env import SPLITS, TextEnv
from grpo_envs.env.returns import ReturnRange
from grpo_envs.env.rewards import Part, respond_safely
from grpo_envs.errors import require, require_one_of
from grpo_envs.types import Problem, Reply, Reward, Turn

_DAY_S = 86_400


class OpenEnvEnv(TextEnv):
    """Episodes that a server plays, in up to `sessions` sessions at once."""

    parts: ClassVar[Mapping[str, float]] = {"score": 1.0}
    concurrency = "threads"

    def __init__(
        self,
        split: str = "train",
        *,
        url: str | None = None,
        action: str | None = None,
        observation: str | list[str] | None = None,
        answer: str = "text",
        reset: dict[str, Any] | None = None,
        return_range: list[float] | None = None,
        turns: int | None = None,
        sessions: int = 16,
        timeout: float = 60.0,
        system_prompt: str = "",
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Connect to the server.

        Args:
            split: `train` or `eval`; they have different seeds, and different first observations if
                there are enough.
            url: The address of the server: ws://HOST:PORT, wss, http or https, and its path if it
                has one.
            action: The field of an action that receives the answer; `call_tool`: each tool call of
                an answer is an action; None: the only field.
            observation: The field of an observation that the policy reads, `metadata.NAME` for a
                field of the metadata, or a list of fields, a line each; None: the first of prompt,
                question, text, message.
            answer: The part of an answer that is sent: `text`, everything after a think block, or
                `tag`, the content of <answer>.
            reset: Arguments of its reset beside the seed.
            return_range: [least, most] return of an episode; None: [0, 1].
            turns: The most answers of an episode; None: 16, or the number of a server of ours.
            sessions: The number of connections, and of answers that are graded in parallel.
            timeout: Seconds to wait for a reply of the server, and for a lost server to come back.
            system_prompt: The system message of a chat model; a server of ours sends its own.
            rewards: Weights of the parts.
            render_mode: None or `ansi`.

        Raises:
            ConfigError: a value is not allowed, or no OpenEnv server answers.
        """
        _require(answer, reset or {}, {"turns": turns, "sessions": sessions}, timeout)
        returns = ReturnRange.of(return_range)
        self.base = base_of(url)
        schema = schema_of(self.base, timeout)
        self._sessions = shared_sessions(self.base, sessions, float(timeout))
        self._is_own = speaks(schema["observation"])
        fields = {"action": action, "observation": observation}
        if self._is_own:
            form = None if answer == "text" else answer
            said = {"answer": form, "system_prompt": system_prompt or None}
            _require_unset({**fields, **said, "return_range": return_range})
            self.player: Own | Foreign = Own(self._sessions, reset or {})
        else:
            reading = Reading.of(schema, fields, form=answer, returns=returns)
            self.player = Foreign(self._sessions, reset or {}, reading)
            self.system_prompt = system_prompt
        parts, most = self.player.weights, self.player.most_turns
        super().__init__(split, parts=parts, rewards=rewards, render_mode=render_mode)
        if self._is_own:
            self._optional = set(self._parts)  # the server sends the parts of each problem
        self._as_served = self._is_own and not rewards
        self.max_turns = min(turns or most, most) if self._is_own else turns or most
        self.workers, self.hidden = sessions, self.player.hidden

    def problem(self, seed: int, split: str | None = None) -> Problem:
        """Return problem number `seed` of `split`; the server is reset for it each time."""
        split = split or self.split
        require_one_of("split", split, SPLITS)
        return self.player.problem(seed, split)

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Return the server's reply to the last of `turns`."""
        try:
            return self.player.reply(problem, turns, last=len(turns) >= self.turns_of(problem))
        except WireError as error:
            return invalid(error)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Return the reward of a single answer."""
        return self.respond(problem, [Turn(action=answer)]).reward

    def own_replies(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Reply to the last turn of each episode, one at a time, without `score_batch`."""
        pairs = zip(problems, episodes, strict=True)
        return [respond_safely(self.respond, problem, turns) for problem, turns in pairs]

    def turns_of(self, problem: Problem) -> int:
        """Return the most answers of an episode of the problem."""
        return min(problem.max_turns or self.max_turns, self.max_turns)

    def range_of(self, problem: Problem) -> tuple[float, float]:
        """Return the least and the largest reward of an answer to the problem."""
        if not self._as_served:
            return self.reward_range
        low, high = problem.columns["reward_range"]
        return low, high

    @property
    def uses_tools(self) -> bool:
        """Whether the server has tools."""
        return self.player.uses_tools

    @property
    def own_parts(self) -> dict[str, Part]:
        """The parts that say whether an answer is right."""
        if isinstance(self.player, Own) and self._as_served:
            return self.player.own_parts
        return super().own_parts

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._sessions.close()


def _require(answer: str, reset: Any, counts: Mapping[str, int | None], timeout: float) -> None:
    """Refuse values that are not allowed.

    Raises:
        ConfigError: a value is not allowed.
    """
    require_one_of("env.answer", answer, ("text", "tag"))
    named = isinstance(reset, Mapping) and "seed" not in reset
    require(named, "env.reset", repr(reset)[:80], "{name: value, ...} for a reset, without a seed")
    for name, count in counts.items():
        may_lack = name == "turns"
        whole = (type(count) is int and count > 0) or (count is None and may_lack)
        allowed = "a whole number above 0" + ", or null" * may_lack
        require(whole, f"env.{name}", count, allowed)
    seconds = type(timeout) in (int, float) and 0 < timeout <= _DAY_S
    require(seconds, "env.timeout", timeout, f"seconds above 0, up to {_DAY_S}")


def _require_unset(keys: Mapping[str, Any]) -> None:
    """Refuse keys whose values a server of ours sends itself.

    Raises:
        ConfigError: one of `keys` is given.
    """
    for name, value in keys.items():
        require(value is None, f"env.{name}", value, "null: a server of ours sends it itself")
