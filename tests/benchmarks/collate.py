"""How long it takes to make a batch of long completions: from flat arrays, and row by row in lists.

    python tests/benchmarks/collate.py

Both make the same tensors, in turns; processor time, medians of the rounds.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from grpo_envs.types import Completion, Group, Reward
from grpo_policy.batch import Batch, collate

CPU = torch.device("cpu")


def made(rows: int, tokens: int) -> list[Group]:
    """Return groups of 8 completions, each of about so many tokens."""
    rng = random.Random(0)
    return [
        Group(
            key=key,
            prompt="",
            prompt_ids=tuple(range(200)),
            completions=tuple(answer(rng, rng.randint(tokens // 2, tokens)) for _ in range(8)),
            rewards=(Reward(parts={"correct": 0.0}),) * 8,
        )
        for key in range(rows // 8)
    ]


def answer(rng: random.Random, tokens: int) -> Completion:
    """Return a completion of so many tokens."""
    ids = tuple(rng.randrange(50_000) for _ in range(tokens))
    return Completion(text="", token_ids=ids, logprobs=tuple(-rng.random() for _ in ids))


def by_lists(groups: Sequence[Group]) -> Batch:
    """Make the batch as it was made before: each row padded as a list."""
    rows = [(group.prompt_ids, c) for group in groups for c in group.completions]
    numbers = [number for number, group in enumerate(groups) for _ in group.completions]
    return Batch(
        input_ids_BL=padded([(*prompt, *c.token_ids) for prompt, c in rows], 0),
        prompt_lengths_B=torch.tensor([len(prompt) for prompt, _ in rows]),
        token_ids_BT=padded([c.token_ids for _, c in rows], 0),
        mask_BT=padded([[True] * len(c.token_ids) for _, c in rows], value=False),
        sampled_logps_BT=padded([c.logprobs for _, c in rows], 0.0),
        groups_B=torch.tensor(numbers),
    )


def padded(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    """Return the rows as one tensor."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def seconds(call: Callable[[], Batch]) -> float:
    """Return the processor time of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """Print both times, and how many times faster arrays are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=2000, help="of the longest completion")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    groups = made(options.rows, options.tokens)
    ways: dict[str, Callable[[], Batch]] = {
        "lists": lambda: by_lists(groups),
        "arrays": lambda: collate(groups, 0, CPU),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    lists, arrays = (median(taken[name]) for name in ways)
    print(f"lists {lists:.2f} s, arrays {arrays:.2f} s")
    print(f"collate: speedup {lists / arrays:.1f}")


if __name__ == "__main__":
    main()
