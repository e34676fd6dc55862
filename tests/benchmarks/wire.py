"""Calls and episodes a second of env=openenv, and what a step takes whose environment waits.

    python tests/benchmarks/wire.py --python PYTHON

Two tables: our environments behind a server in a process of its own, by the number of sessions;
and a step of 128 members (16 groups of 8) whose calls take 0.1 s each, by the number of workers.
The server is OpenEnv's where PYTHON has the extra `openenv`, else the stand-in of the tests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from grpo_envs import GroupVectorEnv, Problem, TextEnv, Turn
from grpo_envs.env.plugins import make

ROOT = Path(__file__).parent.parent.parent
NAMES = ("math", "guess")
SAID = "<answer>12</answer>"
MEMBERS, GROUP = 128, 8
WAIT_S = 0.1
STAND_IN = ("-m", "tests.support.openenv_stand_in")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="of the server")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16, 64])
    options = parser.parse_args()
    found = [options.python, "-c", "import openenv"]
    real = not subprocess.run(found, capture_output=True, check=False).returncode
    print(f"server: {'OpenEnv' if real else 'the stand-in of the tests'}\n")
    print("| environment | sessions | calls/s | episodes/s |\n|---|---:|---:|---:|")
    for name in NAMES:
        with closing(make(name)) as env:
            print(f"| {name} | in process |", row(env, 1, options.seconds), flush=True)
        serve = ["-m", "grpo_envs.serve", f"env={name}", "--port", "0"]
        with server(options.python, serve if real else [*STAND_IN, name]) as url:
            for sessions in options.sessions:
                with closing(make("openenv", url=url, sessions=sessions)) as env:
                    print(f"| {name} | {sessions} |", row(env, sessions, options.seconds))
    print(f"\n| workers | a step of {MEMBERS} members, {WAIT_S} s a call [s] |\n|---:|---:|")
    with server(sys.executable, [*STAND_IN, "math", "--wait", str(WAIT_S)]) as url:
        for workers in (2, 8, 32, 64):
            print(f"| {workers} | {waiting(url, workers):.2f} |", flush=True)


@contextmanager
def server(python: str, arguments: list[str]) -> Iterator[str]:
    """Serve in a process meanwhile; yield the address."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "envs")])
    process = subprocess.Popen(
        [python, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split(" at ")[1].split(",")[0].strip()
    finally:
        process.terminate()
        process.wait(20)


def row(env: TextEnv, threads: int, seconds: float) -> str:
    """Play episodes in so many threads; return calls and episodes a second as cells.

    A call is a reset or an answer. In process a reset draws the problem.
    """
    until = perf_counter() + seconds

    def play(number: int) -> tuple[int, int]:
        calls = episodes = 0
        while perf_counter() < until:
            calls += 1 + episode(env, env.problem(number + threads * episodes))
            episodes += 1
        return calls, episodes

    began = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        counts = list(pool.map(play, range(threads)))
    took = perf_counter() - began
    return " | ".join(f"{sum(each) / took:.0f}" for each in zip(*counts, strict=True)) + " |"


def episode(env: TextEnv, problem: Problem) -> int:
    """Play an episode; return how many answers it had."""
    turns: list[Turn] = []
    while len(turns) < env.turns_of(problem):
        (reply,) = env.reply_batch([problem], [[*turns, Turn(action=SAID)]])
        turns.append(Turn(action=SAID, observation=reply.observation))
        if reply.done:
            break
    return len(turns)


def waiting(url: str, workers: int) -> float:
    """Return the seconds of a step; its sessions are open, as they are after a run's first step."""
    env = make("openenv", url=url, sessions=workers)
    members = GroupVectorEnv(env, MEMBERS, GROUP)
    with closing(members):
        for _ in range(2):
            members.reset(seed=list(range(MEMBERS // GROUP)))
            began = perf_counter()
            *_, info = members.step([SAID] * MEMBERS)
            took = perf_counter() - began
            assert info["reward_valid"].all()
    return took


if __name__ == "__main__":
    main()
