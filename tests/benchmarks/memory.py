"""Peak memory of scoring and backward: the chunked head against full logits, in one run.

python tests/benchmarks/memory.py

Each side runs in a process of its own, several times; the table has medians. Scoring is followed
by the loss of `agent=grpo` on both sides, on one model with Qwen's vocabulary.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from grpo_agent.config import LossConfig
from grpo_agent.losses import LossInputs, StepSize, policy_loss, token_weights
from grpo_agent.mechanisms import OBJECTIVE, resolve
from grpo_envs.config.model import LoraConfig
from grpo_envs.types import Completion, Group, Reward
from grpo_policy.adapters import add_adapters
from grpo_policy.batch import Batch, collate
from grpo_policy.models import TINY
from grpo_policy.policy import Policy

VOCABULARY = 151_936
ROWS, PROMPT, TOKENS = 8, 32, 128
MODELS = {
    "tied": (True, 0),
    "untied": (False, 0),
    "tied, LoRA": (True, 8),
    "untied, LoRA": (False, 8),
}
_MIB = 1 << 20


def make_policy(kind: str) -> Policy:
    """Return an untrained Qwen3 with a large vocabulary."""
    tied, rank = MODELS[kind]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=tied,
    )
    policy = Policy(Qwen3ForCausalLM(config), AutoTokenizer.from_pretrained(TINY))
    if rank:
        add_adapters(policy, LoraConfig(rank=rank), torch.float32)
    return policy


def make_batch(policy: Policy) -> Batch:
    """Return rows of random tokens."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (ROWS, PROMPT + TOKENS), generator=random).tolist()
    groups = [
        Group(
            key=i,
            prompt="",
            prompt_ids=tuple(row[:PROMPT]),
            completions=(
                Completion(text="", token_ids=tuple(row[PROMPT:]), logprobs=(-10.0,) * TOKENS),
            ),
            rewards=(Reward(),),
        )
        for i, row in enumerate(ids)
    ]
    return collate(groups, policy.pad_id, policy.device)


def chunked(policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
    """Score as the agent does."""
    logps_BT, entropy_BT = policy(batch, 1.0)
    return logps_BT, entropy_BT


def naive(policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
    """Score as most code does: logits of every position, log_softmax, gather."""
    logits_BTV = policy.model(input_ids=batch.input_ids_BL).logits[:, PROMPT - 1 : -1]
    log_probs_BTV = logits_BTV.log_softmax(dim=-1)
    logps_BT = log_probs_BTV.gather(2, batch.token_ids_BT[..., None])[..., 0]
    with torch.no_grad():
        entropy_BT = -(log_probs_BTV.exp() * log_probs_BTV).sum(dim=-1)
    return logps_BT, entropy_BT


SIDES = {"chunked": chunked, "naive": naive}


def measure(side: str, kind: str) -> tuple[float, float]:
    """Return the peak [MiB] that scoring and backward add to this process, and the loss."""
    policy = make_policy(kind)
    batch = make_batch(policy)
    size = StepSize(completions=ROWS, tokens=ROWS * TOKENS, max_tokens=TOKENS)
    before = _resident()
    logps_BT, entropy_BT = SIDES[side](policy, batch)
    inputs = LossInputs(
        logps_BT=logps_BT,
        entropy_BT=entropy_BT,
        old_logps_BT=logps_BT.detach(),
        sampled_logps_BT=logps_BT.detach(),
        ref_logps_BT=logps_BT.detach() - 0.1,
        advantages_BT=torch.linspace(-1, 1, ROWS)[:, None].expand_as(logps_BT),
        mask_BT=batch.mask_BT,
        weights_BT=token_weights(batch.mask_BT, size, LossConfig()),
    )
    loss, _ = policy_loss(inputs, LossConfig(), resolve(OBJECTIVE, LossConfig()))
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (peak - before) / _MIB, loss.item()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Measure both sides for every kind of model and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="of each side (%(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    logits = ROWS * TOKENS * VOCABULARY * 4 / _MIB
    print(f"{ROWS} x {TOKENS} tokens, {VOCABULARY:,} words: full logits are {logits:.0f} MiB\n")
    print("| head | full logits [MiB] | chunked [MiB] | ratio |\n|---|---|---|---|")
    for kind in MODELS:
        peaks = {}
        losses = set()
        for side in SIDES:
            command = [sys.executable, __file__, "--one", side, kind]
            results = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                for _ in range(options.runs)
            ]
            peaks[side] = median(peak for peak, _ in results)
            losses |= {round(loss, 4) for _, loss in results}
        assert len(losses) == 1, f"the sides disagree: {losses}"
        ratio = peaks["naive"] / peaks["chunked"]
        print(f"| {kind} | {peaks['naive']:.0f} | {peaks['chunked']:.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
