"""What it is worth that rows which have ended leave their places to others while sampling.

    python tests/benchmarks/refill.py

A small model with random weights, a token of which ends an answer with the same chance each time:
lengths are ragged, 64 tokens in the mean and 512 at most. Both sides sample the same completions;
one fills free places, the other ends a batch before it begins the next.
"""

import argparse
import time
from dataclasses import replace
from statistics import median

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers import rows as module
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.torch import sample

COPIES = 8


def model(mean: int) -> Policy:
    """Return a policy whose answers end after so many tokens in the mean."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=False,
    )
    policy = Policy(Qwen3ForCausalLM(config).eval(), AutoTokenizer.from_pretrained(TINY))
    torch.nn.init.zeros_(policy.model.lm_head.weight)  # every token alike
    policy.eos_ids = tuple(range(1024 // mean))
    return policy


def main() -> None:
    """Print steps of the model, rows in them, and processor time of both sides."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--rows", type=int, default=64, help="at once")
    parser.add_argument("--tokens", type=int, default=512, help="of an answer, at most")
    parser.add_argument("--rounds", type=int, default=3)
    cfg = parser.parse_args()
    torch.set_num_threads(1)
    policy, usual = model(64), module.decode
    prompts = [tuple(range(10, 40 + n % 20)) for n in range(cfg.prompts)]
    counts: list[int] = []

    def counted(policy: Policy, cache: object, *tensors: torch.Tensor, **mask: object) -> object:
        counts.append(len(tensors[0]))
        return usual(policy, cache, *tensors, **mask)  # type: ignore[arg-type]

    module.decode = counted  # type: ignore[assignment]
    how, seeds = Decoding(max_new_tokens=cfg.tokens), range(cfg.prompts * COPIES)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    steps, rows, found = {}, {}, {}
    for _ in range(cfg.rounds):
        for joins in (True, False):
            policy.caching = replace(policy.caching, joins=joins)
            counts.clear()
            start = time.process_time()
            found[joins] = sample(policy, prompts, seeds, how, budget=Budget(cfg.rows))
            seconds[joins].append(time.process_time() - start)
            steps[joins], rows[joins] = len(counts), sum(counts)
    assert [c.token_ids for c in found[True]] == [c.token_ids for c in found[False]]
    tokens = sum(len(c.token_ids) for c in found[True])
    print(f"{tokens} tokens of {len(seeds)} answers, {cfg.rows} at once")
    print("| | steps of the model | rows in them a token | seconds |\n|---|---:|---:|---:|")
    for joins, name in ((False, "batches"), (True, "refilled")):
        took = median(seconds[joins])
        print(f"| {name} | {steps[joins]} | {rows[joins] / tokens:.2f} | {took:.2f} |")
    print(f"refill: fewer steps {steps[False] / steps[True]:.2f}")
    print(f"refill: speedup {median(seconds[False]) / median(seconds[True]):.2f}")


if __name__ == "__main__":
    main()
