"""Answers that satisfy several constraints: written by a plan, checked, and corrected.

An answer that `build` returns has passed every check. It finds none if the constraints contradict
each other, and sometimes none although there is one.
"""

import random
from collections.abc import Sequence

from grpo_env_format.data_text import json_text, schema_text, xml_text, yaml_text
from grpo_env_format.demands import Demands, Plan
from grpo_env_format.prose import blocks_of_words, in_case, parts_of
from grpo_env_format.vocabulary import Deck
from grpo_envs.graders.format import Constraint
from grpo_envs.graders.format.contents import (
    Alphabetical,
    FirstWord,
    InOrder,
    RepeatPrompt,
    StartsWith,
)
from grpo_envs.graders.format.counts import Items, Sum
from grpo_envs.graders.format.json_text import Json, JsonKeys
from grpo_envs.graders.format.markdown import Bullets, CodeBlock, Numbered, Sections, Table
from grpo_envs.graders.format.marks import (
    NumberedSections,
    Parts,
    Postscript,
    Title,
    TwoResponses,
)
from grpo_envs.graders.format.schema import JsonSchema
from grpo_envs.graders.format.structure import Regex, Tags, Xml, Yaml
from grpo_envs.graders.format.text_counts import Lines, Paragraphs
from grpo_envs.graders.format.wording import OneOf, Quoted

_MENDS = 4
_LISTS: dict[type[Bullets | Numbered], str] = {Bullets: "- {}", Numbered: "{n}. {}"}


def build(
    rng: random.Random,
    constraints: Sequence[Constraint],
    about: Sequence[str] = (),
    *,
    plans: int = 25,
) -> str | None:
    """Return a text that satisfies all constraints; None if `plans` plans give no such text."""
    demands = Demands(constraints)
    words = demands.vocabulary()
    if not words:
        return None
    for _ in range(plans):
        blocks = _blocks(rng, demands)
        plan = Plan.drawn(rng, demands, blocks)
        for _ in range(_MENDS):
            text = _write(rng, demands, plan, Deck(rng, words, about))
            if text is None or len(text) > 100_000:
                break
            if demands.met(text):
                return text
            plan.mend(demands, text, fixed=blocks is not None)
    return None


def _blocks(rng: random.Random, demands: Demands) -> int | None:
    """Return the number of blocks of the layout; None if any number is allowed."""
    for one in demands.constraints:
        match one:
            case Tags():
                return len(one.tags)
            case Sections():
                return len(one.headings)
            case JsonKeys():
                return len(one.keys)
            case Table():
                return len(one.columns) * (demands.number(rng, Table) or 0) or None
            case Yaml() if one.keys:
                return len(one.keys)
            case Xml() if one.elements:
                return len(one.elements)
            case Items() | Parts() | NumberedSections():
                return demands.number(rng, type(one))
    return _free_blocks(rng, demands)


def _free_blocks(rng: random.Random, demands: Demands) -> int | None:
    """Return the number of paragraphs, responses or list items; None if any number is allowed."""
    first = demands.one(FirstWord)
    if first:
        return first.paragraphs or max(first.paragraph, demands.number(rng, Paragraphs) or 0)
    if demands.one(TwoResponses):
        return 2
    if not _only_lists(demands):
        return None
    return demands.number(rng, Bullets) or demands.number(rng, Numbered)


def _write(rng: random.Random, demands: Demands, plan: Plan, deck: Deck) -> str | None:
    fixed = _fixed_text(rng, demands)
    if fixed == "":
        return None
    text = in_case(fixed, demands) if fixed else _laid_out(rng, demands, plan, deck)
    title, postscript = demands.one(Title), demands.one(Postscript)
    repeated = demands.one(RepeatPrompt)
    if title:
        heading = f"<<{in_case(deck.draw(), demands)}>>"
        text = f"{text}\n{heading}" if demands.one(StartsWith) else f"{heading}\n{text}"
    if postscript:
        text += f"\n\n{postscript.marker} {deck.draw()}"
    text = f"{repeated.prompt.strip()} {text}" if repeated else text
    code = demands.one(CodeBlock)
    if code:
        text = f"```{code.language}\n{text}\n```"
    return f'"{text}"' if demands.one(Quoted) else text


