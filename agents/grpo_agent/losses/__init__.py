"""The GRPO loss, built from five independent choices.

These are ratio, objective, KL, aggregation, and the correction for the sampler's arithmetic.

    J = E[ 1/G sum_i 1/L_i sum_t ( min(rho A_i, clip(rho, 1-eps, 1+eps) A_i) - beta k3 ) ]

(DeepSeekMath, arXiv 2402.03300, eq. 3.) The loss is -J. The preset of a paper in conf/agent/ picks
one value of each choice. A ratio, KL or aggregation is a function here and an entry in its table.
An objective is `f(ratio_BT, x, *, option=default) -> (loss_BT, bounded_BT)`, registered as an entry
point of `grpo_envs.objectives`. An option takes the value of the key of `agent.loss` that has its
name; other options come from `agent.loss.options`.
Shapes: B completions, T completion tokens. Every tensor is (B, T) unless its name says otherwise.
"""

from grpo_agent.losses.aggregation import StepSize, token_weights
from grpo_agent.losses.inputs import LossInputs
from grpo_agent.losses.loss import policy_loss

__all__ = ["LossInputs", "StepSize", "policy_loss", "token_weights"]
