"""How fast is it, beside what the card can do?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, LossConfig
from grpo_envs.types import Group
from grpo_policy import scoring
from grpo_policy.cache_size import cache_bytes_a_token
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.fixed import Fixing
from grpo_policy.samplers.torch import TorchSampler
from tests.gpu.cards import limits_of, measured
from tests.gpu.proof import (
    EVERY_ROW,
    Row,
    Scale,
    accelerator_of,
    as_on_a_card,
    clock,
    endless,
    make_policy,
    prompts_of,
    sampled,
)
from tests.support.counters import Operations
from tests.support.ending import end_by_chance

MODELS = ("tiny", "0.6b", "1.7b")
_COPIES = 8


def limits(scale: Scale) -> Iterator[Row]:
    """What the device can do, by its data sheet and as measured here."""
    named, found = limits_of(scale), measured(scale)
    yield Row(what="limits below are by", value=named.source)
    for which in (named, found) if named.source != found.source else (found,):
        yield Row(what=f"memory, {which.source}", value=which.bandwidth / 1e9, unit="GB/s")
        yield Row(what=f"matrices, {which.source}", value=which.rate / 1e12, unit="TFLOP/s")


def decoding(scale: Scale) -> Iterator[Row]:
    """Kernels and milliseconds of a sampled token, by rows, and the share of the bandwidth."""
    limit = limits_of(scale)
    few, many = 8, scale.of(40, 16)
    for name in MODELS:
        policy = as_on_a_card(endless(make_policy(name, scale)), scale)
        for rows in (1, 32, 256, 512) if scale.gpu else (1, 4):

            def work(tokens: int, rows: int = rows, policy: Policy = policy) -> None:
                sampler = TorchSampler(
                    policy, batch_size=rows, batch_tokens=EVERY_ROW, fixing=Fixing()
                )
                copies = min(_COPIES, rows)
                sampled(sampler, prompts_of(rows // copies, 32), copies, tokens)

            work(few)  # what is compiled or cached at first is not counted
            seconds = [_taken(scale, lambda n=tokens: work(n)) for tokens in (few, many)]  # type: ignore[misc]
            a_token = (seconds[1] - seconds[0]) / (many - few)
            what = f"{name}, {rows} rows"
            yield Row(what=f"{what}: a token of each", value=1e3 * a_token, unit="ms")
            counts = [_launches(scale, lambda n=tokens: work(n)) for tokens in (few, many)]  # type: ignore[misc]
            unit = "kernels" if scale.gpu else "operations"
            launched = (counts[1] - counts[0]) / (many - few)
            yield Row(what=f"{what}: a token of each", value=launched, unit=unit)
            moved = _bytes_a_token(policy, rows, 32 + (few + many) / 2)
            share = moved / a_token / limit.bandwidth
            yield Row(what=f"{what}: share of the bandwidth", value=share)


def captured(scale: Scale) -> Iterator[Row]:
    """A captured step gives the tokens of the same step without a graph, in fewer launches."""
    few, many = scale.of(64, 8), scale.of(128, 16)
    for name in MODELS[:2]:
        policy = as_on_a_card(endless(make_policy(name, scale)), scale)
        for rows in (1, 32, 256) if scale.gpu else (1, 4):
            what, tokens = f"{name}, {rows} rows", {}
            for how, fixing in _steps(scale).items():

                def work(
                    tokens: int, fixing: Fixing = fixing, policy: Policy = policy, rows: int = rows
                ) -> list[Group]:
                    sampler = TorchSampler(
                        policy, batch_size=rows, batch_tokens=EVERY_ROW, fixing=fixing
                    )
                    copies = min(_COPIES, rows)
                    return sampled(sampler, prompts_of(rows // copies, 32), copies, tokens)

                groups = work(many)
                tokens[how] = [t for g in groups for c in g.completions for t in c.token_ids]
                seconds = [_taken(scale, lambda n=n: work(n)) for n in (few, many)]  # type: ignore[misc]
                counts = [_launches(scale, lambda n=n: work(n), starts=True) for n in (few, many)]  # type: ignore[misc]
                each = f"{what}, {how}: a token of each"
                a_token = (seconds[1] - seconds[0]) / (many - few)
                yield Row(what=each, value=1e3 * a_token, unit="ms")
                unit = "launches" if scale.gpu else "operations"
                yield Row(what=each, value=(counts[1] - counts[0]) / (many - few), unit=unit)
                if how == _GRAPH and scale.gpu:
                    yield Row(what=f"{what}: captured", value=float(fixing.capture), least=1)
            for how, least in ((_FIXED, 1.0), (_ORDINARY, None if scale.gpu else 0.95)):
                equal = sum(a == b for a, b in zip(tokens[_GRAPH], tokens[how], strict=True))
                share = equal / len(tokens[how])
                yield Row(what=f"{what}: tokens as {how}", value=share, least=least)


_GRAPH, _FIXED, _ORDINARY = "a graph", "the same without a graph", "an ordinary step"


def _steps(scale: Scale) -> dict[str, Fixing]:
    return {
        _GRAPH: Fixing(fix=True, capture=scale.gpu),
        _FIXED: Fixing(fix=True),
        _ORDINARY: Fixing(),
    }


def _taken(scale: Scale, work: Callable[[], object]) -> float:
    """Return the seconds that some work takes, the better of two times."""
    found = []
    for _ in range(2):
        with clock(scale) as taken:
            work()
        found += taken
    return min(found)


def _launches(scale: Scale, work: Callable[[], object], *, starts: bool = False) -> int:
    """Return the kernels that a GPU is given; on a CPU the operations that PyTorch dispatches.

    With `starts`: how often the host starts a kernel, or a graph of many.
    """
    if not scale.gpu:
        with Operations() as counted:
            work()
        return int(counted.total)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    if starts:
        names = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
        return sum(event.name.startswith(names) for event in seen.events() or ())
    events = [event for event in seen.events() or () if event.device_type == DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in events)


def _bytes_a_token(policy: Policy, rows: int, length: float) -> float:
    """Return what must be read for a token of each row: every weight, and every row's cache."""
    dtype = policy.model.dtype
    cache = cache_bytes_a_token(policy.model.config, dtype) * rows * length
    return float(policy.size * dtype.itemsize + cache)


