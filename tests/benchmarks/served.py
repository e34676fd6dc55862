"""Do the same answers earn the same reward from a served environment, and how fast is it?

    python tests/benchmarks/served.py --sessions 16

Episodes of five environments are played in process, and over the wire by as many sessions at once;
the reward of every answer, its parts and the end of its episode are compared to the bit. Needs the
extra `openenv`. The other trainers have a table of their own, doors.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from grpo_envs.env import TextEnv
from grpo_envs.env.plugins import make
from grpo_envs.interop.served import Served
from tests.support.door_answers import ENVIRONMENTS, Case, cases

Told = tuple[float | None, dict[str, float], bool]
"""The reward of an answer, its parts, and whether the episode is over."""


def main() -> None:
    """Print the table; exit 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=200, help="least of each environment")
    parser.add_argument("--sessions", type=int, default=8, help="at once")
    options = parser.parse_args()
    print("| environment | answers | rewards | served | answers/s in process | served |")
    print("|---|---:|---:|---|---:|---:|")
    same = True
    for name in ENVIRONMENTS:
        with closing(make(name)) as env:
            episodes = enough(name, options.answers)
            began = perf_counter()
            own = [in_process(env, case) for case in episodes]
            between = perf_counter()
            with served(name, env) as url:
                met = perf_counter()
                theirs = over_the_wire(url, episodes, options.sessions)
                ended = perf_counter()
        answers = [told for episode in own for told in episode]
        got = [told for episode in theirs for told in episode]
        pairs = zip_longest(map(repr, answers), map(repr, got))  # -0.0 is not 0.0
        wrong = sum(one != other for one, other in pairs)
        same &= not wrong
        cells = (name, len(answers), len({told[0] for told in answers}))
        speeds = (f"{len(answers) / seconds:.0f}" for seconds in (between - began, ended - met))
        verdict = f"{wrong} differ" if wrong else "equal"
        print("|", " | ".join([*map(str, cells), verdict, *speeds]), "|", flush=True)
    sys.exit(0 if same else 1)


def enough(name: str, answers: int) -> list[Case]:
    """Return episodes of at least so many answers in all."""
    found: list[Case] = []
    count = 0
    for case in cases(name, answers):
        if count >= answers:
            break
        found.append(case)
        count += len(case.answers)
    return found


def in_process(env: TextEnv, case: Case) -> list[Told]:
    """Play an episode with `reset` and `step`."""
    env.reset(seed=case.seed)
    told: list[Told] = []
    for answer in case.answers:
        _, total, terminated, truncated, info = env.step(answer)
        valid = bool(info["reward_valid"])
        parts = {key[7:]: x for key, x in info.items() if key.startswith("reward/")}
        told.append((total if valid else None, parts if valid else {}, terminated or truncated))
    return told


@contextmanager
def served(name: str, env: TextEnv) -> Iterator[str]:
    """Serve the environment in a thread; yield the address of sessions."""
    from grpo_envs.interop.openenv import Server, listen  # the extra `openenv`

    server = Server(Served(name, env, 300.0), 256, lambda: None)
    with closing(listen("127.0.0.1", 0)) as at:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        try:
            yield "ws://{}:{}/ws".format(*at.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def over_the_wire(url: str, episodes: Sequence[Case], sessions: int) -> list[list[Told]]:
    """Play the episodes in so many sessions at once, each its share in turn."""
    shares = [episodes[i::sessions] for i in range(sessions)]
    with ThreadPoolExecutor(sessions) as pool:
        played = dict(
            pair for pairs in pool.map(lambda x: session(url, x), shares) for pair in pairs
        )
    return [played[case.seed] for case in episodes]


def session(url: str, episodes: Sequence[Case]) -> list[tuple[int, list[Told]]]:
    """Play episodes one after the other in one session."""
    from websockets.sync.client import connect

    played = []
    with connect(url, open_timeout=60) as socket:

        def ask(kind: str, data: dict[str, Any]) -> dict[str, Any]:
            socket.send(json.dumps({"type": kind, "data": data}))
            answer: dict[str, Any] = json.loads(socket.recv())["data"]
            return answer

        for case in episodes:
            ask("reset", {"seed": case.seed, "split": "train"})
            told: list[Told] = []
            for answer in case.answers:
                got = ask("step", {"message": answer})
                told.append((got["reward"], got["observation"]["parts"], got["done"]))
            played.append((case.seed, told))
    return played


if __name__ == "__main__":
    main()
