"""A self-test of a loaded model on two short prompts: is it sampled and scored exactly?

The reference is the model's plain pass over one whole sequence. Compared with it are the sampler
(groups, left padding, the cache, a group that joins another, a conversation that goes on, steps on
fixed memory) and the scores of an update (right padding, the head in chunks, shared prompts). If
one of these differs, another way is used or the model is refused, so that sampling and training
always compute the model itself.

The prompts are short. A model whose attention changes past some length, such as a sliding window,
is tried with that length narrowed to a few tokens, so that it is tried past it. If it is exact only
within the length, or selects keys beyond it, its context is limited to it (`Policy.reach`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from grpo_envs.errors import ConfigError
from grpo_envs.types import Completion, Group
from grpo_policy.batch import Batch, collate
from grpo_policy.kv_cache import ways_to_cache
from grpo_policy.loading import require_loaded_as_saved
from grpo_policy.policy import Policy
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.conversations import Conversations
from grpo_policy.samplers.fixed import Fixing
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.torch import sample
from grpo_policy.windows import narrowed, reaches

_LENGTHS = (9, 5)
"""Tokens of the two prompts: the shorter one is padded."""
_COPIES = 2
_DECODING = Decoding(temperature=0.0, max_new_tokens=6)
_TURN = 2
"""Tokens of each of two answers in the trial of a conversation."""
_REPLIES = (2, 1)
"""Tokens of the reply between them, for each prompt."""
_TOLERANCE = 2e-3
"""The largest error of a log-probability, in standard deviations of the logits. Errors of float32
are below 3e-4 (measured on 90 architectures), and wrong computations differ by more than 0.02."""
_LOW_TOLERANCE = 0.1
"""The same for weights in half precision or less: in bf16 the shape of a batch alone changes
log-probabilities by 0.05."""
_COMMON = 500
"""The prompts use the first tokens of the vocabulary: rare tokens may share an embedding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """Sampled completions, and the reference for each of their tokens."""

    groups: list[Group]
    logps_B: list[Tensor]
    """For each row, the log-probability of each sampled token (T)."""
    spread_B: list[Tensor]
    """For each row, the standard deviation of the logits at each token (T)."""
    greedy: float
    """The largest gap of a sampled token to the most likely token, relative to the spread."""
    tolerance: float
    """The largest allowed error of log-probabilities, relative to the spread."""

    def off(self, logps_B: Sequence[Tensor]) -> float:
        """Return the largest error of these log-probabilities, relative to the spread."""
        gaps = [
            ((mine - own).abs() / spread).max()
            for mine, own, spread in zip(logps_B, self.logps_B, self.spread_B, strict=True)
        ]
        return float(torch.stack(gaps).max())


@torch.no_grad()
def settle(policy: Policy, path: str) -> None:
    """Find out how to cache and pack the model and to compute its logits; refuse inexact models.

    Args:
        policy: Its `caching`, `own_head`, `share_prompts`, `fixes` and `reach` are set.
        path: The path of the model, for messages.

    Raises:
        ConfigError: the model cannot be sampled or scored exactly; one line that names its class.
    """
    name = f"model.path={path}: {type(policy.model).__name__}"
    _require_numbers(policy, name)
    _require_padding(policy, name)
    require_loaded_as_saved(policy.model, name)
    lengths = reaches(policy.model)
    policy.reach = None  # while it is tried
    limit = next((reach for reach in lengths if reach.selects), None)
    try:
        with narrowed(policy.model) if lengths else nullcontext():
            _settle(policy, name)
    except ConfigError:
        if not lengths:
            raise
        limit = lengths[0]
        _settle(policy, name)
    policy.reach = limit


def _settle(policy: Policy, name: str) -> None:
    """Find out all this for the lengths past which the model's attention changes now."""
    trial = _sampled_exactly(policy, name)
    policy.caching = replace(policy.caching, joins=_joins(policy, trial))
    policy.caching = replace(policy.caching, keeps=policy.caching.joins and _keeps(policy, trial))
    batch = collate(trial.groups, policy.pad_id, policy.device)
    _score_exactly(policy, trial, batch, name)
    policy.share_prompts = _works(lambda: _packed_logps(policy, batch), trial)
    policy.fixes = policy.takes_pairs and _same_again(policy, trial, fixing=Fixing(fix=True))


