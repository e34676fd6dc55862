"""All constraints by name, and how they are declared: {"name": "words", "least": 3, "most": 5}."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_envs.errors import ConfigError, require, require_one_of, unknown
from grpo_envs.graders.format.base import Constraint
from grpo_envs.graders.format.contents import KINDS as CONTENTS
from grpo_envs.graders.format.counts import KINDS as COUNTS
from grpo_envs.graders.format.json_text import KINDS as JSON_TEXT
from grpo_envs.graders.format.language import KINDS as LANGUAGE
from grpo_envs.graders.format.markdown import KINDS as MARKDOWN
from grpo_envs.graders.format.marks import KINDS as MARKS
from grpo_envs.graders.format.schema import KINDS as SCHEMA
from grpo_envs.graders.format.structure import KINDS as STRUCTURE
from grpo_envs.graders.format.text_counts import KINDS as TEXT_COUNTS
from grpo_envs.graders.format.wording import KINDS as WORDING

_ALL: tuple[type[Constraint], ...] = (
    *COUNTS,
    *TEXT_COUNTS,
    *WORDING,
    *CONTENTS,
    *LANGUAGE,
    *MARKDOWN,
    *MARKS,
    *STRUCTURE,
    *JSON_TEXT,
    *SCHEMA,
)
CONSTRAINTS: dict[str, type[Constraint]] = {kind.name: kind for kind in _ALL}


def constraint_from(declared: Any) -> Constraint:
    """Make the constraint that a mapping of `name` and options declares.

    Raises:
        ConfigError: a name or an option is unknown, or an option is missing or has no meaning.

    >>> constraint_from({"name": "words", "least": 3, "most": 5}).instruction
    'use 3 to 5 words'
    """
    named = isinstance(declared, Mapping) and "name" in declared
    require(named, "constraint", repr(declared)[:80], "{name: ..., <option>: ...}")
    name = declared["name"]
    require_one_of("constraint name", name, CONSTRAINTS)
    kind = CONSTRAINTS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given = {key: value for key, value in declared.items() if key != "name"}
    for key in given:
        if key not in fields:
            raise unknown(f"option of {name}", str(key), fields)
    for key, field in fields.items():
        needed = field.default is dataclasses.MISSING
        if needed and key not in given:
            raise ConfigError(f"{name} needs the option {key!r}. Allowed: {', '.join(fields)}.")
    made: Constraint = kind(**{key: _frozen(value) for key, value in given.items()})
    return made


def constraints_from(declared: Any) -> tuple[Constraint, ...]:
    """Make all constraints of a list.

    Raises:
        ConfigError: the value is not a list, is empty, or has an invalid constraint.
    """
    listed = isinstance(declared, Sequence) and not isinstance(declared, str) and bool(declared)
    require(listed, "constraints", repr(declared)[:80], "a list of {name: ..., <option>: ...}")
    return tuple(map(constraint_from, declared))


def _frozen(value: Any) -> Any:
    """Return lists as tuples: options of a constraint never change."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
