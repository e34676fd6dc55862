"""Calls and episodes a second of tools on an MCP server over stdio: a Markdown table.

    python tests/benchmarks/mcp_calls.py

Episodes of two calls and an answer, one thread an episode. The server is plain Python, so that
what is measured is ours and the SDK's: a process for each episode, or one that all share.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import perf_counter

import grpo_envs
from grpo_envs import Problem, Reward, ToolEnv, Turn, write_call

SERVER = str(Path(__file__).parents[1] / "support" / "mcp_basket.py")
CALL = write_call("process", {})
CALLS = 2


class Basket(ToolEnv):
    """Which process is the server?"""

    def __init__(self, *, shared: bool) -> None:
        """Ask the server for its tools."""
        self.tools = [grpo_envs.mcp("python", SERVER, shared=shared)]
        super().__init__()

    def score(self, problem: Problem, answer: str) -> Reward:
        """Take any answer."""
        return Reward(parts={"correct": 1.0})


def episode(env: Basket) -> None:
    """Play an episode."""
    problem, turns = Problem(prompt="?", gold="", solution="done"), list[Turn]()
    for action in (*[CALL] * CALLS, problem.solution):
        (reply,) = env.reply_batch([problem], [[*turns, Turn(action=action)]])
        assert reply.reward.valid, reply.reward.error
        turns.append(Turn(action=action, observation=reply.observation))
    assert reply.reward.parts["correct"] == 1


def per_second(env: Basket, members: int, seconds: float) -> float:
    """Return the episodes a second of so many members at once."""
    episode(env)  # a shared server starts here
    until = perf_counter() + seconds

    def play(_: int) -> int:
        count = 0
        while perf_counter() < until:
            episode(env)
            count += 1
        return count

    began = perf_counter()
    with ThreadPoolExecutor(members) as threads:
        count = sum(threads.map(play, range(members)))
    return count / (perf_counter() - began)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row (%(default)s)")
    options = parser.parse_args()
    print("| server | episodes at once | calls/s | episodes/s |\n|---|---:|---:|---:|")
    for shared in (False, True):
        name = "shared" if shared else "one an episode"
        for members in (1, 8):
            with closing(Basket(shared=shared)) as env:
                found = per_second(env, members, options.seconds)
            print(f"| {name} | {members} | {CALLS * found:.0f} | {found:.1f} |", flush=True)


if __name__ == "__main__":
    main()