def _require_numbers(policy: Policy, name: str) -> None:
    for weight, value in policy.model.named_parameters():
        if not bool(value.isfinite().all()):
            raise ConfigError(f"{name} has weights that are not finite: {weight}.")


def _require_padding(policy: Policy, name: str) -> None:
    known = len(policy.model.get_input_embeddings().weight)
    if policy.pad_id >= known:
        token = policy.tokenizer.decode([policy.pad_id])
        raise ConfigError(
            f"{name} has no embedding for the tokenizer's padding, {token!r}. Resize the model's "
            "embeddings, or set another pad_token."
        )


def _sampled_exactly(policy: Policy, name: str) -> _Trial:
    ways = ways_to_cache(inspect.signature(policy.model.forward).parameters)
    causes = []
    for policy.caching in ways:
        try:
            trial = _sample(policy)
        except Exception as error:  # noqa: BLE001  a model can raise anything; try another way
            causes.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        sampled_B = [torch.tensor(c.logprobs) for group in trial.groups for c in group.completions]
        worst = max(trial.off(sampled_B), trial.greedy)
        if worst <= trial.tolerance:
            return trial
        causes.append(f"its cache gives log-probabilities that are off by {worst:.2g}")
    cause = "; ".join(dict.fromkeys(causes)) if causes else "it has no cache that can be passed on"
    raise ConfigError(
        f"{name} cannot be sampled token by token as it scores a whole text ({cause}). "
        "Choose another model."
    )


class _OneByOne(Budget):
    """A budget that begins with one group, so that the next group joins it while it runs."""

    def at_once(self, length: int, copies: int) -> int:
        """Return how many rows are sampled at once."""
        return 2 * copies if self.tried else copies


def _joins(policy: Policy, trial: _Trial) -> bool:
    """Return whether a group that joins a running group gets the same samples."""
    caching, policy.caching = policy.caching, replace(policy.caching, joins=True)
    budget = _OneByOne(len(trial.groups) * _COPIES)
    try:
        return _same_again(policy, trial, budget=budget)
    finally:
        policy.caching = caching


def _same_again(policy: Policy, trial: _Trial, **how: Any) -> bool:
    """Return whether sampling in another way gives the same samples; False if the model raises."""
    prompts = [group.prompt_ids for group in trial.groups]
    try:
        found = _past_ends(policy, prompts, [0] * (len(prompts) * _COPIES), **how)
    except Exception:  # noqa: BLE001  a model can raise anything; there is another way
        return False
    own = [completion for group in trial.groups for completion in group.completions]
    same = [c.token_ids for c in found] == [c.token_ids for c in own]
    return same and trial.off([torch.tensor(c.logprobs) for c in found]) <= trial.tolerance


def _keeps(policy: Policy, trial: _Trial) -> bool:
    """Return whether a conversation that continues from its cache is sampled as one text.

    The replies in it are the tokens that the model sampled there itself.
    """
    asked = [group.prompt_ids for group in trial.groups]
    own = [(p, c) for p, group in enumerate(trial.groups) for c in group.completions]
    starts = [_TURN + _REPLIES[p] for p, _ in own]
    contexts = [asked[p] + c.token_ids[:n] for (p, c), n in zip(own, starts, strict=True)]
    how, seeds = replace(_DECODING, max_new_tokens=_TURN), [0] * len(own)
    conversations = Conversations()
    try:
        conversations.turn(asked, policy.version, keep=True)
        _past_ends(policy, asked, seeds, how, conversations=conversations)
        conversations.turn(contexts, policy.version, keep=False)
        found = _past_ends(policy, contexts, seeds, how, conversations=conversations)
    except Exception:  # noqa: BLE001  a model can raise anything; it then gets whole contexts
        return False
    texts = [_replaced(c, more, n) for (_, c), more, n in zip(own, found, starts, strict=True)]
    same = [c.token_ids for c in texts] == [c.token_ids for _, c in own]
    return same and trial.off([torch.tensor(c.logprobs) for c in texts]) <= trial.tolerance


