"""Writes docs/environments.md from the docstrings of the installed environments of ours.

python docs/environments.py
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

from grpo_envs.config.help import keyword_docs, options_of, shown
from grpo_envs.env.installed import ENVS, available, load, parameters_of
from grpo_envs.env.plugins import conf_dir

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """\
# The environments

Written by `python docs/environments.py` from the docstrings. [envs/README.md](../envs/README.md)
tells more of each, with examples; `python -m grpo_envs.run env=NAME --help` prints the same keys.

| `env=` | what it is |
|---|---|"""


def page() -> str:
    """Return the page."""
    ours = {name: ep for name, ep in available(ENVS).items() if _is_ours(ep.value)}
    options = {path.stem for path in conf_dir().glob("env/*.yaml")}
    rows = [f"| `{name}` | {doc} |" for name, doc in options_of("env").items() if name in options]
    sections = (line for name in sorted(ours) for line in _section(name))
    return "\n".join([_HEAD, *rows, "", *sections])


def _is_ours(target: str) -> bool:
    return target.startswith("grpo_env_")


def _section(name: str) -> Iterator[str]:
    target = load(ENVS, name)
    yield f"## `env={name}`\n"
    module = inspect.getmodule(target)
    assert module is not None
    yield f"{inspect.cleandoc(module.__doc__ or '')}\n"
    parts = ", ".join(f"`{part}` ({weight:g})" for part, weight in target.parts.items())
    yield f"Reward components and their weights: {parts or 'those of the tasks'}.\n"
    yield "| key | default | what it is |\n|---|---|---|"
    docs = keyword_docs(target)
    for key, parameter in parameters_of(target).items():
        if key in ("split", "render_mode") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        given = "" if parameter.default is parameter.empty else shown(parameter.default)
        default = f"`{given}`" if given else ""
        yield f"| `env.{key}` | {default} | {docs.get(key, '').replace('|', chr(92) + '|')} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
