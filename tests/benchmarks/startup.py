"""How long `--help` takes, beside Python, `import hydra` and Hydra's own help: medians.

    python tests/benchmarks/startup.py

They take turns, so that a busy moment of the machine meets all of them.
"""

import subprocess
import sys
import time
from statistics import median

ROUNDS = 9
COMMANDS = {
    "python": ["-c", "pass"],
    "import hydra": ["-c", "import hydra"],
    "import grpo_envs": ["-c", "import grpo_envs"],
    "--help": ["-m", "grpo_envs.run", "--help"],
    "env=code --help": ["-m", "grpo_envs.run", "env=code", "--help"],
    "--hydra-help": ["-m", "grpo_envs.run", "--hydra-help"],
}


def main() -> None:
    """Print a line for each command, then what our help takes beside Hydra's."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, args in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    for name, taken in seconds.items():
        print(f"{name:<18} {median(taken):.2f} s")
    print(f"--help against --hydra-help: {median(seconds['--help']):.2f} s, ratio ", end="")
    print(f"{median(seconds['--hydra-help']) / median(seconds['--help']):.1f}")


if __name__ == "__main__":
    main()
