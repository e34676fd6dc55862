"""What a loss may look at: the tensors of some rows of an update."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Everything a loss may look at. `logps_BT` and `entropy_BT` carry gradient."""

    logps_BT: Tensor
    """Log-probabilities under the policy being trained."""
    old_logps_BT: Tensor
    """Under the policy before this step's updates: the ratio divides by it."""
    sampled_logps_BT: Tensor
    """Under the policy that sampled the completions, as the sampler reported them."""
    ref_logps_BT: Tensor | None
    """Under the reference policy; None when beta is 0."""
    entropy_BT: Tensor
    """Entropy in nats of the policy's full distribution."""
    advantages_BT: Tensor
    """Finite everywhere; one number for all tokens of a completion, unless the rule tells them
    apart."""
    mask_BT: Tensor
    """True where the policy chose the token, end-of-turn token included."""
    weights_BT: Tensor
    """What each token counts in the step's loss, from `token_weights`; 0 outside the mask."""
    singled_BT: Tensor | None = None
    """True at the tokens that `clip_cov` and `kl_cov` treat apart; None for other objectives."""
    forks_BT: Tensor | None = None
    """True at the tokens of high entropy, where alone the objective counts; None: everywhere."""
