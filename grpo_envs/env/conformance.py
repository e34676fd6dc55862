"""check_env: the promises every environment keeps, as one function that any test can call."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gymnasium.utils import env_checker

from grpo_envs.env.draws import different_keys, disjoint, same_key_same_problem
from grpo_envs.env.rewards import is_right, summed
from grpo_envs.env.text import SPLITS, TextEnv
from grpo_envs.env.time_limit import TooLong, time_limit
from grpo_envs.env.trial import (
    HOSTILE,
    SECONDS,
    NotTried,
    Trial,
    good_player,
    made_of,
    mumble,
    say_a_word,
    say_a_word_in_a_tag,
    without_waiting,
)
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ContractBroken
from grpo_envs.types import Problem, compare_rewards

_CALLS = 10
"""A check of many calls may take the time limit of so many calls."""
_NO_SOLUTION = "not tried: no problem has a solution"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseCheck:
    """One promise and whether it held."""

    promise: str
    evidence: str = ""
    """The input that broke the promise; '' if it held."""
    note: str = ""  # what the trial left out
    tried: bool = True  # False: it could not be tried; the note says why
    late: bool = False  # a call did not end: later promises are not tried


def check_env(env: TextEnv, problems: int = 50, *, seconds: float = SECONDS) -> None:
    """Check every promise of the contract on `problems` problems of each split.

    In a dataset, the solutions of all rows are tried.

    Args:
        env: The environment.
        problems: Problems of each split.
        seconds: Time limit of a call of the environment, in the main thread.

    Raises:
        ContractBroken: one line for each broken promise, with the input that breaks it.
    """
    broken = [f for f in check_promises(env, problems, seconds=seconds) if f.evidence]
    if broken:
        lines = "\n".join(f"broken promise: {f.promise}: {f.evidence}" for f in broken)
        raise ContractBroken(f"{type(env).__name__} breaks its contract.\n{lines}")


def check_promises(
    env: TextEnv,
    problems: int = 50,
    *,
    seconds: float = SECONDS,
    begins: Callable[[str], None] = lambda _promise: None,
) -> list[PromiseCheck]:
    """Try every promise; return them in order, up to a call that did not end.

    Added reward functions that see whole episodes (judges, for example) are left out.

    Args:
        env: The environment.
        problems: Problems of each split.
        seconds: Time limit of a call of the environment.
        begins: Called with each promise before it is tried.
    """
    trial = Trial(env=without_waiting(env), problems=problems, seconds=seconds)
    checks: list[PromiseCheck] = []
    for promise, check in _PROMISES.items():
        begins(promise)
        checks.append(_try(promise, check, trial))
        if checks[-1].late:
            break
    return checks


def _try(promise: str, check: _Check, trial: Trial) -> PromiseCheck:
    evidence, late, note, tried = "", False, "", True
    try:
        evidence = next(iter(check(trial)), "")
        note = _left_out(trial) if check is _solution_is_best else ""
    except NotTried as error:
        note, tried = str(error), False
    except TooLong as error:
        evidence, late = str(error), True
    except Exception as error:  # noqa: BLE001  raising breaks the promise that was tried
        evidence = f"{type(error).__name__}: {error}".replace("\n", " ")
    return PromiseCheck(promise=promise, evidence=evidence[:300], note=note, tried=tried, late=late)


def _left_out(trial: Trial) -> str:
    problems = trial.every_problem()
    without = sum(not problem.solution for _, problem in problems)
    return f"{without} of {len(problems)} problems have no solution" if without else ""


def _require_a_solution(problems: Sequence[Problem]) -> None:
    """Stop a trial that needs solutions if there are none.

    Raises:
        NotTried: no problem has a solution.
    """
    if not any(problem.solution for problem in problems):
        raise NotTried(_NO_SOLUTION)


_Check = Callable[[Trial], Iterable[str]]


def _ends(trial: Trial) -> Iterator[str]:
    for split in SPLITS:
        problem = trial.problem(0, split)
        for answer in ("", problem.solution):
            trial.reward(problem, answer)
    return iter(())


def _gymnasium(trial: Trial) -> Iterator[str]:
    with warnings.catch_warnings(), time_limit(trial.seconds * _CALLS, "Gymnasium's check_env"):
        warnings.simplefilter("error")
        env_checker.check_env(trial.env, skip_render_check=trial.env.spec is None)
    return iter(())


def _solution_is_best(trial: Trial) -> Iterator[str]:
    solved = False
    for where, problem, reward in trial.solved():
        solved = True
        most = trial.most(problem)
        if compare_rewards(reward.total, most) != 0:
            parts = reward.detail or dict(reward.parts)
            earned = f"{reward.total:g}" if reward.valid else "no valid reward instead"
            yield f"{where}{problem.solution!r} earns {earned} of {most:g} ({parts})"
    if not solved:
        raise NotTried(_left_out(trial))


def _counts_as_right(trial: Trial) -> Iterator[str]:
    own, broken, played = trial.env.own_parts, "", False
    for problem in trial.of_both():
        if is_right(trial.reward(problem, ""), own):
            yield f"'' is right, {dict(trial.reward(problem, '').parts)}"
        player = good_player(trial.env, problem)
        played |= player is not None
        reward = summed(trial.play(problem, player)[1]) if player else None
        if reward and is_right(reward, own):
            return  # the maximum can be reached: one won game is enough
        if reward and reward.valid:
            broken = f"solutions earn {dict(reward.parts)} of the own parts {[*own]}"
    if not played:
        raise NotTried(_NO_SOLUTION)
    yield broken


def _no_leak(trial: Trial) -> Iterator[str]:
    drawn = trial.of_both()
    _require_a_solution(drawn)
    for problem in drawn:
        shown = (problem.prompt, trial.env.system_prompt_of(problem))
        if problem.solution and any(problem.solution in text for text in shown):
            yield f"{problem.solution!r} stands in {problem.prompt!r}"


def _empty_earns_nothing(trial: Trial) -> Iterator[str]:
    for problem in trial.of_both():
        reward = trial.reward(problem, "")
        if not reward.valid or compare_rewards(reward.total, 0.0) > 0:
            yield f"'' earns {reward.total} {reward.detail}"


def _hostile_earns_less(trial: Trial) -> Iterator[str]:
    for problem in trial.of_both():
        for answer in (*HOSTILE, problem.prompt, *made_of(problem)):
            reward = trial.reward(problem, answer)
            if not reward.valid:
                yield f"{answer[:40]!r} raises {reward.error}"
            elif compare_rewards(reward.total, trial.most(problem)) >= 0:
                yield f"{answer[:40]!r} earns {reward.total:g} on {problem.prompt[:80]!r}"
    yield from trial.tools_that_fail()


def _in_range(trial: Trial) -> Iterator[str]:
    for problem in trial.of_both():
        for answer in ("", problem.solution, problem.prompt, *HOSTILE):
            reward = trial.reward(problem, answer)
            if outside := _outside(trial, problem, reward.total):
                yield f"{answer[:40]!r} earns {outside}"
            if reward != (again := trial.reward(problem, answer)):
                other = again.error or (
                    "something else" if again.total == reward.total else f"{again.total:g}"
                )
                yield f"{answer[:40]!r} earns {reward.total:g}, then {other}"


def _outside(trial: Trial, problem: Problem, total: float) -> str:
    """Return a description of a reward outside its problem's range; '' if it is inside."""
    low, high = trial.env.range_of(problem)
    inside = compare_rewards(total, low) >= 0 >= compare_rewards(total, high)
    return "" if inside else f"{total:g}, outside {low:g} to {high:g}"


