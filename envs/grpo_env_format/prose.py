"""Plain text that constraints are read off: words, sentences, paragraphs."""

import random

from grpo_env_format.simple import NOUNS

_ADJECTIVES = (
    "big",
    "blue",
    "calm",
    "cold",
    "dark",
    "kind",
    "new",
    "old",
    "quick",
    "small",
    "warm",
)
_VERBS = ("carries", "finds", "follows", "guards", "hears", "likes", "needs", "passes", "sees")


def words(rng: random.Random, least: int, most: int) -> str:
    """Return some nouns; now and then one of them comes twice."""
    return " ".join(rng.choice(NOUNS) for _ in range(rng.randint(least, most)))


def sentence(rng: random.Random) -> str:
    """Return a sentence.

    >>> sentence(random.Random(0))
    'The old map needs a kind sea.'
    """
    subject, thing = rng.sample(NOUNS, 2)
    article = rng.choice(("a", "the"))
    parts = ["The", rng.choice(_ADJECTIVES), subject, rng.choice(_VERBS), article]
    parts += [rng.choice(_ADJECTIVES)] * rng.randint(0, 1)
    return " ".join([*parts, thing]) + rng.choice((".", ".", "!"))


def paragraph(rng: random.Random, least: int = 1, most: int = 3) -> str:
    """Return some sentences in a row."""
    return " ".join(sentence(rng) for _ in range(rng.randint(least, most)))


def prose(rng: random.Random) -> str:
    """Return paragraphs, some of them dressed up with what instructions ask for."""
    text = "\n\n".join(paragraph(rng) for _ in range(rng.randint(1, 3)))
    dress = rng.choice(("", "", "upper", "lower", "quoted", "title", "postscript", "highlight"))
    noun = rng.choice(NOUNS)
    return {
        "upper": text.upper(),
        "lower": text.lower(),
        "quoted": f'"{text}"',
        "title": f"<<The {noun}>>\n\n{text}",
        "postscript": f"{text}\n\nP.S. {sentence(rng)}",
        "highlight": f"{text} *{sentence(rng)}*",
    }.get(dress, text)
