"""The inputs of a loss: the tensors of some rows of an update."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """The inputs of a loss: tensors (B, T). `logps_BT` and `entropy_BT` have gradients."""

    logps_BT: Tensor
    """Log-probabilities under the policy being trained."""
    old_logps_BT: Tensor
    """Log-probabilities under the policy before this step's updates, the ratio's denominator."""
    sampled_logps_BT: Tensor
    """Log-probabilities under the policy that sampled, as the sampler reported them."""
    ref_logps_BT: Tensor | None
    """Log-probabilities under the reference policy; None when beta is 0."""
    entropy_BT: Tensor
    """Entropy in nats of the policy's full distribution."""
    advantages_BT: Tensor
    """Finite everywhere. All tokens of a completion have the same advantage, unless the rule gives
    each token its own."""
    mask_BT: Tensor
    """True where the policy chose the token, end-of-turn token included."""
    weights_BT: Tensor
    """The weight of each token in the step's loss, from `token_weights`; 0 outside the mask."""
    singled_BT: Tensor | None = None
    """True at the tokens that `clip_cov` or `kl_cov` selects; None for other objectives."""
    forks_BT: Tensor | None = None
    """True at the tokens where the objective counts, those of high entropy; None: at all tokens."""
