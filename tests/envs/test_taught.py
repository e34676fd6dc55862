"""Level 1 as the bundled model learnt it: system prompts, questions, demonstrations, replies.

Who changes one of these on purpose trains the model again and writes the new text here.
"""

import hashlib

import pytest

import grpo_envs
from grpo_envs import write_call
from grpo_envs.types import Turn


def conversation(env: grpo_envs.TextEnv, seed: int, split: str) -> list[str]:
    """What is said in a demonstrated episode, the prompt first."""
    problem = env.problem(seed, split)
    said, turns = [problem.prompt], list[Turn]()
    while True:
        action = env.demonstrate(problem, turns)
        reply = env.respond(problem, [*turns, Turn(action=action)])
        turns.append(Turn(action=action, observation=reply.observation))
        said += [action, reply.observation]
        if reply.done:
            return said


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        (
            "countdown",
            "Use each number once, with + - and parentheses. "
            "You may think in <think></think>. Answer in <answer></answer>.",
        ),
        ("guess", "You may think in <think></think>. Answer in <answer></answer>."),
        ("calculator", "You may think in <think></think>. Answer in <answer></answer>."),
    ],
)
def test_the_system_prompt(name: str, prompt: str) -> None:
    assert grpo_envs.make(name).system_prompt == prompt


@pytest.mark.parametrize(
    ("name", "seed", "split", "said"),
    [
        pytest.param(
            "countdown",
            0,
            "train",
            [
                "Make 4 from 29, 15, 18.",
                "<think>29+15=44\n44+18=62\n62-4=58\n58/2=29</think><answer>15+18-29</answer>",
                "",
            ],
            id="countdown, with a number subtracted",
        ),
        pytest.param(
            "countdown",
            1,
            "train",
            [
                "Make 78 from 19, 29, 30.",
                "<think>19+29=48\n48+30=78</think><answer>19+29+30</answer>",
                "",
            ],
            id="countdown, a sum",
        ),
        pytest.param(
            "countdown",
            1,
            "eval",
            [
                "Make 12 from 14, 15, 11.",
                "<think>14+15=29\n29+11=40\n40-12=28\n28/2=14</think><answer>15+11-14</answer>",
                "",
            ],
            id="countdown, held out",
        ),
        pytest.param(
            "guess",
            0,
            "train",
            [
                "I think of a number from 208 to 214. Guess it in 3 turns.",
                "<think>208 to 214</think><answer>211</answer>",
                "lower",
                "<think>208 to 210</think><answer>209</answer>",
                "higher",
                "<think>210 to 210</think><answer>210</answer>",
                "right",
            ],
            id="guess, in three turns",
        ),
        pytest.param(
            "guess",
            1,
            "train",
            [
                "I think of a number from 41 to 46. Guess it in 3 turns.",
                "<think>41 to 46</think><answer>43</answer>",
                "lower",
                "<think>41 to 42</think><answer>41</answer>",
                "right",
            ],
            id="guess, in two",
        ),
        pytest.param(
            "guess",
            2,
            "eval",
            [
                "I think of a number from 143 to 148. Guess it in 3 turns.",
                "<think>143 to 148</think><answer>145</answer>",
                "lower",
                "<think>143 to 144</think><answer>143</answer>",
                "higher",
                "<think>144 to 144</think><answer>144</answer>",
                "right",
            ],
            id="guess, held out",
        ),
        pytest.param(
            "calculator",
            0,
            "train",
            [
                "What is 79*19-28*90?",
                write_call("calculator", {"expression": "79*19-28*90"}),
                "-1019",
                "<answer>-1019</answer>",
                "",
            ],
            id="calculator",
        ),
        pytest.param(
            "calculator",
            1,
            "eval",
            [
                "What is 84*79-58*49?",
                write_call("calculator", {"expression": "84*79-58*49"}),
                "3794",
                "<answer>3794</answer>",
                "",
            ],
            id="calculator, held out",
        ),
    ],
)
def test_a_demonstrated_episode(name: str, seed: int, split: str, said: list[str]) -> None:
    assert conversation(grpo_envs.make(name), seed, split) == said


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("countdown", "c4f32e5c38732035"),
        ("guess", "d1b011fb218aca89"),
        ("calculator", "5b1a7eb8d7910bfb"),
    ],
)
def test_hundreds_of_episodes_are_what_they_were(name: str, digest: str) -> None:
    env = grpo_envs.make(name)
    said = [conversation(env, seed, split) for split in ("train", "eval") for seed in range(200)]
    assert hashlib.sha256(repr(said).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("name", "action", "reply"),
    [
        pytest.param(
            "guess", "", "Guess a number from 208 to 214.", id="guess: nothing in the answer"
        ),
        pytest.param(
            "guess",
            "<answer>215</answer>",
            "Guess a number from 208 to 214.",
            id="guess: out of range",
        ),
        pytest.param("guess", "<answer>214</answer>", "lower", id="guess: too high"),
        pytest.param("guess", "<answer>208</answer>", "higher", id="guess: too low"),
        pytest.param(
            "calculator",
            write_call("calculator", {"expression": "1/3"}),
            "1/3",
            id="calculator: a fraction",
        ),
        pytest.param(
            "calculator",
            write_call("calculator", {"expression": "1/0"}),
            "error: division by zero",
            id="calculator: an error",
        ),
        pytest.param(
            "calculator",
            write_call("calculator", {"expression": "9" * 61}),
            "error: the result is too long",
            id="calculator: a long result",
        ),
    ],
)
def test_a_reply_to_what_is_seldom_demonstrated(name: str, action: str, reply: str) -> None:
    env = grpo_envs.make(name)
    assert env.respond(env.problem(0), [Turn(action=action)]).observation == reply