def _replaced(whole: Completion, part: Completion, start: int) -> Completion:
    """Return a completion whose tokens from `start` on are replaced by those of another."""
    end = start + len(part.token_ids)
    return replace(
        whole,
        token_ids=whole.token_ids[:start] + part.token_ids + whole.token_ids[end:],
        logprobs=whole.logprobs[:start] + part.logprobs + whole.logprobs[end:],
    )


def _past_ends(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    how: Decoding = _DECODING,
    **more: Any,
) -> list[Completion]:
    """Sample greedily and ignore end tokens."""
    ends, policy.eos_ids = policy.eos_ids, ()
    try:
        return sample(policy, prompts, seeds, how, **more)
    finally:
        policy.eos_ids = ends


def _sample(policy: Policy) -> _Trial:
    """Sample prompts, and compute the reference for the sampled tokens."""
    vocabulary = len(policy.model.get_input_embeddings().weight)
    generator = torch.Generator().manual_seed(0)
    prompts = [_prompt(min(vocabulary, _COMMON), n, generator) for n in _LENGTHS]
    found = _past_ends(policy, prompts, [0] * (len(prompts) * _COPIES))
    groups = [
        Group(
            key=number,
            prompt="",
            prompt_ids=prompt,
            completions=tuple(found[number * _COPIES : (number + 1) * _COPIES]),
            rewards=(),
        )
        for number, prompt in enumerate(prompts)
    ]
    rows = [_reference(policy, group, c) for group in groups for c in group.completions]
    logps_B, spread_B, below_B = ([row[i] for row in rows] for i in range(3))
    greedy = float(torch.stack([x.max() for x in below_B]).max())
    tolerance = _TOLERANCE if policy.model.dtype == torch.float32 else _LOW_TOLERANCE
    return _Trial(
        groups=groups, logps_B=logps_B, spread_B=spread_B, greedy=greedy, tolerance=tolerance
    )


def _prompt(vocabulary: int, length: int, generator: torch.Generator) -> tuple[int, ...]:
    ids = torch.randint(vocabulary, (length,), generator=generator)
    return tuple(map(int, ids))


def _reference(policy: Policy, group: Group, completion: Completion) -> tuple[Tensor, ...]:
    """Return for each token (T) its log-probability, the spread, and its gap to the most likely."""
    ids = [*group.prompt_ids, *completion.token_ids]
    ids_1L = torch.tensor([ids], device=policy.device)
    start = len(group.prompt_ids) - 1
    logits_TV = policy.model(input_ids=ids_1L, use_cache=False).logits[0, start:-1].float().cpu()
    spread_T = logits_TV.std(dim=-1)
    logps_TV = logits_TV.log_softmax(dim=-1)
    own_T = logps_TV.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    return own_T, spread_T, (logps_TV.amax(dim=-1) - own_T) / spread_T


def _score_exactly(policy: Policy, trial: _Trial, batch: Batch, name: str) -> None:
    """Use the plain head if it gives the model's logits, else the model's own `forward`."""
    policy.share_prompts = False
    for policy.own_head in (False, True):
        if _works(lambda: policy(batch, 1.0)[0], trial):
            return
    raise ConfigError(
        f"{name} cannot be scored: its logits are not those of a pass through its decoder and its "
        "head. Choose another model."
    )


def _packed_logps(policy: Policy, batch: Batch) -> Tensor:
    """Return the scores (B, T) with each prompt passed through the model once."""
    return policy.scores(policy.packed(batch), batch, 1.0)[0]


def _works(score: Callable[[], Tensor], trial: _Trial) -> bool:
    """Return whether scores (B, T) equal the reference; False if the model raises."""
    try:
        logps_BT = score().float().cpu()
    except Exception:  # noqa: BLE001  a model can raise anything; there is another way
        return False
    return trial.off([cast("Tensor", row) for row in logps_BT]) <= trial.tolerance
