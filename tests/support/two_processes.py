"""A program for `accelerate launch`: what test_processes.py compares with one process.

Every process is given the same groups and takes its share.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig
from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.processes import ALONE, Processes, connect
from grpo_envs.runtime.stopping import StopNow
from grpo_envs.training.build import build, make_accelerator
from grpo_envs.training.environments import make_envs
from grpo_policy.batch import collate
from grpo_policy.learner import Learner, LearnerSettings, Scored
from grpo_policy.models import TINY, load_policy
from grpo_policy.samplers import Decoding
from tests.agents.test_agent import PRESETS, groups, made
from tests.conftest import make_random_policy

SCORES = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5], [0.5, 0.5, 0.5, 0.5]]
GRADIENTS = [*PRESETS, "one group a minibatch", "fewer rows than processes"]
QUICK = ["grpo", "fewer rows than processes"]
"""Of the gradients, what the default suite compares."""
OF_FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What `accelerate launch --use_fsdp --fsdp_version 2` tells its processes."""
SHARDED_GRADIENTS = ["grpo", "fewer rows than processes"]
SHARDED_RUNS = ["several updates", "sampled in bf16"]
SMALL = [
    *("model.size=tiny", "trainer.device=cpu", "logger=files", "sampler.max_new_tokens=12"),
    *("trainer.prompts_per_step=3", "agent.group_size=4", "agent.minibatches=1"),
    *("trainer.steps=3", "trainer.save_every=2", "agent.warmup_steps=0"),
    *("trainer.eval_problems=5", "trainer.eval_samples=2"),
]
_LEVELS = "env.of={math: {levels: [1, 2, 3]}, countdown: {}}"
RUNS = {
    "plain": [],
    "several updates": ["agent.epochs=2", "agent.minibatches=3", "agent.sync_reference_every=2"],
    "KL in the reward, one problem": ["agent=rloo", "agent.lr=1e-4", "trainer.eval_problems=1"],
    "LoRA, conversations": ["model.lora.rank=4", "env=guess"],
    "sampled in bf16": [  # the last bits depend on the shape of a batch; a correction would, too
        *("sampler.precision=bf16", "trainer.eval_problems=0", "agent.loss.correction=none"),
    ],
    "mixture": ["env=mixture", _LEVELS, "env.pace=1", "agent=dapo", "agent.dynamic_sampling=2"],
}
IN_BF16 = ["trainer.precision=bf16", "trainer.eval_problems=0"]
IN_FP16 = ["trainer.precision=fp16", "trainer.eval_problems=0"]
"""What two processes sample is not what one does: roundings depend on the shape of a batch."""


def train(out: Path, name: str, processes: Processes = ALONE, *more: str) -> list[int]:
    """Make one of the runs, or go on with it; return how many answers evaluations took of it."""
    cfg = compose_run([*SMALL, *RUNS[name], *more])
    folder = out / name
    trainer = build(cfg, folder, make_envs(cfg, processes), processes)
    trainer.run()
    return [answers for answers, _ in trainer.evaluation.main._players]


def config_of(preset: str) -> GrpoConfig:
    """The preset with one update a step: its gradient is what is compared."""
    agent: GrpoConfig = compose_run([f"agent={preset}"]).agent
    return replace(agent, lr=1e-3, minibatches=1, max_grad_norm=1e9, micro_batch_tokens=130)


