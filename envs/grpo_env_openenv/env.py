"""Problems and rewards of an OpenEnv server: anybody's, or `python -m grpo_envs.serve`.

Task: the first observation after a reset with a hashed seed; of the fields of an observation
`env.observation` is shown, by default the first of prompt, question, text, message.
Answer: what follows any `<think>` block, stripped, or what stands in `<answer>`
(`env.answer=tag`). It goes into the field `env.action` of the server's action, by default its only
one, as text or as the JSON value that the server's schema asks for. An answer that the schema does
not allow is not sent: it ends the episode and earns 0. Where the actions are tool calls, each call
of an answer is one, and an answer without a call ends the episode.
Reward: `score` is the return of the episode (the sum of its rewards), scaled from
`env.return_range` to [0, 1] and clipped; paid at the end. A reward of our own server comes with
its parts and weights, as in process.

An episode is a function of the seed and the actions: it goes on in the session that has played
them, or is played again in another, after a lost connection, too. The reward is invalid where a
replay differs from the play before, where a reset does not open with the problem's prompt (a server
that ignores seeds), where the last reward is null, and where the server fails or does not answer
within `env.timeout`. The server ends an episode; `env.turns` limits it.
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
    """Episodes that a server plays, in up to `sessions` of them at once."""

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
            split: `train` or `eval`: other seeds, and other first observations where there are
                enough of them.
            url: Of the server: ws://HOST:PORT or http://HOST:PORT.
            action: The field of its actions that an answer goes to, or `call_tool`; the only one
                when None.
            observation: The field of its observations that is shown, `metadata.NAME` for one
                inside, or a list of them, a line each.
            answer: What is the action: the `text` after any think block, or what is in the `tag`.
            reset: What its reset is given beside the seed.
            return_range: [least, most] that an episode returns; [0, 1] when None.
            turns: Most answers of an episode; when None 16, or what a server of ours says.
            sessions: Connections at once, and answers that are graded at once.
            timeout: Seconds that an answer of the server may take, and that a lost server is
                waited for.
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
            self._optional = set(self._parts)  # it sends those that apply to a problem
        self._as_served = self._is_own and not rewards
        self.max_turns = min(turns or most, most) if self._is_own else turns or most
        self.workers, self.hidden = sessions, self.player.hidden

    def problem(self, seed: int, split: str | None = None) -> Problem:
        """Return problem number `seed` of `split`; the server is reset for it each time."""
        split = split or self.split
        require_one_of("split", split, SPLITS)
        return self.player.problem(seed, split)

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        """Return what the server says to the last of `turns`."""
        try:
            return self.player.reply(problem, turns, last=len(turns) >= self.turns_of(problem))
        except WireError as error:
            return invalid(error)

    def score(self, problem: Problem, answer: str) -> Reward:
        """Return what a single answer earns."""
        return self.respond(problem, [Turn(action=answer)]).reward

    def own_replies(
        self, problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]
    ) -> list[Reply]:
        """Answer the last turn of each episode: the server knows single answers no better."""
        pairs = zip(problems, episodes, strict=True)
        return [respond_safely(self.respond, problem, turns) for problem, turns in pairs]

    def turns_of(self, problem: Problem) -> int:
        """Return how many answers an episode of the problem has at most."""
        return min(problem.max_turns or self.max_turns, self.max_turns)

    def range_of(self, problem: Problem) -> tuple[float, float]:
        """Return the least and the most that an answer to the problem can earn."""
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
        ConfigError: one of them is not.
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
    """Refuse what a server of ours says itself.

    Raises:
        ConfigError: one of `keys` is given.
    """
    for name, value in keys.items():
        require(value is None, f"env.{name}", value, "nothing, as a server of ours says it itself")
