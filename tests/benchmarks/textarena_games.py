"""Every game of TextArena through check_env: what docs/textarena.md is made by.

    python tests/benchmarks/textarena_games.py > docs/textarena.md

Each game has a process of its own, with so many seconds of processor time.
"""

import json
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from platform import python_version

from grpo_env_gym.arena import TextArenaEnv
from grpo_envs.env.conformance import check_promises
from grpo_envs.errors import GrpoEnvsError

PROBLEMS, TURNS, SECONDS = 10, 6, 60
ONE_PLAYER = (
    *("2048", "Bandit", "Blackjack", "Countdown", "Crosswords", "Cryptarithm", "FifteenPuzzle"),
    *("FrozenLake", "GuessTheNumber", "GuessWho", "Hangman", "Klondike", "LightsOut"),
    *("LogicPuzzle", "Mastermind", "Minesweeper", "PegJump", "RushHour", "Secretary", "Set"),
    *("Slitherlink", "Sokoban", "Sudoku", "ThreeCardMonte", "TowerOfHanoi", "TwentyQuestions"),
    *("UltimateTexasHoldem", "WordLadder", "WordSearch", "Wordle"),
)
_HEAD = """\
# TextArena {version}, game by game

`python tests/benchmarks/textarena_games.py`: what `python -m grpo_envs.check env=textarena
env.game=...` says of its games for one player, with {problems} problems of each split and
`env.turns={turns}`, on Python {python}. A variant, such as `Sudoku-v0-hard`, is the same game with
other numbers.

- A game whose first message does not tell the problem declares it hidden (`TextEnv.hidden`).
  Countdown, Cryptarithm, PegJump and TowerOfHanoi have one problem only: both splits have it.
- Games that ask for a key of OpenRouter are judged by a model; Klondike and UltimateTexasHoldem are
  written in the syntax of Python 3.12.
- The first wrong move is answered with a message, the second in a row ends the game. Some games pay
  for what was reached before.
- An exception inside a game makes the reward invalid. GuessTheNumber and ThreeCardMonte raise one
  for a number of more than 4,300 digits.
- An example of a move in the rules may earn something: `[2 1 4 5]` of Mastermind did.

| game | promises kept | CPU seconds a question | what did not hold |
|---|---|---|---|"""


def look(game: str) -> dict[str, object]:
    """Check a game here."""
    try:
        env = TextArenaEnv(game=game, turns=TURNS)
    except GrpoEnvsError as error:
        return {"error": str(error)}
    began = time.process_time()
    for seed in range(3):
        env.score(env.problem(seed), "[0 0]")
    seconds = (time.process_time() - began) / 3
    checks = check_promises(env, PROBLEMS)
    broken = [f"{c.promise}: {c.evidence}" for c in checks if c.evidence]
    return {"kept": len(checks) - len(broken), "of": len(checks), "s": seconds, "broken": broken}


def line(game: str) -> str:
    """Return the row of a game."""
    command = [sys.executable, __file__, game]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGXCPU:
        return f"| `{game}` | - | - | more than {SECONDS} s of processor time |"
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        reason = found["error"].removeprefix("the environment cannot be reset: ")
        return f"| `{game}` | - | - | {_short(f'cannot be reset: {reason}')} |"
    broken = "; ".join(map(_short, found["broken"])) or "nothing"
    return f"| `{game}` | {found['kept']} of {found['of']} | {found['s']:.2f} | {broken} |"


def _short(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return plain if len(plain) <= 160 else f"{plain[:157]}..."


def main() -> None:
    """Print the page, or with a name what was found of one game."""
    if len(sys.argv) > 1:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))  # SIGXCPU, not SIGKILL
        print("\n" + json.dumps(look(sys.argv[1])))
        return
    print(
        _HEAD.format(
            version=version("textarena"), problems=PROBLEMS, turns=TURNS, python=python_version()
        )
    )
    for name in ONE_PLAYER:
        print(line(f"{name}-v0"), flush=True)


if __name__ == "__main__":
    main()