def gradients(accelerator: Accelerator, case: str) -> dict[str, Tensor]:
    """Make an update; return the gradient it was made with, of several the last."""
    policy = make_random_policy()
    given = groups(policy, SCORES)
    cfg = config_of(case if case in PRESETS else "grpo")
    if case == "one group a minibatch":
        cfg = replace(cfg, minibatches=4, lr=1e-6)
    if case == "fewer rows than processes":
        given = [
            replace(g, completions=g.completions[1:2], rewards=g.rewards[1:2]) for g in given[:1]
        ]
    agent = GrpoAgent(policy, cfg, accelerator, Decoding(max_new_tokens=15))
    with torch.no_grad():  # away from the reference, or the KL would be 0
        for parameter in policy.model.parameters():
            parameter.mul_(1.05)
    caught: dict[str, Tensor] = {}

    def catch(*_: object) -> None:
        (group,) = agent.learner.optimizer.param_groups
        for name, parameter in zip(policy.masters.computing(), group["params"], strict=True):
            assert parameter.grad is not None
            gradient = parameter.grad.clone()
            caught[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient

    agent.learner.optimizer.register_step_pre_hook(catch)
    metrics, advantages = agent.update(given)
    moments = [values["exp_avg"] for values in agent.learner.optimizer.state.values()]
    held = sum(x.to_local().numel() if isinstance(x, DTensor) else x.numel() for x in moments)
    shared = ("loss/total", "policy/entropy", "loss/kl", "optim/grad_norm")
    found = {name: torch.tensor(metrics[name]) for name in shared if name in metrics}
    return caught | found | {"advantages": torch.tensor(advantages), "moments": torch.tensor(held)}


def overflowed(accelerator: Accelerator) -> dict[str, Tensor]:
    """Make two updates in fp16, in which the gradient of the last row alone overflows at first.

    A parameter is a single number, and another has a gradient in the last row alone.

    Returns:
        The last gradient by name; of each attempt, whether this process's own was finite; the scale
        of the loss then.
    """
    policy = load_policy(str(TINY))
    for name in ("gain", "bonus"):
        policy.model.register_parameter(name, nn.Parameter(torch.ones(())))
    policy.model.model.norm.register_forward_hook(lambda *args: args[-1] + 1e-3 * policy.model.gain)
    policy.compute_in(torch.float16)
    settings = LearnerSettings(lr=1e-3, max_grad_norm=1e9, micro_batch_tokens=1)
    learner = Learner(policy, settings, accelerator)
    group = made([4, 6, 5, 7], [1.0, 0.0, 0.0, 1.0])
    batch = collate([group], policy.pad_id, policy.device)
    weights_B = torch.tensor([1e-3, -1e-3, 1e-3, 1e-3])
    model, last = policy.model, len(weights_B) - 1

    def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
        total = -(weights_B[scored.rows_B, None] * scored.logps_BT).sum()
        if last in scored.rows_B.tolist():
            total = total + 1e-4 * model.bonus + 3 * model.model.layers[0].mlp.up_proj.weight[0, 0]
        return total, {}

    finite: list[bool] = []
    take = policy.masters.take_gradients

    def look() -> dict[str, Tensor | None]:
        found = take()
        finite.append(all(bool(g.isfinite().all()) for g in found.values() if g is not None))
        return found

    policy.masters.take_gradients = look  # type: ignore[method-assign]
    caught: dict[str, Tensor] = {}

    def catch(*_: object) -> None:
        (group,) = learner.optimizer.param_groups
        for name, p in zip(policy.masters.computing(), group["params"], strict=True):
            gradient = p.grad.clone()
            caught[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient

    learner.optimizer.register_step_pre_hook(catch)
    metrics = learner.learn([(batch, loss)] * 2)
    numbers = {
        "skipped": metrics["optim/skipped"],
        "scale": learner.state_dict()["scaler"]["scale"],
    }
    found = {name: torch.tensor(number) for name, number in numbers.items()}
    return caught | found | {"finite": torch.tensor(finite)}


def in_fp16(out: Path, processes: Processes) -> None:
    """Overflow in one process, and make a run: with whole masters, then in shards."""
    for kind in ("", " sharded"):
        if kind:
            os.environ.update(OF_FSDP)
        found = overflowed(make_accelerator(compose_run(SMALL).trainer))
        torch.save(found, out / f"{processes.index}{kind}.pt")
        train(out / f"fp16{kind}", "plain", processes, *IN_FP16)


def _raised(processes: Processes, what: Exception) -> str:
    """Return what the processes raise where the last one raises something."""

    def do() -> None:
        if processes.index == processes.count - 1:
            raise what

    try:
        processes.gather(do)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is asked for
        return f"{type(error).__name__}: {error}"
    return "nothing"


def exchanged(processes: Processes) -> dict[str, object]:
    """Return what the processes tell each other."""
    numbers: list[int] = []

    def count() -> None:
        numbers.append(processes.index)

    processes.by_first(count)
    return {
        "gathered": processes.gather(lambda: processes.index),
        "by first": processes.by_first(lambda: processes.index),
        "each": processes.each(lambda: processes.index),
        "shares": processes.gather(lambda: list(processes.share(range(7)))),
        "done by": numbers,
        "a mistake": _raised(processes, ConfigError("env.level=9.")),
        "a stop": _raised(processes, StopNow()),
        "a bug": _raised(processes, KeyError("level")),
    }


def asked(out: Path, processes: Processes) -> tuple[bool, int]:
    """Ask the last process alone to end; return whether this one ends, after how many steps."""
    cfg = compose_run([*SMALL, "trainer.eval_problems=0"])
    trainer = build(cfg, out / "asked", make_envs(cfg, processes), processes)
    trainer.stop.asked = processes.index == processes.count - 1
    trainer.run()
    return trainer.stop.asked, trainer.done


def main(out: Path, how: str) -> None:
    """Write what was found to a file; make the runs: all of them, the quick ones, or in fp16."""
    torch.set_num_threads(1)
    processes = connect("cpu")
    print(f"process {processes.index} of {processes.count}", flush=True)
    if how == "fp16":
        in_fp16(out, processes)
    else:
        compared(out, processes, quick=how == "quick")


def compared(out: Path, processes: Processes, *, quick: bool) -> None:
    """Do what is compared with one process."""
    accelerator = Accelerator(cpu=True)
    cases, names = (QUICK, ["plain"]) if quick else (GRADIENTS, list(RUNS))
    found = {case: gradients(accelerator, case) for case in cases}
    torch.save(found, out / f"{processes.index}.pt")
    answers = {name: train(out / "two", name, processes) for name in names}
    results = exchanged(processes) | {"answers": answers["plain"], "asked": asked(out, processes)}
    (out / f"{processes.index}.txt").write_text(repr(results), encoding="utf-8")
    train(out / "more", "plain", processes, "trainer.steps=5", f"resume={out / 'more' / 'plain'}")
    if not quick:
        train(out / "bf16", "plain", processes, *IN_BF16)
    sharded(out, processes, [] if quick else SHARDED_RUNS)
    if not quick:
        train(out / "bf16 sharded", "plain", processes, *IN_BF16)


def sharded(out: Path, processes: Processes, runs: Sequence[str]) -> None:
    """Do some of it again, in shards."""
    os.environ.update(OF_FSDP)
    trainer = compose_run(SMALL).trainer
    found = {case: gradients(make_accelerator(trainer), case) for case in SHARDED_GRADIENTS}
    torch.save(found, out / f"{processes.index} sharded.pt")
    begun = out / "sharded" / "plain"
    train(out / "sharded", "plain", processes, "trainer.steps=5", f"resume={begun}")
    for name in runs:
        train(out / "sharded", name, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