def chunks(scale: Scale) -> Iterator[Row]:
    """Scoring and its gradient, by the tokens of a chunk; the chosen number is near the best."""
    policy = as_on_a_card(make_policy("0.6b", scale), scale)
    head = policy.model.get_output_embeddings()
    words, width = head.weight.shape
    count = scale.of(8192, 64)
    dtype = policy.model.dtype
    hidden_ND = torch.randn(count, width, device=scale.device, dtype=dtype).requires_grad_()
    targets_N = torch.randint(0, words, (count,), device=scale.device)

    def work() -> None:
        logps_N, _ = scoring.score_tokens(hidden_ND, targets_N, head, 1.0)
        logps_N.sum().backward()

    chosen = scoring.chunk_tokens(scale.device.type, words)
    taken = {}
    for tokens in sorted({*(32, 128, 512, 2048, 8192), chosen} if scale.gpu else {8, 32, chosen}):
        with patch.object(scoring, "chunk_tokens", lambda *_, n=tokens: n):
            work()
            if scale.gpu:
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if scale.gpu else 0
            taken[tokens] = _taken(scale, work)
        mark = " (chosen)" if tokens == chosen else ""
        yield Row(
            what=f"{tokens} tokens{mark}: {count} of them", value=1e3 * taken[tokens], unit="ms"
        )
        if scale.gpu:
            more = (torch.cuda.max_memory_allocated() - before) / 2**30
            yield Row(what=f"{tokens} tokens{mark}: memory", value=more, unit="GiB")
    most = 1.25 if scale.gpu else None
    yield Row(what="chosen, beside the best", value=taken[chosen] / min(taken.values()), most=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A step that is measured."""

    model: str
    prompts: int
    tokens: int
    mean: int = 0
    """Tokens after which a completion ends on average, by chance; 0: none ends."""


def step_600m(scale: Scale) -> Iterator[Row]:
    """A step of Qwen3-0.6B's shape, all completions of one length; then ended by chance."""
    yield from _step(scale, _Step(model="0.6b", prompts=64, tokens=scale.of(256, 8)))
    ragged = _Step(model="0.6b", prompts=64, tokens=scale.of(1024, 32), mean=scale.of(256, 8))
    yield from _step(scale, ragged)


def step_1700m(scale: Scale) -> Iterator[Row]:
    """A step of Qwen3-1.7B's shape."""
    yield from _step(scale, _Step(model="1.7b", prompts=64, tokens=scale.of(256, 8)))


def _step(scale: Scale, step: _Step) -> Iterator[Row]:
    policy = make_policy(step.model, scale)
    if step.mean:
        end_by_chance(policy.model, policy.eos_ids[0], 1 / step.mean)
    else:
        endless(policy)
    as_on_a_card(policy, scale)
    cfg = GrpoConfig(
        group_size=_COPIES,
        lr=1e-6,
        micro_batch_tokens=scale.of(8192, 512),
        loss=LossConfig(beta=0.0),
    )
    agent = GrpoAgent(policy, cfg, accelerator_of(scale), Decoding(max_new_tokens=step.tokens))
    sampler = TorchSampler(policy)
    prompts = prompts_of(scale.of(step.prompts, 4), scale.of(128, 12))
    sampled(sampler, prompts[:4], _COPIES, 8)  # what is done once is not counted, here and below
    if scale.gpu:
        torch.cuda.reset_peak_memory_stats()
    with clock(scale) as sampling:
        groups = sampled(sampler, prompts, _COPIES, step.tokens)
    with clock(scale) as first:
        agent.update(groups)
    yield Row(what=f"{_named(step)}: first update, which compiles", value=first[0], unit="s")
    with clock(scale) as updating:
        metrics, _ = agent.update(groups)
    yield from _figures(scale, step, policy, (groups, sampling[0], updating[0]))
    yield Row(what=f"{_named(step)}: updates skipped", value=metrics["optim/skipped"], most=0)


def _named(step: _Step) -> str:
    return f"{step.model}, {'ragged' if step.mean else 'equal'}"


def _figures(
    scale: Scale, step: _Step, policy: Policy, seen: tuple[list[Group], float, float]
) -> Iterator[Row]:
    groups, sampling, updating = seen
    limit, what = limits_of(scale), _named(step)
    lengths = [len(c.token_ids) for group in groups for c in group.completions]
    prompts = sum(len(group.prompt_ids) for group in groups)
    rate = sum(lengths) / (sampling + updating)
    yield Row(what=f"{what}: completions", value=len(lengths))
    yield Row(what=f"{what}: mean length", value=sum(lengths) / len(lengths), unit="tokens")
    yield Row(what=f"{what}: sampling", value=sampling, unit="s")
    yield Row(what=f"{what}: update", value=updating, unit="s")
    yield Row(what=f"{what}: both", value=rate, unit="tokens/s")
    itemsize = 2 if scale.gpu else 4
    # At least: every weight for each token of the longest, each row's cache for each of its tokens.
    cache = cache_bytes_a_token(policy.model.config, torch.bfloat16) * itemsize / 2
    length = prompts / len(groups)
    read = sum(cache * n * (length + n / 2) for n in lengths)
    read += policy.size * itemsize * max(lengths)
    yield Row(
        what=f"{what}: share of the bandwidth, sampling", value=read / sampling / limit.bandwidth
    )
    operations = 6 * policy.size * (sum(lengths) + prompts)
    yield Row(
        what=f"{what}: share of the matrix rate, update", value=operations / updating / limit.rate
    )
    if scale.gpu:
        for which in ("allocated", "reserved"):
            used = getattr(torch.cuda, f"max_memory_{which}")() / 2**30
            yield Row(what=f"{what}: peak {which}", value=used, unit="GiB")


PARTS = {limits: 2, decoding: 6, captured: 4, chunks: 3, step_600m: 6, step_1700m: 5}
"""Minutes that each may take."""
