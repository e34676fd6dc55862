"""The interface that rules of comparison use."""

from typing import Protocol

from grpo_envs.graders.math.comparison import Comparison
from grpo_envs.graders.math.grading import MathGrading
from grpo_envs.graders.math.nodes import Node


class Judge(Protocol):
    """Compares parts of expressions for a rule."""

    @property
    def grading(self) -> MathGrading:
        """The rules for equality."""

    def compare(self, gold: Node, answer: Node) -> Comparison:
        """Return whether `answer` is `gold`."""
