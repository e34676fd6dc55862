"""Reads our files with verl's data set and grades answers by its reward manager, on a CPU.

    python in_verl.py train.parquet < '["answer", ...]'

Prints of each row the prompt that verl read and what its manager noted; null for an answer that the
bundled tokenizer cannot write.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

CONFIG = {
    "max_prompt_length": 4096,
    "filter_overlong_prompts": True,
    "filter_overlong_prompts_workers": 1,
    "reward": {
        "custom_reward_function": {"path": "pkg://grpo_envs.interop.verl", "name": "compute_score"}
    },
}


async def graded(manager: Any, row: dict[str, Any], answer: str) -> Any:
    """Grade an answer to one row, as a rollout of verl hands it over."""
    ids = manager.tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not ids or manager.tokenizer.decode(ids, skip_special_tokens=True) != answer:
        return None
    batch = DataProto.from_single_dict(collate_fn([row]))
    batch.batch["responses"] = torch.tensor([[*ids, 0]])
    batch.batch["attention_mask"] = torch.tensor([[*(1 for _ in ids), 0]])
    return await manager.run_single(batch)


async def main() -> None:
    """Grade the answers of stdin to the rows of the file, in their order."""
    config, tokenizer = OmegaConf.create(CONFIG), AutoTokenizer.from_pretrained(sys.argv[2])
    data = RLHFDataset(sys.argv[1], tokenizer, config)
    manager = get_reward_manager_cls("naive")(config, tokenizer, get_custom_reward_fn(config))
    answers = json.load(sys.stdin)
    assert len(data) == len(answers), "verl dropped rows"
    rows = [data[i] for i in range(len(data))]
    pairs = zip(rows, answers, strict=True)
    print(json.dumps([[r["raw_prompt"], await graded(manager, r, answer)] for r, answer in pairs]))


if __name__ == "__main__":
    asyncio.run(main())
