"""The GRPO loss, built from five independent choices.

They are ratio, objective, KL, aggregation, and the correction for the sampler's arithmetic.

    J = E[ 1/G sum_i 1/L_i sum_t ( min(rho A_i, clip(rho, 1-eps, 1+eps) A_i) - beta k3 ) ]

(DeepSeekMath, arXiv 2402.03300, eq. 3.) The loss is -J. A paper is a preset in conf/agent/ that
picks one value of each. A ratio, KL or aggregation is a function here and an entry in its table; an
objective is `f(ratio_BT, x, *, option=default) -> (loss_BT, bounded_BT)`, registered as an entry
point of `grpo_envs.objectives`. Its options are filled from the keys of `agent.loss` that have
their names, others from `agent.loss.options`.
Shapes: B completions, T completion tokens. Every tensor is (B, T) unless its name says otherwise.
"""

from grpo_agent.losses.aggregation import StepSize, token_weights
from grpo_agent.losses.inputs import LossInputs
from grpo_agent.losses.loss import policy_loss

__all__ = ["LossInputs", "StepSize", "policy_loss", "token_weights"]
