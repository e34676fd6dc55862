"""Problems for another trainer: `python -m grpo_envs.export_data verl env=countdown --out DIR`.

Writes train.parquet and test.parquet (held-out problems), and prints the command that trains on
them. The rows name the problems and hold no gold answers: the trainer needs grpo-envs, too.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import rich

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError, require, require_training
from grpo_envs.interop import verl
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.terminal import exit_on_error

_FILES = {"train": "train.parquet", "eval": "test.parquet"}
_BATCH = 128
"""Prompts of a step in the command; fewer if there are fewer rows: verl drops an incomplete batch,
and its default, 1024, may be more than all rows."""


@exit_on_error()
def main() -> None:
    """Read the options; exit 2 on a mistake in them."""
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.export_data", description=f"{first} {more}"
    )
    parser.add_argument("trainer", choices=["verl"], help="the trainer whose format the files have")
    parser.add_argument("overrides", nargs="*", help="as for a run, e.g. env=math env.level=2")
    parser.add_argument("--rows", type=int, default=1024, help="rows to train on (%(default)s)")
    parser.add_argument(
        "--held-out", type=int, default=128, help="rows to evaluate on (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    options = parser.parse_intermixed_args()
    require(options.rows > 0, "--rows", options.rows, "1 or more")
    require(options.held_out > 0, "--held-out", options.held_out, "1 or more")
    require_training("export_data", ("pyarrow",))
    cfg = compose_run(options.overrides)
    train, held_out = export(cfg.env["name"], cfg.env_keywords, options)
    printed = command(train, held_out, min(_BATCH, options.rows))
    rich.get_console().print(printed, soft_wrap=True, highlight=False, markup=False)


def export(name: str, keywords: dict[str, object], options: argparse.Namespace) -> list[Path]:
    """Write the files of both splits into `options.out`; return them.

    Raises:
        ConfigError: the environment cannot be used from verl, or the files cannot be written.
    """
    from pyarrow import Table, parquet  # not for --help, nor a mistake

    counts = {"train": options.rows, "eval": options.held_out}
    made = {split: verl.rows_of(name, keywords, split, counts[split]) for split in _FILES}
    files = [options.out / name for name in _FILES.values()]
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for rows, file in zip(made.values(), files, strict=True):
            parquet.write_table(Table.from_pylist(rows), file)
    except OSError as error:
        raise ConfigError(f"--out {shown(options.out)}: {error}.") from error
    return files


def command(train: Path, held_out: Path, batch: int) -> str:
    """Return the command that trains on the files with verl.

    Args:
        train: The file to train on.
        held_out: The file to evaluate on.
        batch: Prompts of a step, on which verl makes one update.
    """
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return " \\\n    ".join(
        [
            "python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo",
            f"data.train_files={_path(train)} data.val_files={_path(held_out)}",
            f"data.train_batch_size={batch} {actor}.ppo_mini_batch_size={batch}",
            f"reward.custom_reward_function.path=pkg://{verl.__name__}",
            f"reward.custom_reward_function.name={verl.compute_score.__name__}",
            f"{rollout}.name=vllm {rollout}.n=8",
            f"{actor}.use_dynamic_bsz=True trainer.logger=console",
            "trainer.n_gpus_per_node=GPUS actor_rollout_ref.model.path=MODEL",
        ]
    )


def _path(file: Path) -> str:
    return shlex.quote(shown(file.resolve()))


if __name__ == "__main__":
    main()
