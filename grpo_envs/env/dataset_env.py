"""DatasetEnv: the base class of environments whose problems are the rows of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from grpo_envs.env.dataset import Row, Rows
from grpo_envs.env.text import TextEnv
from grpo_envs.errors import ConfigError
from grpo_envs.types import Problem


class DatasetEnv(TextEnv):
    """Problems from a file or a dataset of the hub: write `score`, and `from_row` if necessary.

    The class adds the keys `env.dataset`, `env.columns`, `env.unreadable` and `env.held_out`. Every
    row is read before training starts. A subclass with keywords of its own sets their attributes
    first and calls `super().__init__` last, because that call reads the rows. If these attributes
    are JSON values, the verdict on a dataset of 10,000 rows or more is cached, and later runs start
    without reading it.
    """

    default_dataset: ClassVar[str | Path | None] = None
    """The dataset if `env.dataset` is not set; None: `env.dataset` is required."""
    needs: ClassVar[Sequence[str]] = ("prompt", "gold")
    """Columns that every row has, by the names that `from_row` uses; rows are split by the
    first."""
    optional: ClassVar[Sequence[str]] = ()
    """Columns that are None if the dataset does not have them."""

    def __init__(
        self,
        split: str = "train",
        *,
        dataset: str | None = None,
        columns: dict[str, Any] | None = None,
        unreadable: str = "error",
        held_out: float | None = None,
        rewards: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
        **further: Any,
    ) -> None:
        """Read the rows.

        Args:
            split: `train` or `eval`.
            dataset: A local file or hub id.
            columns: Names of the dataset's columns: {"prompt": ..., "gold": ...}.
            unreadable: `error` or `drop`: what happens if rows cannot be read.
            held_out: Share of the distinct prompts that is held out for evaluation, 0.1 when null.
                Not allowed for a dataset with an eval, test or validation split of its own.
            rewards: Weights of the reward components, and reward functions to add.
            render_mode: None or `ansi`.
            further: Keywords of the next class: `class MyEnv(ToolEnv, DatasetEnv)` has both.

        Raises:
            ConfigError: no dataset is given, or a value is not allowed.
            DatasetError: the dataset is missing, lacks a column, or has a row that cannot be read.
        """
        settings = dict(vars(self))
        super().__init__(split, rewards=rewards, render_mode=render_mode, **further)
        if dataset is None and self.default_dataset is None:
            raise ConfigError("env.dataset is not set. Allowed: a local file, or a hub id.")
        self.rows = Rows(
            str(self.default_dataset if dataset is None else dataset),
            needs=self.needs,
            optional=self.optional,
            columns=columns,
            read=self.from_row,
            unreadable=unreadable,
            held_out=held_out,
            settings=settings,
        )

    def from_row(self, row: Row) -> Problem:
        """Return the problem of a row, with the gold as the solution.

        Raises:
            DatasetError: the row cannot be read.
        """
        gold = row.text("gold")
        return Problem(prompt=row.text("prompt"), gold=gold, solution=gold)
