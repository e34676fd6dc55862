"""Questions about a small database, which the policy answers by querying it.

Task: the tables with their columns, and a question about their rows, which are not shown (see
`questions.py` for the levels). Every problem has its own SQLite database.
Tool: `query(sql)` runs one SELECT and returns its rows. The database cannot be changed; a query
that takes too long or whose result is too large gets an error.
Answer: a number, a name, or names separated by commas, in `<answer>...</answer>`, after at most one
`<think>` block. The right answer is the result of a hidden query of the same database.
Reward: `correct` for the values, in any order, `format` for one answer without other text.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar

from grpo_env_sql.database import Database
from grpo_env_sql.questions import LEVELS, Question
from grpo_env_sql.tables import THEMES, Theme, fill
from grpo_envs import Problem, Reward, ToolEnv, Turn, write_call
from grpo_envs.env.calls import read_calls
from grpo_envs.errors import require_one_of
from grpo_envs.graders.arithmetic import whole_number
from grpo_envs.graders.text import only_block
from grpo_envs.seeding import split_of

SHOWN = 20
"""The most rows of a result that are shown."""
_MOST_VALUES = 4
_THEMES = {theme.table: theme for theme in THEMES}


@dataclass(frozen=True, slots=True)
class Gold:
    """The answer as text, and the query that finds it."""

    answer: str
    sql: str

    def __str__(self) -> str:
        """Return the answer."""
        return self.answer


def query(state: Database, sql: str) -> str:
    """Run a SELECT of SQLite.

    Args:
        state: The problem's database.
        sql: The statement.
    """
    rows = state.rows(sql, SHOWN + 1)
    lines = [" | ".join(map(_shown, row)) for row in rows[:SHOWN]]
    return "\n".join([*lines, *["..."] * (len(rows) > SHOWN)]) or "no rows"


class SqlEnv(ToolEnv):
    """Questions about a database."""

    tools = (query,)
    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."

    def __init__(
        self,
        split: str = "train",
        *,
        level: int = 1,
        turns: int = 4,
        tool_limits: Mapping[str, Any] | None = None,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment.

        Args:
            split: `train` or `eval`.
            level: 1 counts by a number in one table, 2 also compares text, 3 uses joins, groups,
                subqueries and window functions.
            turns: Turns of an episode, including the answer.
            tool_limits: {calls: of an episode, calls_per_turn: 4, result_chars: 2000, call_s: 10,
                sessions: 128}, see docs/tools.md.
            rewards: Weights of `correct` and `format`, and of the counts of calls.
            render_mode: None or `ansi`.
        """
        require_one_of("env.level", level, LEVELS)
        self.level = level
        super().__init__(
            split, turns=turns, tool_limits=tool_limits, rewards=rewards, render_mode=render_mode
        )

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Make databases and questions until one belongs to `split` and has a clear answer."""
        while True:
            theme, number = rng.choice(THEMES), rng.randrange(10**9)
            question = rng.choice(LEVELS[self.level])(theme, rng)
            schema = theme.schema if self.level <= 2 else theme.both
            prompt = f"{schema}\n{question.text}"
            if split_of(prompt) == split and (answer := _answer(theme, number, question)):
                return Problem(
                    prompt=prompt,
                    gold=Gold(answer, question.sql),
                    solution=f"<answer>{answer}</answer>",
                    meta={"table": theme.table, "database": number},
                )

    def session(self, problem: Problem) -> Iterator[Database]:
        """Fill the problem's database."""
        with closing(fill(_THEMES[problem.meta["table"]], problem.meta["database"])) as database:
            yield database

    def score(self, problem: Problem, answer: str) -> Reward:
        """Compare the values with those of the hidden query."""
        block = only_block(answer, "answer")
        right = block is not None and _values(block.text) == _values(problem.gold.answer)
        form = block is not None and block.neat
        return Reward(parts={"correct": float(right), "format": float(form)})

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        """Call the tool with the hidden query, then answer with its result."""
        if turns and read_calls(turns[-1].action)[1]:
            return f"<answer>{', '.join(turns[-1].observation.splitlines())}</answer>"
        return write_call("query", {"sql": problem.gold.sql})


def _answer(theme: Theme, number: int, question: Question) -> str:
    """Return the answer in a database; '' if there is none, or it is not unique."""
    with closing(fill(theme, number)) as database:
        found = [row[0] for row in database.rows(question.sql, _MOST_VALUES + 1)]
    several = question.text.endswith("separated by commas.")
    clear = 1 <= len(found) <= (_MOST_VALUES if several else 1) and None not in found
    return ", ".join(map(_shown, found)) if clear else ""


def _values(text: str) -> list[str]:
    """Return the values of an answer, sorted: numbers in Python's form, names in lower case.

    >>> _values("Rome, 'Oslo'"), _values("1,200"), _values("007")
    (['oslo', 'rome'], ['1200'], ['7'])
    """
    number = whole_number(text)
    if number is not None:
        return [str(number)]
    values = [each.strip().strip("'\"").casefold() for each in text.split(",")]
    return sorted(_plain(value) for value in values)


def _plain(value: str) -> str:
    number = whole_number(value)
    return value if number is None else str(number)


def _shown(value: Any) -> str:
    return "NULL" if value is None else str(value)
