"""An agent: ours, and a metric more."""

from collections.abc import Sequence

from grpo_agent.agent import GrpoAgent
from grpo_envs.types import Group


class AcmeAgent(GrpoAgent):
    """Counts the groups that it has seen."""

    def update(self, groups: Sequence[Group]) -> tuple[dict[str, float], list[list[float]]]:
        """Update the policy, and tell how many groups there were."""
        metrics, advantages = super().update(groups)
        return {**metrics, "acme/groups": float(len(groups))}, advantages
