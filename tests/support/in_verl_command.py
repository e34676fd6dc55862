"""Reads the overrides of a command as verl's `main_ppo` does, and lets verl check them, on a CPU.

    python in_verl_command.py data.train_files=train.parquet ...

Prints the steps of an epoch, of which verl needs one, and the loggers.
"""

from __future__ import annotations

import json
import sys
import warnings

from hydra import compose, initialize_config_module
from pyarrow import parquet
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config


def main() -> None:
    """Compose the configuration of `main_ppo`, and check it."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=sys.argv[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # GRPO has no critic
        validate_config(config, need_reference_policy(config), need_critic(config))
    rows = parquet.read_metadata(config.data.train_files).num_rows
    steps = rows // config.data.train_batch_size  # verl drops the last, incomplete batch
    print(json.dumps({"steps": steps, "loggers": config.trainer.logger}))


if __name__ == "__main__":
    main()
