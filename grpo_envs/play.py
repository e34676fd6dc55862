"""Answer a problem yourself: `python -m grpo_envs.play env=math` shows your answer's reward."""

import argparse
import io
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import rich
from rich.table import Table
from rich.text import Text

from grpo_envs.config.composition import compose_run
from grpo_envs.config.schema import RunConfig
from grpo_envs.env import SPLITS, TextEnv, plugins
from grpo_envs.env.calls import write_call
from grpo_envs.env.score_sheet import demonstration
from grpo_envs.errors import ConfigError, require, require_training
from grpo_envs.runs.newest import model_path
from grpo_envs.runtime.terminal import exit_on_error, number, printable

if TYPE_CHECKING:
    from grpo_policy.chat import Chat

END = "."
"""The line that ends an answer."""
_SEEDS = 2**31


@exit_on_error()
def main() -> None:
    """Play until the user quits or the input ends; exit 2 on a mistake, 130 on Ctrl-C."""
    options = _parser().parse_intermixed_args()
    _prepare_terminal()
    try:
        _run(options)
    except EOFError:  # the input ended, at any question
        print()


def read_answer() -> str:
    """Read lines until one holds a single dot, or the input ends.

    Raises:
        EOFError: the input ended before any line.
    """
    lines: list[str] = []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if not lines:
                raise
            break
        if line == END:
            break
        lines.append(line)
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.play", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for a run, e.g. env=math model=qwen")
    parser.add_argument("--seed", type=int, help="number of the first problem (a random one)")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="split of the problems (%(default)s)"
    )
    parser.add_argument(
        "--raw", action="store_true", help="show plain text, without the model's chat template"
    )
    parser.add_argument("--solution", action="store_true", help="show the solution at the end")
    return parser


def _prepare_terminal() -> None:
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # no invalid byte or character ends the game
            stream.reconfigure(errors="backslashreplace")
    if not sys.stdin.isatty():
        return
    try:
        import readline  # Unix only: gives `input` the arrow keys
    except ImportError:
        return
    # Each line of a pasted text is read as one line, as in a pipe: the dot at the end, too.
    readline.parse_and_bind("set enable-bracketed-paste off")


def _run(options: argparse.Namespace) -> None:
    require(options.seed is None or options.seed >= 0, "--seed", options.seed, "0 or more")
    cfg = compose_run(options.overrides)
    cfg.model.path = model_path(cfg.model.path)
    if "split" in cfg.env_keywords:
        given = cfg.env_keywords["split"]
        raise ConfigError(f"env.split={given}. Here it is an option: --split {given}.")
    made = plugins.make(cfg.env["name"], split=options.split, **cfg.env_keywords)
    with closing(made) as env:
        chat = None if options.raw else _chat(cfg)
        for seed in _seeds(options.seed):
            _episode(env, seed, chat)
            if options.solution:
                _show_solution(env, seed)
            if not _another():
                return


def _chat(cfg: RunConfig) -> "Chat":
    require_training("the chat template of a model (not --raw)")
    # Imported here: they import torch, which takes seconds, and a mistake is reported before.
    from grpo_envs.training.build import make_accelerator
    from grpo_policy.models import load_chat, resolve

    model = resolve(cfg.model, make_accelerator(cfg.trainer).device)
    print(model.line)
    chat = load_chat(model.path, cfg.model)
    for remark in chat.remarks():
        print(f"model: {remark}")
    return chat


def _seeds(first: int | None) -> Iterator[int]:
    seed = first
    while True:
        yield random.randrange(_SEEDS) if seed is None else seed
        seed = None if seed is None else seed + 1


def _episode(env: TextEnv, seed: int, chat: "Chat | None") -> None:
    """Ask for answers until the episode ends."""
    prompt, about = env.reset(seed=seed)
    how = "" if chat is None else ", as the model sees it"
    print(f"\nproblem {seed} of {env.split}{how}:")
    _show_problem(prompt, about, chat)
    turns = env.turns_of(env.problem(seed))
    totals: list[float] = []
    over = False
    while not over:
        turn = f" (turn {len(totals) + 1} of {turns})" if turns > 1 else ""
        ended = f"end it with a line that holds only {END!r}, or with Ctrl-D"
        print(f"\nYour answer{turn}; {ended}:", flush=True)
        answer = read_answer()
        if chat:
            answer = chat.canonical(answer, about["tools"])
        observation, total, terminated, truncated, info = env.step(answer)
        over = terminated or truncated
        totals.append(total)
        _show_reward(env, total, info)
        if chat and not over:
            # Nobody types the token that ends a turn, so it is put in.
            results = info.get("results", ())
            reply = chat.follow_up(observation, ended=False, results=results, answer=answer)
            observation = chat.text(reply)
        if observation:
            print(f"\nThe environment says:\n{printable(observation)}")
    if turns > 1:
        print(f"\nThe episode is over. Its {len(totals)} turns earn {number(sum(totals))}.")


def _show_problem(prompt: str, about: Mapping[str, Any], chat: "Chat | None") -> None:
    """Show the problem as the model sees it or, without a chat, its texts and its tools."""
    system, tools = about["system_prompt"], about["tools"]
    if chat is None:
        print(printable(f"{system}\n\n{prompt}" if system else prompt))
        for tool in tools:
            made = tool["function"]
            call = write_call(made["name"], dict.fromkeys(made["parameters"]["properties"], "..."))
            print(printable(f"\n{made['name']}: {made['description']}\n{call}"))
        return
    tokens = chat.render(prompt, system, about["messages"], tools)
    print(printable(chat.text(tokens)))
    if len(tokens) >= chat.context_length:
        print(
            f"\nThis prompt has {len(tokens):,} tokens and leaves no room for an answer in the "
            f"model's context of {chat.context_length:,}: a run leaves it out (env.too_long)."
        )


def _show_reward(env: TextEnv, total: float, info: Mapping[str, Any]) -> None:
    valid = bool(info["reward_valid"])
    table = Table("component")
    for name in ("value", "weight", "weighted"):
        table.add_column(name, justify="right")
    for name, weight in env.weights.items():
        value = info.get(f"reward/{name}") if valid else None
        weighted = None if value is None else weight * value
        table.add_row(Text(name), number(value), number(weight), number(weighted))
    table.add_section()
    table.add_row("total", "", "", number(total))
    rich.get_console().print("", table, sep="\n")
    detail = printable(str(info["detail"]))
    if valid:
        print("valid: yes" + (f"\ndetail: {detail}" if detail else ""))
    else:
        print(f"valid: no, the grader failed, and nothing is learnt from it: {detail}")


def _show_solution(env: TextEnv, seed: int) -> None:
    said = demonstration(env, env.problem(seed))
    print("\nA solution:" if said else "\nThe problem has no solution.")
    for answer in said:
        print(printable(answer))


def _another() -> bool:
    while True:
        print("\nAnother problem? Enter: the next one, q: quit.", flush=True)
        word = input().strip()
        if word in ("", "q"):
            return not word
        print(f"{printable(word)!r}. Allowed: Enter, q.")


if __name__ == "__main__":
    main()
