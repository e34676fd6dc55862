"""check_env: the promises every environment keeps, as one function that any test can call."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gymnasium.utils import env_checker

from grpo_envs.env.text import TextEnv
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ContractBroken
from grpo_envs.types import Problem, Reward, Turn

_EVERY_NUMBER = " ".join(str(n) for n in range(300))
_COMPUTATION = re.compile(r"\S*\d ?[-+*/^] ?\S*\d\S*")
HOSTILE = (
    " ",
    "\x00",
    "\ud83d",
    "\U0001f600 \u4f60\u597d \u0645\u0631\u062d\u0628\u0627",
    "9" * 5000,
    "9**9**9",
    "1e999999",
    "nan",
    "inf",
    "None",
    "True",
    "\\frac{1}{0}",
    "<answer>",
    "<answer></answer>",
    "</answer>" * 50,
    "</think>",
    "<think>" * 50,
    "\\boxed{",
    "\\boxed{}",
    "{" * 10_000,
    "%s%n{0}{x}",
    "```",
    "```python\nimport sys\nsys.exit(0)\n```",
    "```python\nwhile",
    "I do not know.",
)
"""What no grader may trip over, whatever the problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseCheck:
    """One promise and whether it held."""

    promise: str
    evidence: str = ""
    """What broke it; '' where it held."""
    note: str = ""
    """What was left out of the trial."""


def check_env(env: TextEnv, problems: int = 50) -> None:
    """Check every promise of the contract on `problems` problems of each split.

    Raises:
        ContractBroken: one line for each promise that `env` breaks, with the input that breaks it.
    """
    broken = [f for f in check_promises(env, problems) if f.evidence]
    if broken:
        lines = "\n".join(f"broken promise: {f.promise}: {f.evidence}" for f in broken)
        raise ContractBroken(f"{type(env).__name__} breaks its contract.\n{lines}")


def check_promises(env: TextEnv, problems: int = 50) -> list[PromiseCheck]:
    """Try every promise; return them all, in order."""
    return [_try(promise, check, env, problems) for promise, check in _PROMISES.items()]


def _try(promise: str, check: _Check, env: TextEnv, problems: int) -> PromiseCheck:
    try:
        evidence = next(iter(check(env, problems)), "")
        note = _left_out(env, problems) if check is _solution_is_best else ""
    except Exception as error:  # noqa: BLE001  raising breaks the promise that was tried
        evidence, note = f"{type(error).__name__}: {error}".replace("\n", " "), ""
    return PromiseCheck(promise=promise, evidence=evidence[:300], note=note)


def _left_out(env: TextEnv, problems: int) -> str:
    drawn = _both(env, problems)
    without = sum(not problem.solution for problem in drawn)
    return f"{without} of {len(drawn)} problems have no solution" if without else ""


_Check = Callable[[TextEnv, int], Iterable[str]]


def _gymnasium(env: TextEnv, problems: int) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env_checker.check_env(env, skip_render_check=env.spec is None)
    return iter(())


def _same_key_same_problem(env: TextEnv, problems: int) -> Iterator[str]:
    for split in ("train", "eval"):
        first = _draw(env, problems, split)
        again = [env.problem(seed, split) for seed in reversed(range(problems))][::-1]
        for seed, (one, other) in enumerate(zip(first, again, strict=True)):
            if one != other:
                yield f"seed {seed} of {split} gave {one.prompt!r}, then {other.prompt!r}"


def _different_keys(env: TextEnv, problems: int) -> Iterator[str]:
    for split in ("train", "eval"):
        prompts = {p.prompt for p in _draw(env, problems, split)}
        if len(prompts) < 2:
            yield f"{problems} seeds of {split} all gave {prompts.pop()!r}"


def _disjoint(env: TextEnv, problems: int) -> Iterator[str]:
    wide = problems * 10  # shared problems of a large space show only in many draws
    train = {p.prompt for p in _draw(env, wide, "train")}
    for problem in _draw(env, wide, "eval"):
        if problem.prompt in train:
            yield (
                f"{problem.prompt!r} is in both; draw until grpo_envs.seeding.split_of(question) "
                "is the split"
            )


def _solution_is_best(env: TextEnv, problems: int) -> Iterator[str]:
    for problem in _both(env, problems):
        if not problem.solution:
            continue  # a dataset may have none; the note of the check counts them
        reward = _reward(env, problem, problem.solution)
        most = _most(env, problem)
        if not math.isclose(reward.total, most):
            parts = dict(reward.parts) or reward.detail
            yield f"{problem.solution!r} earns {reward.total} of {most} ({parts})"


def _no_leak(env: TextEnv, problems: int) -> Iterator[str]:
    for problem in _both(env, problems):
        shown = (problem.prompt, env.system_prompt_of(problem))
        if problem.solution and any(problem.solution in text for text in shown):
            yield f"{problem.solution!r} stands in {problem.prompt!r}"


def _empty_earns_nothing(env: TextEnv, problems: int) -> Iterator[str]:
    for problem in _both(env, problems):
        reward = _reward(env, problem, "")
        if not reward.valid or reward.total > 0:
            yield f"'' earns {reward.total} {reward.detail}"


def _hostile_earns_less(env: TextEnv, problems: int) -> Iterator[str]:
    for problem in _both(env, problems):
        for answer in (*HOSTILE, problem.prompt, *made_of(problem)):
            reward = _reward(env, problem, answer)
            if not reward.valid:
                yield f"{answer[:40]!r} raises {reward.error}"
            elif not reward.total < _most(env, problem):
                yield f"{answer[:40]!r} earns {reward.total} on {problem.prompt[:80]!r}"


