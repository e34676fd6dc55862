"""The critic's loss. Shapes: B completions, T tokens; every tensor is (B, T)."""

import torch
from torch import Tensor


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """Return 1/2 max((V - R)^2, (V_clip - R)^2) of each token, and 1 where the clip decides.

    (PPO's code, arXiv 2005.12729, eq. 3.) V_clip is V_old + clip(V - V_old, -c, c): a value that
    has moved by more than c towards its return has no gradient. Without c the loss is
    1/2 (V - R)^2. The second tensor is 0 where the clip does not decide.

    Args:
        values_BT: V, the values of the current critic, with gradients.
        old_values_BT: V_old, the values before the step.
        returns_BT: R, the advantage before whitening plus the value before the step.
        clip: c, in units of the reward; None turns the clip off.
    """
    error_BT = (values_BT - returns_BT).square()
    if clip is None:
        return error_BT / 2, torch.zeros_like(error_BT)
    near_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    bounded_BT = (near_BT - returns_BT).square()
    decides_BT = (bounded_BT > error_BT).to(error_BT.dtype)
    return torch.maximum(error_BT, bounded_BT) / 2, decides_BT


def explained_variance(values_BT: Tensor, returns_BT: Tensor, counted_BT: Tensor) -> float | None:
    """Return 1 - Var(R - V) / Var(R) over the tokens that count; None if all returns are equal.

    It is 1 if the values equal the returns up to a constant, 0 if they predict no better than a
    constant, and negative if they predict worse.
    """
    values_N, returns_N = values_BT[counted_BT], returns_BT[counted_BT]
    if len(returns_N) == 0 or bool((returns_N == returns_N[0]).all()):
        return None
    error, all_of_it = ((x - x.mean()).square().sum() for x in (returns_N - values_N, returns_N))
    return 1 - (error / all_of_it).item()
