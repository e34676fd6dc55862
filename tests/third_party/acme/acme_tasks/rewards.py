"""A reward function for any environment."""

from grpo_envs import Problem


def vowels(problem: Problem, answer: str, *, of: str = "aeiou") -> float:
    """Return the share of vowels."""
    return sum(letter in of for letter in answer) / len(answer) if answer else 0.0
