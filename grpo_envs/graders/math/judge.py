"""What a rule of comparison may ask."""

from typing import Protocol

from grpo_envs.graders.math.comparison import Comparison
from grpo_envs.graders.math.grading import MathGrading
from grpo_envs.graders.math.nodes import Node


class Judge(Protocol):
    """Compares the parts of what a rule compares."""

    @property
    def grading(self) -> MathGrading:
        """What counts as the same."""

    def compare(self, gold: Node, answer: Node) -> Comparison:
        """Return whether `answer` is `gold`."""
