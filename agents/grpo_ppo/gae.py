"""Token advantages from the rewards and values of tokens.

Shapes: B completions, T tokens. Every tensor is (B, T) unless its name says otherwise.
"""

import torch
from torch import Tensor

_LEAST = 1e-8
"""Added to a standard deviation before a division."""


def token_rewards(rewards_B: Tensor, kl_BT: Tensor | None, mask_BT: Tensor) -> Tensor:
    """Return the reward of each token (B, T): -beta KL_t, plus the completion's reward at its end.

    The completion's reward is added at its last own token. (InstructGPT, arXiv 2203.02155, eq. 2;
    per token as in arXiv 1909.08593, section 2.)

    Args:
        rewards_B: The reward of each completion.
        kl_BT: beta * KL of each token in nats; None if the reward has no KL penalty.
        mask_BT: True on the policy's own tokens.
    """
    rewards_BT = torch.zeros(mask_BT.shape, dtype=rewards_B.dtype, device=rewards_B.device)
    if kl_BT is not None:
        rewards_BT -= kl_BT.to(rewards_BT.dtype)
    places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B1 = (mask_BT * places_T).amax(dim=1, keepdim=True)
    return rewards_BT.scatter_add(1, last_B1, rewards_B[:, None])


def advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Return A_t = sum_k (gamma lambda)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t.

    (Generalised advantage estimation, Schulman et al., arXiv 1506.02438, eq. 16.) The result is
    (B, T), with 0 outside the mask. Time steps are the policy's own tokens; the environment's
    replies between turns are skipped. The value after the last token is 0, also for a truncated
    completion.

    Args:
        rewards_BT: The result of `token_rewards`.
        values_BT: The value of the state before each token.
        mask_BT: True on the policy's own tokens.
        gamma: Discount per token.
        lam: lambda, which weighs later temporal differences.
    """
    # On the CPU: a loop over tokens with B numbers each would be many small kernels on a GPU.
    rewards_TB, values_TB, mask_TB = (x.cpu().T for x in (rewards_BT, values_BT, mask_BT))
    found_TB = torch.zeros_like(values_TB)
    ahead_B, value_B = found_TB.new_zeros((2, found_TB.shape[1]))  # of the next own token
    for t in range(len(found_TB) - 1, -1, -1):
        delta_B = rewards_TB[t] + gamma * value_B - values_TB[t]
        ahead_B = torch.where(mask_TB[t], delta_B + gamma * lam * ahead_B, ahead_B)
        value_B = torch.where(mask_TB[t], values_TB[t], value_B)
        found_TB[t] = ahead_B
    return (found_TB * mask_TB).T.to(values_BT.device)


def whitened(advantages_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Return (A - mean) / (std + 1e-8) of the tokens that count (B, T), and 0 at all others.

    Mean and population std are over the tokens that count (Engstrom et al., arXiv 2005.12729,
    section 3). If all advantages are equal, the result is 0.
    """
    mean, std = mean_and_std(advantages_BT, counted_BT)
    return (advantages_BT - mean) * counted_BT / (std + _LEAST)


def mean_and_std(advantages_BT: Tensor, counted_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the population std, two scalars, over the tokens that count."""
    tokens = counted_BT.sum().clamp(min=1)
    mean = (advantages_BT * counted_BT).sum() / tokens
    return mean, (((advantages_BT - mean) * counted_BT).square().sum() / tokens).sqrt()
