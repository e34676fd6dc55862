"""What memory will a run need? `python -m grpo_envs.plan model.size=4b`: no GPU, no weights.

It accepts the keys of a run and prints the parts of its memory, while sampling and in the update.
If they do not fit, it prints the keys to change. With sampler=vllm it also prints how many GPUs
should sample for each GPU that trains.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from grpo_envs.config.composition import compose_run
from grpo_envs.config.schema import RunConfig
from grpo_envs.errors import ConfigError, require, require_training
from grpo_envs.runtime.terminal import exit_on_error

if TYPE_CHECKING:
    from grpo_envs.training.needs import Needs

_UNITS = {"MiB": 2**20, "MB": 10**6, "GiB": 2**30, "GB": 10**9}
_FREE = 0.1
"""Share of the memory that stays free: for CUDA itself, and for fragmentation."""
_TERA = 1e12
_KEY_OF_ROWS = "agent.micro_batch_tokens"
_WORTH = 0.99
"""A key that leaves more than this share of the peak is not worth changing."""


@exit_on_error()
def main() -> None:
    """Print what a run needs; exit 1 if it does not fit, 2 on a mistake."""
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.plan", description=f"{first} {more}".replace("\n", " ")
    )
    words = "as for a run, e.g. model.size=4b model.lora.rank=32"
    parser.add_argument("overrides", nargs="*", help=words)
    parser.add_argument(
        "--memory", help="the device's memory, e.g. 24GiB (that of this machine's GPU)"
    )
    parser.add_argument(
        "--prompt-tokens", type=int, default=256, help="tokens of a prompt (%(default)s)"
    )
    parser.add_argument(
        "--fsdp",
        type=int,
        default=1,
        help="processes that share the optimiser, or what trainer.shard=... says (%(default)s)",
    )
    _add_pace(parser)
    options = parser.parse_intermixed_args()
    for name, least in (("prompt_tokens", 1), ("fsdp", 1), ("answer_tokens", 1), ("gpus", 2)):
        value = getattr(options, name)
        require(value is None or value >= least, _flag(name), value, f"{least} or more")
    for name in ("decode_rate", "update_tflops"):
        value = getattr(options, name)
        require(value is None or value > 0, _flag(name), value, "above 0")
    plan = _needs(compose_run(options.overrides), options)
    print("\n".join([*page(plan), *_page_of_pace(plan, options)]))
    if plan.memory is not None and not _fits(plan, plan.memory):
        print("It does not fit: a tenth of the memory should stay free.")
        _advise(plan, plan.memory, options)
        sys.exit(1)


def _add_pace(parser: argparse.ArgumentParser) -> None:
    """Add the options for computing how many GPUs sample for each one that trains."""
    parser.add_argument(
        "--answer-tokens", type=int, help="mean tokens of an answer (sampler.max_new_tokens)"
    )
    parser.add_argument(
        "--decode-rate", type=float, help="tokens/s that a GPU samples (what 2 TB/s allow)"
    )
    parser.add_argument(
        "--update-tflops", type=float, help="TFLOP/s that a GPU reaches in an update (300)"
    )
    parser.add_argument(
        "--gpus", type=int, default=8, help="GPUs that sample or train (%(default)s)"
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _needs(cfg: RunConfig, options: argparse.Namespace) -> Needs:
    require_training("a plan")
    from grpo_envs.training.needs import SPEED, needs  # torch and transformers: not for a mistake

    flops = SPEED.flops if options.update_tflops is None else options.update_tflops * _TERA
    return needs(
        cfg,
        prompt=options.prompt_tokens,
        shards=options.fsdp,
        memory=None if options.memory is None else read_memory(options.memory),
        answer=options.answer_tokens,
        speed=replace(SPEED, flops=flops, tokens=options.decode_rate),
    )


def read_memory(text: str) -> float:
    """Read a size [B].

    >>> read_memory("24GiB") / 2**30, read_memory("80 GB") / 1e9
    (24.0, 80.0)

    Raises:
        ConfigError: the text is not a size.
    """
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", text.strip())
    if found is None:
        raise ConfigError(f"--memory={text}. Allowed: a number and {', '.join(_UNITS)}: 24GiB.")
    return float(found[1]) * _UNITS[found[2]]


def shown_size(size: float) -> str:
    """Return a number of bytes as text, in GiB or MiB.

    >>> shown_size(7.5 * 2**30), shown_size(3 * 2**20)
    ('7.5 GiB', '3.0 MiB')
    """
    unit = "GiB" if size >= _UNITS["GiB"] else "MiB"
    return f"{size / _UNITS[unit]:,.1f} {unit}"


def page(plan: Needs) -> list[str]:
    """Return the lines that say what a run needs."""
    from grpo_policy.footprint import PHASES  # torch is there by now

    found = plan.found
    trained = "all" if found.trained == found.parameters else f"{found.trained / 1e6:,.1f} M"
    where = "the CPU" if plan.device == "cpu" else "a GPU"
    head = f"{plan.model}: {found.parameters / 1e6:,.1f} M parameters, {trained} trained"
    rows = [["", *PHASES, ""]]
    for part in found.parts:
        sizes = [shown_size(part.size) if phase in part.phases else "-" for phase in PHASES]
        rows.append([part.name, *sizes, part.how])
    whole = [shown_size(found.needed(phase)) for phase in PHASES]
    rows.append(["together", *whole, ""])
    lines = [f"{a:<12}{b:>11}{c:>11}  {d}".rstrip() for a, b, c, d in rows]
    memory = [] if plan.memory is None else [f"memory: {shown_size(plan.memory)}"]
    return [f"{head}, {plan.precision}, on {where}", *lines, *memory]


def _page_of_pace(plan: Needs, options: argparse.Namespace) -> list[str]:
    """Return the lines that say how many GPUs sample and how many train."""
    if (found := plan.pace) is None:
        return []
    rate = "assumed" if options.decode_rate is None else "given"
    flops = "assumed" if options.update_tflops is None else "given"
    turns, seconds = found.in_turn(options.gpus)
    return [
        f"sampling: {found.tokens:,} tokens a step at {found.rate:,.0f} a second ({rate}): "
        f"{found.sample:,.1f} s of a GPU",
        f"update: {found.flops / _TERA:,.0f} TFLOP a step at "
        f"{found.flops / found.update / _TERA:,.0f} a second ({flops}): "
        f"{found.update:,.1f} s of a GPU",
        f"trainer.lag=1: {_gpus(found.samplers, 'sample')} for one that trains "
        f"({found.sample / found.update:.2f} keep it busy); a step takes "
        f"{max(found.update, found.sample / found.samplers):,.1f} s",
        f"trainer.lag=0, {options.gpus} GPUs: {_gpus(turns, 'sample')}, "
        f"{options.gpus - turns} train; a step takes {seconds:,.1f} s",
    ]


def _gpus(count: int, what: str) -> str:
    return f"1 GPU {what}s" if count == 1 else f"{count} GPUs {what}"


def _fits(plan: Needs, memory: float) -> bool:
    return plan.found.peak <= (1 - _FREE) * memory


def _advise(plan: Needs, memory: float, options: argparse.Namespace) -> None:
    """Print the keys with which the run would fit, if there are any."""
    given, keys = list(options.overrides), list[str]()
    cfg, limit = compose_run(given), (1 - _FREE) * memory
    by_weight = list(_keys_of_weights(plan, cfg))
    by_rows = [_KEY_OF_ROWS, "model.gradient_checkpointing=true"]
    large = plan.found.by_weight > limit  # even with the fewest rows
    for key in [*by_weight, *by_rows] if large else [*by_rows, *by_weight]:
        if _fits(plan, memory):
            break
        setting = _rows_that_fit(plan, cfg, limit) if key == _KEY_OF_ROWS else key
        if setting is None:
            continue
        turned = _needs(compose_run([*given, *keys, setting]), options)
        enough = turned.found.by_weight <= limit or [key] == by_weight[-1:]
        worth = turned.found.peak <= _WORTH * plan.found.peak
        if worth and (enough or key not in by_weight):
            keys, plan = [*keys, setting], turned
    peak = shown_size(plan.found.peak)
    if _fits(plan, memory):
        print(f"{peak} with {' '.join(keys)}")
        return
    best = f" ({peak} with {' '.join(keys)})" if keys else ""
    print(f"No key is enough{best}. Take a smaller model.size, or share it by GPUs: --fsdp 8.")


def _rows_that_fit(plan: Needs, cfg: RunConfig, limit: float) -> str | None:
    """Return the setting for the largest micro-batches that fit; None if there is no such key."""
    if not hasattr(cfg.agent, "micro_batch_tokens"):
        return None
    row, rest = plan.found.row, limit - plan.found.needed("update")
    tokens = int(cfg.agent.micro_batch_tokens + rest / plan.found.a_token)
    return f"{_KEY_OF_ROWS}={max(row, tokens // row * row)}"


def _keys_of_weights(plan: Needs, cfg: RunConfig) -> Iterator[str]:
    """Yield the settings that save memory of weights, the smallest change first."""
    if plan.precision == "fp32" and plan.device == "cuda":
        yield "trainer.precision=bf16"
    if cfg.sampler.batch_tokens is not None:
        yield "sampler.batch_tokens=null"
    if cfg.agent.reference or cfg.agent.critic_body == "own":
        yield from cfg.agent.memory_keys
    if not cfg.model.lora.rank and cfg.trainer.shard != "full":
        yield "model.lora.rank=32"


if __name__ == "__main__":
    main()
