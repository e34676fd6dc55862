"""Levels 2 to 5: several random constraints, with an answer that is built to satisfy them all."""

import random
from collections.abc import Callable, Sequence

from grpo_env_format.build import build
from grpo_env_format.exercise import Exercise, topic
from grpo_env_format.simple import NOUNS
from grpo_env_format.vocabulary import MORE
from grpo_envs.graders.format import Constraint, constraint_from

Draw = Callable[[random.Random], dict[str, object]]


def composed(rng: random.Random, level: int) -> Exercise:
    """Make an exercise of a level above 1; draw again if no answer is found."""
    while True:
        kinds = [draw for group, count in _LEVELS[level] for draw in rng.sample(group, count)]
        constraints = tuple(constraint_from(draw(rng)) for draw in kinds)
        about = rng.sample(NOUNS, 2)
        answer = build(rng, constraints, about, plans=3)
        if answer is not None:
            return Exercise(text=asked(about, constraints), constraints=constraints, answer=answer)


def asked(about: Sequence[str], constraints: Sequence[Constraint]) -> str:
    """Return the prompt: the topic, then an instruction for each constraint."""
    return " ".join(f"{said}." for said in [topic(about), *(c.instruction for c in constraints)])


def _some(rng: random.Random, least: int, most: int) -> list[str]:
    return rng.sample((*NOUNS, *MORE), rng.randint(least, most))


def _count(name: str, least: int, most: int, width: int = 0, **options: object) -> Draw:
    """Draw bounds: a number from `least` to `most`, and an upper bound up to `width` above it."""

    def draw(rng: random.Random) -> dict[str, object]:
        low = rng.randint(least, most)
        return {"name": name, "least": low, "most": low + rng.randint(0, width), **options}

    return draw


def _texts(name: str, option: str, least: int, most: int) -> Draw:
    return lambda rng: {"name": name, option: _some(rng, least, most)}


def _phrase(name: str) -> Draw:
    return lambda rng: {"name": name, "phrase": " ".join(_some(rng, 1, 2))}


def _choice(name: str, option: str, *values: object) -> Draw:
    return lambda rng: {"name": name, option: rng.choice(values)}


def _plain(name: str) -> Draw:
    return lambda rng: {"name": name}


def _frequency(rng: random.Random) -> dict[str, object]:
    count = rng.randint(2, 4)
    return {"name": "frequency", "word": rng.choice(MORE), "least": count, "most": count}


def _letter(rng: random.Random) -> dict[str, object]:
    count = rng.randint(1, 4)
    letter = rng.choice("bcdgkmpvwz")
    return {"name": "letter_frequency", "letter": letter, "least": count, "most": count}


def _table(rng: random.Random) -> dict[str, object]:
    count = rng.randint(2, 4)
    return {"name": "table", "columns": _some(rng, 2, 3), "least": count, "most": count}


def _xml(rng: random.Random) -> dict[str, object]:
    root, *elements = _some(rng, 3, 5)
    return {"name": "xml", "root": root, "elements": elements}


def _sections(rng: random.Random) -> dict[str, object]:
    return {"name": "sections", "headings": [noun.capitalize() for noun in _some(rng, 2, 4)]}


def _first_word(rng: random.Random) -> dict[str, object]:
    count = rng.randint(2, 3)
    place, word = rng.randint(1, count), _some(rng, 1, 1)[0]
    return {"name": "first_word", "word": word, "paragraph": place, "paragraphs": count}


def _request(rng: random.Random) -> dict[str, object]:
    return {"name": "repeat_prompt", "prompt": f"tell me of the {rng.choice(NOUNS)}"}


def _phrases(rng: random.Random) -> dict[str, object]:
    return {"name": "avoids_phrases", "phrases": [" ".join(_some(rng, 2, 2))]}


def _schema(rng: random.Random) -> dict[str, object]:
    kinds = ({"type": "string"}, {"type": "integer"}, {"type": "boolean"}, _array(rng))
    names = _some(rng, 2, 4)
    properties: dict[str, object] = {names[0]: {"type": "string"}}
    properties |= {name: rng.choice(kinds) for name in names[1:]}
    schema = {"type": "object", "properties": properties, "required": names}
    return {"name": "json_schema", "schema": {**schema, "additionalProperties": False}}


def _array(rng: random.Random) -> dict[str, object]:
    count = rng.randint(2, 3)
    return {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count}


_SIZES = (
    _count("words", 4, 12, 2),
    _count("letters", 15, 40, 4),
    _count("characters", 20, 60, 6),
    _count("length", 5, 15, 4, slope=3),
)
_PLACES = (
    _phrase("starts_with"),
    _phrase("ends_with"),
    _texts("contains", "phrases", 1, 2),
    _frequency,
    _letter,
)
_MANNERS = (
    _texts("avoids", "words", 1, 2),
    _choice("without", "characters", "e", "a", "o", ","),
    _choice("case", "case", "upper", "lower", "title"),
    _choice("distinct", "least", 4, 5, 6),
    _phrases,
    _count("capital_words", 1, 3),
    _plain("quoted"),
)
_PROSE = (
    _count("sentences", 2, 5),
    _count("paragraphs", 2, 4),
    _count("sentence_words", 3, 5, 3),
    _count("bullets", 2, 5),
    _count("numbered", 2, 5),
    _count("highlights", 1, 3),
    _count("placeholders", 1, 3),
    _count("parts", 2, 3),
    _count("numbered_sections", 2, 3),
    _plain("title"),
    _choice("postscript", "marker", "P.S.", "P.P.S."),
    _plain("two_responses"),
    _first_word,
    _request,
    _choice("language", "language", "de", "es", "fr", "it", "nl", "pt"),
)
_STRUCTURES = (
    _schema,
    _texts("json_keys", "keys", 2, 5),
    _xml,
    _texts("yaml", "keys", 2, 5),
    _table,
    _sections,
    _texts("tags", "tags", 2, 3),
)
_FREE = (
    _texts("contains", "phrases", 1, 3),
    _texts("avoids", "words", 1, 3),
    _choice("without", "characters", "z", "q", "x", "k"),
    _frequency,
)
_LEVELS: dict[int, tuple[tuple[Sequence[Draw], int], ...]] = {
    2: ((_SIZES, 1), (_PLACES, 1)),
    3: ((_PROSE, 1), (_PLACES, 1), (_MANNERS, 1)),
    4: ((_STRUCTURES, 1), (_FREE, 1)),
    5: ((_STRUCTURES, 1), (_FREE, 2), ((_count("words", 14, 30, 6), _letter), 1)),
}
