"""The text of `--help`: the options of each group, the main keys, and the keys of `env`.

The text for an option is the first line of its YAML; for a key, the docstring below its field.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import takewhile
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from grpo_envs.config.composition import yaml_folders
from grpo_envs.config.owners import ENTRY_POINTS, OWNERS, config_of
from grpo_envs.config.schema import RunConfig
from grpo_envs.env.installed import ENVS, available, load, parameters_of
from grpo_envs.errors import GrpoEnvsError

WIDTH = 100
GROUPS = ("env", "model", "agent", "sampler", "trainer", "logger", "experiment")
_MAIN = (
    *("model.size", "model.path", "model.lora.rank"),
    *("trainer.steps", "trainer.prompts_per_step", "trainer.eval_every", "trainer.eval_problems"),
    *("trainer.save_every", "trainer.device", "trainer.precision", "trainer.sweep_metric"),
    *("logger.names", "seed", "resume"),
)
"""The framework's main keys; `--cfg job` shows all. Agents and samplers name their own."""
_HEAD = """\
Train a language model with GRPO on a Gymnasium text environment.

  python -m grpo_envs.run env=math model=qwen             train: minutes, with the bundled model
  python -m grpo_envs.run env=code env.level=2 seed=1     another environment, and a key of it
  python -m grpo_envs.run -m env=math,code seed=0,1,2     a sweep: six runs, one after the other
  python -m grpo_envs.run env=code --help                 the keys of env=code
  python -m grpo_envs.run env=code --cfg job              every key and its value, as YAML
  python -m grpo_envs.plan model.size=4b --memory 24GiB   the memory of a run: does it fit?
  python -m grpo_envs.engine --model MODEL --port 8000    a vLLM server, for sampler=vllm
  python -m grpo_envs.check env=code                      the contract check of an environment
  python -m grpo_envs.play env=code                       answer a problem yourself
  python -m grpo_envs.report RUN...                       an HTML page of one run or several
  python -m grpo_envs.doctor RUN                          why is it not learning?
  python -m grpo_envs.evaluate env=code a=RUN b=tiny      how good is it? (or model.path=RUN)
  python -m grpo_envs.export RUN --out FOLDER             its model, for Transformers and vLLM

`grpo-envs` is `python -m grpo_envs.run`; eval "$(grpo-envs -sc install=bash)" adds completion.
A run writes its files into outputs/<env>/<time>, a sweep into multirun/.
"""


def help_text(cfg: DictConfig) -> str:
    """Return the help, with the values of a composed configuration."""
    tree: Any = OmegaConf.to_container(cfg, resolve=False)
    parts = [_HEAD.rstrip(), "== Options (group=option) =="]
    for group in GROUPS:
        options = options_of(group)
        parts.append(f"{group}=\n" + "\n".join(_row(*option, at=18) for option in options.items()))
    parts.append("== Keys (key=value), and what they are now ==")
    parts.append("\n".join(_row(f"{k}={_value(tree, k)}", text) for k, text in keys(tree).items()))
    name = str(tree["env"].get("name"))
    parts.append(f"== Keys of env={name} ==")
    parts.append("\n".join(_environment(name, tree["env"])))
    return "\n\n".join(parts)


def options_of(group: str) -> dict[str, str]:
    """Return the options of a group with a line on each, including those of installed packages."""
    found = {
        path.stem: path.read_text(encoding="utf-8")
        for folder in reversed(yaml_folders())  # ours take precedence, as in Hydra
        for path in folder.glob(f"{group}/*.yaml")
    }
    lines = {name: _first_comment(text) for name, text in found.items()}
    for name, ep in available(ENTRY_POINTS[group]).items() if group in ENTRY_POINTS else ():
        lines.setdefault(name, f"({ep.value})")
    return dict(sorted(lines.items()))


def _first_comment(text: str) -> str:
    """Return the first sentence of a YAML file's comments."""
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    comment = " ".join(line[1:].strip() for line in takewhile(lambda x: x.startswith("#"), lines))
    return re.split(r"(?<!Dr\.)(?<=[.?!])\s", comment)[0]