def made_of(problem: Problem) -> Iterator[str]:
    """Yield every answer at once, and wrong ones in the solution's shape.

    Those are near misses, and what the prompt asks (3+4 in the place of 7).
    """
    gold = str(problem.gold)
    shotgun = f"{_EVERY_NUMBER} {gold} -1"
    yield shotgun
    head, found, tail = problem.solution.rpartition(gold)
    if gold and found:
        yield head + shotgun + tail
        yield "".join(f"{head}{n}{tail}" for n in shotgun.split())
        near = [str(int(gold) + 1)] if gold.isdecimal() else []
        asked = [found[0].rstrip(".,?") for found in _COMPUTATION.finditer(problem.prompt)]
        for wrong in ("nan", "inf", f"{gold}1", f"1{gold}", *near, *asked):
            yield head + wrong + tail


def _in_range(env: TextEnv, problems: int) -> Iterator[str]:
    for problem in _both(env, problems):
        low, high = env.range_of(problem)
        for answer in ("", problem.solution, problem.prompt, *HOSTILE):
            reward = _reward(env, problem, answer)
            if not low <= reward.total <= high:
                yield f"{answer[:40]!r} earns {reward.total}, outside {low} to {high}"
            if reward != _reward(env, problem, answer):
                yield f"{answer[:40]!r} earns {reward.total}, then something else"


def _others_solutions(env: TextEnv, problems: int) -> Iterator[str]:
    drawn = _draw(env, problems, "train")
    foreign = [(a, b) for a, b in pairwise(drawn) if a.gold != b.gold]
    best = [b for a, b in foreign if _reward(env, a, b.solution).total >= _most(env, a)]
    if foreign and len(best) > len(foreign) / 2:
        yield f"{len(best)} of {len(foreign)} such answers do, {best[0].solution!r} for one"


def _plays_again(env: TextEnv, problems: int) -> Iterator[str]:
    for problem in _both(env, problems) if env.max_turns > 1 else ():
        low, high = env.range_of(problem)
        for player in (env.demonstrate, _mumble):
            episode, rewards = play(env, problem, player)
            total = sum(reward.total for reward in rewards)
            if not low - 1e-9 <= total <= high + 1e-9:
                yield f"{episode[-1].action[:40]!r} ends with {total}, outside {low} to {high}"
            if player is _mumble and not total < high:
                yield f"{episode[-1].action!r} to the end earns {total}"
            if (episode, rewards) != (again := play(env, problem, player)):
                first, other = (turns[-1].observation[:80] for turns in (episode, again[0]))
                yield f"{problem.prompt[:80]!r} was played twice, and answered {first!r}, {other!r}"


def _mumble(problem: Problem, turns: Sequence[Turn]) -> str:
    return "I do not know."


def play(
    env: TextEnv, problem: Problem, player: Callable[[Problem, Sequence[Turn]], str]
) -> tuple[list[Turn], list[Reward]]:
    """Play an episode to its end; return its turns, and what each of them earned."""
    turns: list[Turn] = []
    rewards: list[Reward] = []
    while len(turns) < env.turns_of(problem):
        action = player(problem, turns)
        reply = env.reply_batch([problem], [[*turns, Turn(action=action)]])[0]
        rewards.append(reply.reward)
        said, total = reply.observation, reply.reward.total
        turns.append(Turn(action=action, observation=said, reward=total))
        if reply.done:
            break
    return turns, rewards


def _group_shares(env: TextEnv, problems: int) -> Iterator[str]:
    groups = GroupVectorEnv(env, num_envs=6, group_size=3)
    prompts, _ = groups.reset(seed=[1, 2])
    expected = [env.problem(seed).prompt for seed in (1, 1, 1, 2, 2, 2)]
    if list(prompts) != expected:
        yield f"{list(prompts)}"


def _info_floats(env: TextEnv, problems: int) -> Iterator[str]:
    for answer in ("", "\U0001f600 \u4f60\u597d", env.problem(0).solution):
        _, about = env.reset(seed=0)
        _, reward, _, _, info = env.step(answer)
        try:
            json.dumps(about)
        except TypeError as error:
            yield f"the problem's meta is logged as JSON: {error}"
        if type(reward) is not float:
            yield f"the reward {reward!r} is a {type(reward).__name__}, not a float"
        for key, value in info.items():
            if key != "detail" and type(value) is not float:
                yield f"info[{key!r}] is {value!r}, not a float"


_PROMISES: dict[str, _Check] = {
    "Gymnasium's own check_env passes without a warning": _gymnasium,
    "the same key draws the same problem": _same_key_same_problem,
    "different keys draw different problems": _different_keys,
    "train and eval share no problem": _disjoint,
    "the solution earns the maximum": _solution_is_best,
    "the prompt does not leak the solution": _no_leak,
    "an empty answer earns nothing": _empty_earns_nothing,
    "hostile answers never raise and earn less than the maximum": _hostile_earns_less,
    "rewards are repeatable and in range": _in_range,
    "another problem's solution does not earn the maximum": _others_solutions,
    "a conversation can be played again, its rewards add up within the range": _plays_again,
    "a group shares its problem": _group_shares,
    "rewards and info are floats": _info_floats,
}


def _draw(env: TextEnv, problems: int, split: str) -> list[Problem]:
    return [env.problem(seed, split) for seed in range(problems)]


def _both(env: TextEnv, problems: int) -> list[Problem]:
    return [*_draw(env, problems, "train"), *_draw(env, problems, "eval")]


def _most(env: TextEnv, problem: Problem) -> float:
    return env.range_of(problem)[1]


def _reward(env: TextEnv, problem: Problem, answer: str) -> Reward:
    return env.reply_batch([problem], [[Turn(action=answer)]])[0].reward