def _others_solutions(trial: Trial) -> Iterator[str]:
    drawn = trial.drawn("train")
    _require_a_solution(drawn)
    foreign = [(a, b) for a, b in pairwise(drawn) if a.gold != b.gold and b.solution]
    best = [
        b
        for a, b in foreign
        if compare_rewards(trial.reward(a, b.solution).total, trial.most(a)) >= 0
    ]
    if foreign and len(best) > len(foreign) / 2:
        yield f"{len(best)} of {len(foreign)} such answers do, {best[0].solution!r} for one"


def _plays_again(trial: Trial) -> Iterator[str]:
    for problem in trial.of_both() if trial.env.max_turns > 1 else ():
        for player in (trial.env.demonstrate, mumble, say_a_word, say_a_word_in_a_tag):
            episode, rewards = trial.play(problem, player)
            if (earned := summed(rewards)).error:
                yield f"{episode[-1].action[:40]!r} raises {earned.error}"
            if outside := _outside(trial, problem, earned.total):
                yield f"{episode[-1].action[:40]!r} ends with {outside}"
            if player is mumble and compare_rewards(earned.total, trial.most(problem)) >= 0:
                yield f"{episode[-1].action!r} to the end earns {earned.total:g}"
            if (episode, rewards) != (again := trial.play(problem, player)):
                first, other = (turns[-1].observation[:80] for turns in (episode, again[0]))
                yield f"{problem.prompt[:80]!r} was played twice, and answered {first!r}, {other!r}"


def _group_shares(trial: Trial) -> Iterator[str]:
    groups = GroupVectorEnv(trial.env, num_envs=6, group_size=3)
    with time_limit(trial.seconds * _CALLS, "a group"):
        prompts, _ = groups.reset(seed=[1, 2])
        expected = [trial.env.problem(seed).prompt for seed in (1, 1, 1, 2, 2, 2)]
    if list(prompts) != expected:
        yield f"{list(prompts)}"


def _info_floats(trial: Trial) -> Iterator[str]:
    env = trial.env
    for answer in ("", "\U0001f600 \u4f60\u597d", env.problem(0).solution):
        with time_limit(trial.seconds, f"step({answer[:40]!r})"):
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
    "drawing a problem and grading an answer end": _ends,
    "Gymnasium's own check_env passes without a warning": _gymnasium,
    "the same key draws the same problem": same_key_same_problem,
    "different keys draw different problems": different_keys,
    "train and eval share no problem": disjoint,
    "the solution earns the maximum": _solution_is_best,
    "the solution counts as right in accuracy": _counts_as_right,
    "the prompt does not leak the solution": _no_leak,
    "an empty answer earns nothing": _empty_earns_nothing,
    "hostile answers never raise and earn less than the maximum": _hostile_earns_less,
    "rewards are repeatable and in range": _in_range,
    "another problem's solution does not earn the maximum": _others_solutions,
    "a conversation can be played again, its rewards add up within the range": _plays_again,
    "a group shares its problem": _group_shares,
    "rewards and info are floats": _info_floats,
}
