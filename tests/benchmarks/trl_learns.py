"""TRL learns our countdown: `python tests/benchmarks/trl_learns.py` (some minutes on a CPU).

TRL's GRPOTrainer trains the bundled model on `grpo_envs.interop.trl.Task`, and the share of right
answers to held-out problems is printed before and after, greedily decoded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from grpo_envs.interop.trl import Task
from grpo_policy.models import TINY


def trainer_for(task: Task, steps: int, out: str, **more: Any) -> Any:
    """Return TRL's trainer of the bundled model."""
    from trl import GRPOConfig, GRPOTrainer

    settings = {
        "per_device_train_batch_size": 64,
        "num_generations": 8,
        "max_completion_length": 64,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
        "seed": 1,
        **more.pop("settings", {}),
    }
    args = GRPOConfig(
        output_dir=out,
        max_steps=steps,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        **settings,
    )
    return GRPOTrainer(
        model=str(TINY),
        args=args,
        train_dataset=task.train_dataset,
        reward_funcs=task.reward_funcs,
        **more,
    )


def accuracy(trainer: Any, task: Task, problems: int) -> float:
    """Return the share of held-out problems that the model answers rightly, without chance."""
    import torch

    rows = task.dataset("eval", problems)
    tokenizer, model = trainer.processing_class, trainer.model
    asked = tokenizer.apply_chat_template(
        rows["prompt"][:],
        add_generation_prompt=True,
        padding=True,
        padding_side="left",
        return_dict=True,
        return_tensors="pt",
    )
    model.eval()
    with torch.no_grad():
        ids = model.generate(**asked, do_sample=False, max_new_tokens=64)
    model.train()
    answers = tokenizer.batch_decode(
        ids[:, asked["input_ids"].shape[1] :], skip_special_tokens=True
    )
    parts: dict[str, list[float]] = {}
    columns = {key: rows[key] for key in rows.column_names if key != "prompt"}
    task.reward_funcs[0](completions=answers, log_extra=parts.__setitem__, **columns)
    return sum(parts["correct"]) / problems


def main() -> None:
    """Print the accuracies, and the reward of the first and the last ten steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--problems", type=int, default=256, help="held out")
    options = parser.parse_args()
    task = Task("countdown")
    with tempfile.TemporaryDirectory() as out:
        trainer = trainer_for(task, options.steps, out)
        before = accuracy(trainer, task, options.problems)
        trainer.train()
        after = accuracy(trainer, task, options.problems)
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    first, last = sum(rewards[:10]) / len(rewards[:10]), sum(rewards[-10:]) / len(rewards[-10:])
    print(f"reward: {first:.3f} in the first ten steps, {last:.3f} in the last ten")
    print(f"held-out accuracy: {before:.3f} before, {after:.3f} after {options.steps} steps")


if __name__ == "__main__":
    main()
