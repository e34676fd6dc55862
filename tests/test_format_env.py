"""The format environment: prompts that can be met, answers checked, parts that are earned."""

import hashlib
import re

import pytest

from grpo_env_format import FormatEnv
from grpo_envs.types import Problem

DRAWS = 300
PIECES = re.compile(r"</?\w+>| ?[a-z]+|\d|[^\w\s]|\s+")
"""About the tokens of the bundled model, where every word of ours is one."""


def drawn(env: FormatEnv, count: int = DRAWS) -> list[Problem]:
    return [env.problem(seed) for seed in range(count)]


# Level 1: what the bundled model learned from


@pytest.mark.parametrize(
    ("seed", "prompt", "solution"),
    [
        (
            0,
            "write a json object with the keys hat map.",
            '<think>1 hat\n2 map</think><answer>{"hat":1,"map":2}</answer>',
        ),
        (
            2,
            "write exactly 3 numbers with the sum 38.",
            "<think>4+17=21\n21+17=38</think><answer>4 17 17</answer>",
        ),
        (
            3,
            "write these words in alphabetical order: fox sea cloud.",
            "<think>fox\nfox sea\ncloud fox sea</think><answer>cloud fox sea</answer>",
        ),
        (
            5,
            "write about cup and box. use exactly 5 words.",
            "<think>1 cup\n2 box\n3 fox\n4 star\n5 moon</think>"
            "<answer>cup box fox star moon</answer>",
        ),
        (
            10,
            "write about hat and stone. use exactly 14 letters.",
            "<think>hat 3\nstone 8\npen 11\nmap 14</think><answer>hat stone pen map</answer>",
        ),
    ],
)
def test_level_1_shows_its_work(seed: int, prompt: str, solution: str) -> None:
    problem = FormatEnv().problem(seed)
    assert (problem.prompt, problem.solution) == (prompt, solution)


def test_level_1_is_still_what_the_bundled_model_learned_from() -> None:
    """A change here asks for another pretraining."""
    text = "\0".join(problem.prompt + "\0" + problem.solution for problem in drawn(FormatEnv()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "120dcb6126649ee1"


def test_level_1_is_short() -> None:
    for problem in drawn(FormatEnv()):
        assert len(problem.prompt.split()) <= 25
        assert len(PIECES.findall(problem.solution)) <= 45
