"""Warm start: `python -m grpo_envs.sft env=math model=smollm2`, a run with `agent=sft`.

The policy learns from the environment's demonstrations, or from the solutions of its dataset, in
place of sampled completions. Keys, folder, evaluation, resume and sweeps are those of
`grpo_envs.run`. GRPO continues from the result with `model.path=` the run's folder.
"""

from __future__ import annotations

import sys

from grpo_envs import run
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.terminal import exit_on_error

_AGENT = "agent=sft"


def main() -> None:
    """Train with the agent `sft`."""
    with exit_on_error():
        for word in sys.argv[1:]:
            if word.partition("=")[0] == "agent" and word != _AGENT:
                raise ConfigError(
                    f"{word}: python -m grpo_envs.sft is a run with {_AGENT}. Allowed: its keys "
                    "agent.*, or python -m grpo_envs.run for another agent."
                )
    sys.argv = [sys.argv[0], *(word for word in sys.argv[1:] if word != _AGENT), _AGENT]
    run.main()


if __name__ == "__main__":
    main()
