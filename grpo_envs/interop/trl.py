"""TRL: an environment as a data set and reward functions of its GRPOTrainer.

    from grpo_envs.interop.trl import Task

    task = Task("countdown", level=2)
    GRPOTrainer(..., train_dataset=task.train_dataset, reward_funcs=task.reward_funcs)

A conversation needs `rollout_func=task.rollout_func`, too, or, for a model that calls tools,
`environment_factory=task.environment_factory`. Written for TRL 1.16.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from grpo_envs.errors import ConfigError
from grpo_envs.interop.rows import Episode, Graded, Row, environment_of, grade, messages_of, rows_of
from grpo_envs.interop.trl_tools import ToolEpisode, earned, episodes_of
from grpo_policy.chat import Chat

_ROW = "row"
"""A key of a prompt's last message with its row: a rollout function gets only prompts."""


class Task:
    """An environment for TRL."""

    def __init__(self, name: str, /, **keywords: Any) -> None:
        """Take the environment registered under `name`, made with `keywords`.

        Raises:
            ConfigError: there is no such environment or keyword, or TRL cannot use it.
        """
        self.name = name
        self.env, _ = environment_of(name, keywords)
        if self.env.compares:
            raise ConfigError(
                f"env={name}: env.rewards has a function that sees the group; TRL may split groups."
            )
        self._keywords = keywords

    def dataset(self, split: str, rows: int, *, first: int = 0) -> Dataset:
        """Return the data set of `rows` problems of a split (train, eval), from seed `first` on."""
        made = rows_of(self.name, self._keywords, split, rows, first=first)
        return Dataset.from_list([{"prompt": _prompt(row), **row.columns} for row in made])

    @property
    def train_dataset(self) -> Dataset:
        """1024 training problems."""
        return self.dataset("train", 1024)

    @property
    def eval_dataset(self) -> Dataset:
        """128 held-out problems."""
        return self.dataset("eval", 128)

    @property
    def reward_funcs(self) -> list[Any]:
        """A single reward function, which returns the whole reward and logs the parts.

        TRL would sum one function per part in float32, which does not give the same sum.
        """
        return [self.reward]

    def reward(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Return each completion's reward; None if the grader failed: TRL leaves it out."""
        graded = self._graded(completions, columns)
        logged = {part: [one.parts.get(part) for one in graded] for part in self.env.weights}
        if log_extra := columns.get("log_extra"):
            for part, values in logged.items():
                log_extra(part, values)
        if log_metric := columns.get("log_metric"):
            means = {f"reward/{part}": values for part, values in logged.items()}
            for name, values in {**means, "turns": columns.get("turns", ())}.items():
                known = [value for value in values if value is not None]
                if known:
                    log_metric(name, sum(known) / len(known))
        return [one.total for one in graded]

    def _graded(self, completions: Sequence[Any], columns: dict[str, Any]) -> list[Graded]:
        if "graded" in columns:
            return list(columns["graded"])
        if "environments" in columns:
            return [*map(earned, columns["environments"], completions)]
        if self.env.max_turns > 1:
            raise ConfigError(
                f"env={self.name}: a conversation. Give GRPOTrainer rollout_func=task.rollout_func "
                "or environment_factory=task.environment_factory, too."
            )
        names = Row.__dataclass_fields__
        rows = [Row.of({name: columns[name][i] for name in names}) for i in range(len(completions))]
        return grade(rows, [_text(completion) for completion in completions])

    def rollout_func(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Play conversations: GRPOTrainer's `rollout_func`.

        `max_completion_length` limits each answer and the whole conversation, including the
        environment's replies. A conversation without room left ends with its reward so far.

        Args:
            prompts: Prompts of this data set, one per conversation.
            trainer: TRL's trainer, whose private `_generate_single_turn` samples with any backend.

        Returns:
            TRL's `prompt_ids`, `completion_ids`, `logprobs` and `env_mask` (0 on the tokens of the
            environment), and for the reward function `graded` and `turns`.

        Raises:
            ConfigError: there are several processes. Their conversations differ in length, and the
                others would wait for a process that has finished.
        """
        if trainer.accelerator.num_processes > 1:
            raise ConfigError(f"env={self.name}: conversations in TRL are played in one process.")
        talks = [_Talk.begin(prompt, _chat(trainer)) for prompt in prompts]
        active, most = talks, trainer.max_completion_length
        while active:
            contexts = [[*talk.prompt_ids, *talk.ids] for talk in active]
            ids, logprobs = trainer._generate_single_turn(contexts, None, {}, 1)
            going = []
            for i, talk in enumerate(active):
                if talk.take(ids[i], None if logprobs is None else logprobs[i], most):
                    going.append(talk)
            active = going
        return {
            "prompt_ids": [talk.prompt_ids for talk in talks],
            "completion_ids": [talk.ids for talk in talks],
            "logprobs": None if talks[0].logprobs is None else [t.logprobs for t in talks],
            "env_mask": [talk.mask for talk in talks],
            "graded": [talk.episode.graded for talk in talks],
            "turns": [talk.episode.turns for talk in talks],
        }

    @property
    def environment_factory(self) -> type[ToolEpisode]:
        """GRPOTrainer's `environment_factory`, for models that call tools.

        The tools are the environment's, and the first turn without a call is the answer. For an
        environment without tools there is one tool, `answer`, because TRL ends an episode at the
        first turn without a call; models without tool calls need `rollout_func`. Rewards still come
        from `reward_funcs`.

        Raises:
            ConfigError: the problems' tools differ, or TRL cannot represent one of them.
        """
        return episodes_of(self.name, self.env)


@dataclass(slots=True)
class _Talk:
    """A conversation as tokens; sampled tokens are kept and never tokenised again."""

    episode: Episode
    chat: Chat
    prompt_ids: list[int]
    tools: list[dict[str, Any]]
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)

    @classmethod
    def begin(cls, prompt: Sequence[dict[str, Any]], chat: Chat) -> _Talk:
        if _ROW not in prompt[-1]:
            raise ConfigError("rollout_func: the data set is not this task's (task.train_dataset).")
        episode = Episode(Row.of(json.loads(prompt[-1][_ROW])))
        problem = episode.problem
        system = episode.env.system_prompt_of(problem)
        tools = [tool.schema for tool in problem.tools]
        prompt_ids = chat.render(problem.prompt, system, problem.messages, tools)
        return cls(episode, chat, list(prompt_ids), tools)

    def take(self, ids: Sequence[int], logprobs: Sequence[float] | None, most: int) -> bool:
        """Append an answer, cut to the tokens left; return whether the conversation goes on."""
        before = (*self.prompt_ids, *self.ids)
        said = tuple(ids[: most - len(self.ids)])
        self._add(said, 1, logprobs)
        written = self.chat.opened(before) + self.chat.decode(said)
        answer = self.chat.canonical(written, self.tools)
        observation = self.episode.answer(answer)
        if self.episode.over:
            return False
        ended, results = self.chat.ended(said), self.episode.results
        reply = self.chat.follow_up(observation, ended=ended, results=results, answer=answer)
        if len(self.ids) + len(reply) >= most:
            return False
        self._add(reply, 0, [0.0] * len(reply) if logprobs is not None else None)
        return True

    def _add(self, ids: tuple[int, ...], chosen: int, logprobs: Sequence[float] | None) -> None:
        self.ids += ids
        self.mask += [chosen] * len(ids)
        if logprobs is None or self.logprobs is None:
            self.logprobs = None
        else:
            self.logprobs += logprobs[: len(ids)]


def _chat(trainer: Any) -> Chat:
    """Return a chat with the trainer's tokenizer, chat template and end tokens."""
    return Chat(
        trainer.processing_class,
        tuple(trainer.eos_token_ids),
        template_variables=trainer.chat_template_kwargs,
    )


def _prompt(row: Row) -> list[dict[str, Any]]:
    *before, last = messages_of(row)
    return [*before, {**last, _ROW: json.dumps(row.columns)}]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
