"""One group of a run: `python -m grpo_envs.explain outputs/math --step 3 --group 0`.

Prints how the rewards of a group became advantages, and a completion token by token: its
log-probabilities, the ratio, whether it was clipped, and the KL. Only runs with `agent.log_tokens`
record tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grpo_envs.runs.explanation import Place, as_text, explain
from grpo_envs.runs.newest import run_at
from grpo_envs.runs.record import read_record
from grpo_envs.runtime.terminal import exit_on_error


@exit_on_error()
def main() -> None:
    """Read the options and explain."""
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.explain", description=f"{first} {more}"
    )
    parser.add_argument("run", type=Path, help="folder of a run, or of runs (the newest)")
    parser.add_argument("--step", type=int, default=1, help="step of the training (%(default)s)")
    parser.add_argument(
        "--group", type=int, default=0, help="number of the group in the step (%(default)s)"
    )
    member = "the completion to show token by token (the one with the largest advantage)"
    parser.add_argument("--member", type=int, help=member)
    parser.add_argument("--update", type=int, help="update of the step, from 1 (the last)")
    options = parser.parse_args()
    place = Place(
        step=options.step, group=options.group, member=options.member, update=options.update
    )
    print(as_text([*explain(read_record(run_at(options.run)), place)]))


if __name__ == "__main__":
    main()
