"""Texts of a structure, with the constraint that asks for it: JSON, XML, YAML, Markdown, tags."""

import json
import random
from collections.abc import Callable
from typing import Any

from grpo_env_format.prose import paragraph, sentence
from grpo_env_format.simple import NOUNS
from grpo_envs.graders.format.base import Constraint
from grpo_envs.graders.format.counts import Items
from grpo_envs.graders.format.json_text import JsonKeys
from grpo_envs.graders.format.markdown import Bullets, CodeBlock, Numbered, Parts, Sections, Table
from grpo_envs.graders.format.schema import JsonSchema
from grpo_envs.graders.format.structure import Regex, Tags, Xml, Yaml

Made = tuple[str, Constraint]
"""A text and the constraint that it satisfies."""


def _nouns(rng: random.Random, least: int = 2, most: int = 4) -> tuple[str, ...]:
    return tuple(rng.sample(NOUNS, rng.randint(least, most)))


def _json_keys(rng: random.Random) -> Made:
    keys = _nouns(rng)
    return json.dumps({key: rng.randint(1, 99) for key in keys}), JsonKeys(keys=keys)


def _schema(rng: random.Random) -> Made:
    """Make an object with a number in a range, one of some words, and a list of texts."""
    number, choice, many = rng.sample(NOUNS, 3)
    low, count = rng.randint(1, 50), rng.randint(1, 3)
    options = sorted(rng.sample(NOUNS, 3))
    properties: dict[str, Any] = {
        number: {"type": "integer", "minimum": low, "maximum": low + 9},
        choice: {"enum": options},
        many: {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count},
    }
    value = {
        number: rng.randint(low, low + 9),
        choice: rng.choice(options),
        many: list(_nouns(rng, count, count)),
    }
    schema = {"type": "object", "properties": properties, "required": [*value]}
    return json.dumps(value), JsonSchema(schema={**schema, "additionalProperties": False})


def _xml(rng: random.Random) -> Made:
    root, *elements = _nouns(rng, 3, 4)
    inside = "".join(f"<{name}>{rng.choice(NOUNS)}</{name}>" for name in elements)
    return f"<{root}>{inside}</{root}>", Xml(root=root, elements=tuple(elements))


def _yaml(rng: random.Random) -> Made:
    keys = _nouns(rng)
    return "\n".join(f"{key}: {rng.choice(NOUNS)}" for key in keys), Yaml(keys=keys)


def _tags(rng: random.Random) -> Made:
    tags = _nouns(rng)
    return "".join(f"<{tag}>{rng.choice(NOUNS)}</{tag}>" for tag in tags), Tags(tags=tags)


def _regex(rng: random.Random) -> Made:
    """Make a label such as fox-2031-AB."""
    noun, digits, letters = rng.choice(NOUNS), rng.randint(2, 4), rng.randint(1, 3)
    text = f"{noun}-{rng.randrange(10 ** (digits - 1), 10**digits)}-"
    text += "".join(rng.choice("ABCDEF") for _ in range(letters))
    return text, Regex(pattern=f"{noun}-[0-9]{{{digits}}}-[A-F]{{{letters}}}")


def _table(rng: random.Random) -> Made:
    columns, count = _nouns(rng, 2, 3), rng.randint(1, 4)
    rows = [columns, ("---",) * len(columns)]
    rows += [_nouns(rng, len(columns), len(columns)) for _ in range(count)]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return text, Table(columns=columns, least=count, most=count)


def _sections(rng: random.Random) -> Made:
    """Make Markdown sections, some with a list in them."""
    headings = tuple(noun.capitalize() for noun in _nouns(rng, 2, 3))
    text = "\n\n".join(f"# {heading}\n\n{_section(rng)}" for heading in headings)
    return text, Sections(headings=headings)


def _section(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return paragraph(rng)
    return "\n".join(f"- {sentence(rng)}" for _ in range(rng.randint(2, 3)))


def _bullets(rng: random.Random) -> Made:
    count = rng.randint(2, 5)
    text = "\n".join(f"- {sentence(rng)}" for _ in range(count))
    return text, Bullets(least=count, most=count)


def _numbered(rng: random.Random) -> Made:
    count = rng.randint(2, 5)
    text = "\n".join(f"{number}. {sentence(rng)}" for number in range(1, count + 1))
    return text, Numbered(least=count, most=count)


def _items(rng: random.Random) -> Made:
    items = _nouns(rng, 3, 7)
    return "; ".join(items), Items(separator=";", least=len(items), most=len(items))


def _code(rng: random.Random) -> Made:
    language = rng.choice(("python", "json", "bash", "text"))
    return f"```{language}\n{rng.choice(NOUNS)}\n```", CodeBlock(language=language)


def _parts(rng: random.Random) -> Made:
    count = rng.randint(2, 3)
    text = "\n***\n".join(paragraph(rng) for _ in range(count))
    return text, Parts(least=count, most=count)


STRUCTURES: tuple[Callable[[random.Random], Made], ...] = (
    *(_json_keys, _schema, _xml, _yaml, _tags, _regex, _table, _sections),
    *(_bullets, _numbered, _items, _code, _parts),
)
DOCUMENTS = (_sections, _bullets, _numbered, _parts)
"""Those that have sentences in them."""