def _fixed_text(rng: random.Random, demands: Demands) -> str | None:
    """Return the text that a constraint determines; '' if the constraint cannot be met.

    None if no constraint determines the text.
    """
    items = demands.one(Items)
    blank = f"{items.separator} " if items else " "
    for one in demands.constraints:
        match one:
            case OneOf():
                return rng.choice(one.options)
            case Regex():
                return one.example
            case InOrder():
                return blank.join(one.words[::-1] if one.reverse else one.words)
            case Alphabetical():
                return blank.join(sorted(one.words, key=str.casefold))
            case Sum():
                least = max(one.least, 1)
                most = least + 2 if one.most is None else one.most
                count = rng.randint(least, max(least, min(most, one.total)))
                numbers = parts_of(rng, one.total, count)
                return blank.join(map(str, numbers)) if numbers else ""
    return None


def _laid_out(rng: random.Random, demands: Demands, plan: Plan, deck: Deck) -> str:
    """Return blocks of words in the first layout that a constraint requires."""
    blocks = blocks_of_words(rng, demands, plan, deck)
    for one in demands.constraints:
        match one:
            case Json() | JsonKeys():
                return json_text(one, blocks)
            case JsonSchema():
                return schema_text(one, blocks)
            case Yaml():
                return yaml_text(one, blocks)
            case Xml():
                return xml_text(one, blocks)
            case Table():
                return _table(one.columns, blocks)
    lists = _lists(rng, demands, deck)
    headings, tags = demands.one(Sections), demands.one(Tags)
    if headings:
        pairs = zip(headings.headings, blocks, strict=False)
        return "\n\n".join([*(f"# {name}\n{block}" for name, block in pairs), *lists])
    if tags:
        blocks[-1] = "\n\n".join([blocks[-1], *lists])
        return "".join(f"<{n}>{b}</{n}>" for n, b in zip(tags.tags, blocks, strict=False))
    return _separated(demands, blocks, lists)


def _separated(demands: Demands, blocks: list[str], lists: list[str]) -> str:
    items = demands.one(Items)
    if items:
        return "\n\n".join([f"{items.separator} ".join(blocks), *lists])
    if demands.one(Parts):
        return "\n\n***\n\n".join(blocks)
    if demands.one(TwoResponses):
        blocks[-1] = "\n\n".join([blocks[-1], *lists])
        return "\n\n******\n\n".join(blocks)
    numbered, first = demands.one(NumberedSections), demands.one(FirstWord)
    if numbered:
        headed = [f"{numbered.word} {n}\n{block}" for n, block in enumerate(blocks, 1)]
        return "\n\n".join([*headed, *lists])
    if first and first.paragraph <= len(blocks):
        blocks[first.paragraph - 1] = f"{first.word} {blocks[first.paragraph - 1]}"
    for kind, mark in _LISTS.items():
        if demands.one(kind) and len(lists) == 1 and _only_lists(demands):
            return _points(mark, blocks)
    return "\n\n".join([("\n" if demands.one(Lines) else "\n\n").join(blocks), *lists])


def _only_lists(demands: Demands) -> bool:
    """Return whether the text can consist of list items only."""
    both = demands.one(Bullets) and demands.one(Numbered)
    apart = demands.one(Paragraphs) or demands.one(StartsWith) or demands.one(FirstWord)
    return not (both or apart)


def _lists(rng: random.Random, demands: Demands, deck: Deck) -> list[str]:
    """Return a bulleted and a numbered list, with one word per item."""
    written = []
    for kind, mark in _LISTS.items():
        count = demands.number(rng, kind)
        if count:
            words = [in_case(deck.draw(), demands) for _ in range(count)]
            written.append(_points(mark, words))
    return written


def _points(mark: str, texts: Sequence[str]) -> str:
    return "\n".join(mark.format(text, n=number) for number, text in enumerate(texts, 1))


def _table(columns: Sequence[str], blocks: list[str]) -> str:
    width = len(columns)
    rows = [blocks[at : at + width] for at in range(0, len(blocks), width)]
    lines = [columns, ["---"] * width, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
