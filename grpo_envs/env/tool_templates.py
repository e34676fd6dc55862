"""The files of `python -m grpo_envs.new_env NAME --tools`: the model calls a function."""

README = """# env=NAME

```bash
pip install -e ".[dev]"                              # where grpo-envs is installed
pytest                                               # its tests
python -m grpo_envs.check env=NAME                   # every promise of an environment
python -m grpo_envs.run env=NAME env.turns=3         # train
```

`grpo_env_NAME/__init__.py` is the environment: `price` is a tool, `draw` makes a problem, `score`
rewards the turn without a call, `session` holds the state of an episode.
"""

ENV = '''"""What do some things cost? Every shop has its own prices, which a tool returns.

Task: a number of things to buy; their prices are not shown.
Tool: `price(item)`.
Answer: `<answer>...</answer>`, after at most one `<think>` block.
Reward: `correct` for the sum.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from grpo_envs import Problem, Reward, ToolEnv, Turn, write_call
from grpo_envs.graders.text import after_think
from grpo_envs.seeding import rng_for, split_of

__all__ = ["CLASSEnv"]

ITEMS = ("apple", "bread", "cheese", "grape", "melon", "onion", "peach", "plum")
Prices = Mapping[str, int]


def prices(shop: int) -> Prices:
    """Return the prices of shop number `shop`."""
    rng = rng_for("NAME", shop)
    return {item: rng.randrange(2, 30) for item in ITEMS}


def price(state: Prices, item: str) -> int:
    """Return the price of an item.

    Args:
        state: The prices of the episode's shop; the model does not see this parameter.
        item: The item, in the singular.
    """
    if item not in state:
        raise ValueError(f"{item!r} is not sold here. Sold: {', '.join(state)}.")
    return state[item]


class CLASSEnv(ToolEnv):
    """Sums of prices that have to be asked for."""

    tools = (price,)
    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."
    max_turns = 4

    def session(self, problem: Problem) -> Iterator[Prices]:
        """Yield the prices, which tools get as `state`."""
        yield prices(problem.meta["shop"])

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw shops and items until the question belongs to `split`."""
        while True:
            shop, item, number = rng.randrange(10**6), rng.choice(ITEMS), rng.randrange(2, 100)
            prompt = f"Buy {number} times {item} and a bag for 1. What does it cost?"
            if split_of(prompt) == split:
                gold = str(number * prices(shop)[item] + 1)
                return Problem(
                    prompt=prompt,
                    gold=gold,
                    solution=f"<answer>{gold}</answer>",
                    meta={"shop": shop, "item": item, "number": number},
                )

    def score(self, problem: Problem, answer: str) -> Reward:
        """Grade the turn without a call: all of it, so that a list of guesses earns nothing."""
        found = re.fullmatch(r"\\s*<answer>([^<]*)</answer>\\s*", after_think(answer) or "")
        right = found is not None and found[1].strip() == problem.gold
        return Reward(parts={"correct": float(right)})

    def demonstrate(self, problem: Problem, turns: Sequence[Turn]) -> str:
        """Ask for the price, then answer; `check` and `play` use this."""
        if not turns:
            return write_call("price", {"item": problem.meta["item"]})
        return f"<answer>{problem.meta['number'] * int(turns[-1].observation) + 1}</answer>"
'''

TESTS = '''"""The environment keeps every promise, and rewards what it should."""

import pytest

import grpo_envs
from grpo_env_NAME import CLASSEnv, prices
from grpo_env_NAME.rewards import brief
from grpo_envs import Turn, write_call


def test_it_keeps_every_promise() -> None:
    grpo_envs.check_env(CLASSEnv())


def test_a_call_is_answered_and_the_answer_is_paid() -> None:
    env = grpo_envs.make("NAME", split="eval")
    env.reset(seed=1)
    problem = env.problem(1)
    observation, reward, terminated, *_ = env.step(env.demonstrate(problem, []))
    shop, item = problem.meta["shop"], problem.meta["item"]
    assert (observation, reward, terminated) == (str(prices(shop)[item]), 0.0, False)
    turns = [Turn(action="", observation=observation)]
    _, reward, terminated, _, info = env.step(env.demonstrate(problem, turns))
    assert (reward, terminated, info["reward/answered"]) == (1.0, True, 1.0)


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (write_call("price", {"item": "rocket"}), "error: 'rocket' is not sold here."),
        (write_call("price", {"items": "plum"}), "error: price has no parameter 'items'."),
        (write_call("cost", {"item": "plum"}), "error: no tool 'cost'. Tools: price."),
    ],
)
def test_a_wrong_call_says_why(call: str, result: str) -> None:
    env = CLASSEnv()
    reply = env.respond(env.problem(0), [Turn(action=call)])
    assert reply.observation.startswith(result)
    assert not reply.done


@pytest.mark.parametrize("answer", ["<answer>1</answer>", "7", "", "<answer></answer>"])
def test_what_earns_nothing(answer: str) -> None:
    env = CLASSEnv()
    assert env.score(env.problem(0), answer).parts["correct"] == 0


def test_a_long_answer_is_not_brief() -> None:
    problem = CLASSEnv().problem(1)
    assert [brief(problem, "x" * n, most=10) for n in (0, 10, 15, 99)] == [0.0, 0.0, 0.5, 1.0]
'''

YAML = """# What things cost, with a tool that tells their prices.
name: NAME
"""
