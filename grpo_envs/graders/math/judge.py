"""What a rule of comparison may ask."""

from typing import Protocol

from grpo_envs.graders.math.finding import Finding
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.policy import MathPolicy


class Judge(Protocol):
    """Compares the parts of what a rule compares."""

    @property
    def policy(self) -> MathPolicy:
        """What counts as the same."""

    def compare(self, gold: Node, answer: Node) -> Finding:
        """Return whether `answer` is `gold`."""