def keys(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the main keys with their text, including those of the chosen agent and sampler.

    Args:
        tree: A composed configuration.

    Raises:
        GrpoEnvsError: the agent or the sampler cannot be loaded.
    """
    owners = {group: config_of(group, str(tree[group]["name"])) for group in OWNERS}
    docs = _docs(RunConfig)
    for group, owner in owners.items():
        docs |= {f"{group}.{key}": text for key, text in _docs(owner).items()}
    names = [
        *(key for key in _MAIN if key.startswith("model.")),
        *(f"{group}.{key}" for group, owner in owners.items() for key in _main_keys(owner)),
        *(key for key in _MAIN if not key.startswith("model.")),
    ]
    return {name: docs[name] for name in names}


def _main_keys(owner: type[Any]) -> list[str]:
    """Return the main keys of a class: its `main_keys`, and the keys that it adds to its base.

    All keys, if neither the class nor its base has `main_keys`.
    """
    docs, base = _docs(owner), owner.__mro__[1]
    added: list[str] = []
    if "main_keys" not in vars(owner) and is_dataclass(base):
        added = [key for key in docs if key not in _docs(base)]
    return [*owner.main_keys, *added] if owner.main_keys else [key for key in docs if key != "name"]


def _docs(owner: type[Any]) -> dict[str, str]:
    """Return the text below each field of a dataclass, nested ones included, by dotted key."""
    docs = field_docs(owner)
    hints = get_type_hints(owner)
    found: dict[str, str] = {}
    for field in fields(owner):
        found[field.name] = docs.get(field.name, "")
        if is_dataclass(hints[field.name]):
            inner = _docs(hints[field.name])
            del found[field.name]
            found |= {f"{field.name}.{key}": text for key, text in inner.items()}
    return found


def field_docs(owner: type) -> dict[str, str]:
    """Return the text below each field of a dataclass, its base classes' included."""
    docs: dict[str, str] = {}
    for base in owner.__mro__[1:]:
        if is_dataclass(base):
            docs = field_docs(base) | docs
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(field.target, ast.Name)
            assert isinstance(below.value, ast.Constant)
            docs[field.target.id] = " ".join(str(below.value.value).split())
    return docs


def _environment(name: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a row for each keyword of an environment's constructor."""
    try:
        target = load(ENVS, name)
    except GrpoEnvsError as error:
        yield f"  {error}"
        return
    docs = keyword_docs(target)
    for key, parameter in parameters_of(target).items():
        if key not in ("split", "render_mode") and parameter.kind is not parameter.VAR_KEYWORD:
            default = None if parameter.default is parameter.empty else parameter.default
            yield _row(f"env.{key}={shown(given.get(key, default))}", docs.get(key, ""))


def keyword_docs(target: Any) -> dict[str, str]:
    """Return the docstring text of each keyword of `__init__`, base classes included.

    {} if the entry point is not a class.
    """
    docs: dict[str, str] = {}
    for base in reversed(getattr(target, "__mro__", ())):
        docs |= argument_docs(inspect.cleandoc(vars(base).get("__init__", object).__doc__ or ""))
    return docs


def argument_docs(doc: str) -> dict[str, str]:
    """Return the `Args:` of a Google-style docstring."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", doc, flags=re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+): ((?:.*\n?)(?:^ {5,}.*\n?)*)", section[1], flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _value(tree: Mapping[str, Any], key: str) -> str:
    node: Any = tree
    for name in key.split("."):
        node = node[name]
    return shown(node)


def shown(value: Any) -> str:
    """Return a value in the form that an override has."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _row(left: str, text: str, at: int = 34) -> str:
    """Return two columns, a name and its wrapped text; the second column begins at `at`."""
    indent = " " * at
    start = f"  {left}".ljust(at) if len(left) < at - 3 else f"  {left}\n{indent}"
    filled = textwrap.wrap(text, WIDTH - at, break_on_hyphens=False) or [""]
    return (start + f"\n{indent}".join(filled)).rstrip()
