"""Constraints that a given text satisfies: a prompt is made from its solution, not the other way.

So every prompt can be met, however its constraints are put together.
"""

import random
from collections.abc import Callable

from grpo_env_format.simple import NOUNS
from grpo_envs.graders.format.base import Constraint, folded, words_of
from grpo_envs.graders.format.contents import EndsWith, StartsWith
from grpo_envs.graders.format.counts import Frequency, Letters, Words
from grpo_envs.graders.format.markdown import Highlights, Postscript, Title
from grpo_envs.graders.format.text_counts import (
    CapitalWords,
    Characters,
    Length,
    LetterFrequency,
    Lines,
    Paragraphs,
    Sentences,
    SentenceWords,
    paragraphs_of,
    sentences_of,
)
from grpo_envs.graders.format.wording import (
    Avoids,
    Case,
    Contains,
    Distinct,
    Quoted,
    Script,
    Without,
)

Reader = Callable[[random.Random, str], Constraint]


def constraints_of(
    rng: random.Random, text: str, count: int, readers: tuple[Reader, ...]
) -> tuple[Constraint, ...]:
    """Return `count` different constraints that `text` satisfies wholly."""
    kinds = list(readers)
    rng.shuffle(kinds)
    found: dict[str, Constraint] = {}
    for kind in kinds:
        made = kind(rng, text)
        if made.name not in found and made.check(text) == 1:
            found[made.name] = made
        if len(found) == count:
            break
    return tuple(found.values())


def _window(rng: random.Random, count: int) -> tuple[int, int]:
    """Return bounds around a count, now and then the count itself."""
    room = rng.choice((0, 1, 2))
    return max(1, count - room), count + rng.choice((0, room))


def _words(rng: random.Random, text: str) -> Constraint:
    least, most = _window(rng, len(words_of(text)))
    return Words(least=least, most=most)


def _letters(rng: random.Random, text: str) -> Constraint:
    least, most = _window(rng, sum(map(str.isalpha, text)))
    return Letters(least=least, most=most)


def _characters(rng: random.Random, text: str) -> Constraint:
    return Characters(most=-(-len(text.strip()) // 10) * 10)


def _sentences(rng: random.Random, text: str) -> Constraint:
    count = len(sentences_of(text))
    return Sentences(least=count, most=count)


def _paragraphs(rng: random.Random, text: str) -> Constraint:
    count = len(paragraphs_of(text))
    return Paragraphs(least=count, most=count)


def _lines(rng: random.Random, text: str) -> Constraint:
    count = sum(bool(line.strip()) for line in text.splitlines())
    return Lines(least=count, most=count)


def _sentence_words(rng: random.Random, text: str) -> Constraint:
    counts = [len(words) for words in sentences_of(text)] or [1]
    return SentenceWords(least=min(counts), most=max(counts))


def _starts(rng: random.Random, text: str) -> Constraint:
    return StartsWith(phrase=" ".join(text.split()[: rng.randint(1, 2)]))


def _ends(rng: random.Random, text: str) -> Constraint:
    return EndsWith(phrase=" ".join(text.split()[-rng.randint(1, 2) :]))


def _contains(rng: random.Random, text: str) -> Constraint:
    return Contains(phrases=tuple(sorted({rng.choice(words_of(text)) for _ in range(2)})))


def _avoids(rng: random.Random, text: str) -> Constraint:
    absent = [noun for noun in NOUNS if noun not in words_of(folded(text))]
    return Avoids(words=tuple(rng.sample(absent, min(2, len(absent)))))


def _without(rng: random.Random, text: str) -> Constraint:
    absent = [sign for sign in "bcdfghjkmpquvwxyz,." if sign not in folded(text)]
    return Without(characters=rng.choice(absent or ["#"]))


def _frequency(rng: random.Random, text: str) -> Constraint:
    word = rng.choice(words_of(folded(text)))
    count = words_of(folded(text)).count(word)
    return Frequency(word=word, least=count, most=count)


def _letter_frequency(rng: random.Random, text: str) -> Constraint:
    letter = rng.choice([sign for sign in folded(text) if sign.isalpha()])
    count = folded(text).count(letter)
    return LetterFrequency(letter=letter, least=count, most=count)


def _capitals(rng: random.Random, text: str) -> Constraint:
    return CapitalWords(least=max(1, sum(map(str.isupper, words_of(text)))))


def _case(rng: random.Random, text: str) -> Constraint:
    cases = [Case(case=case) for case in ("upper", "lower", "sentence")]
    return next((made for made in cases if made.check(text)), cases[0])


def _length(rng: random.Random, text: str) -> Constraint:
    least, most = _window(rng, len(words_of(text)))
    return Length(least=least, most=most, slope=rng.randint(1, 3))


def _distinct(rng: random.Random, text: str) -> Constraint:
    return Distinct(least=len(words_of(text)))


def _fixed(constraint: Constraint) -> Reader:
    return lambda rng, text: constraint


WORDING: tuple[Reader, ...] = (
    *(_words, _letters, _starts, _ends, _contains, _avoids, _without, _frequency),
    *(_letter_frequency, _distinct),
)
"""What can be said of a few words."""

PROSE: tuple[Reader, ...] = (
    *(_words, _characters, _sentences, _paragraphs, _lines, _sentence_words, _starts, _ends),
    *(_contains, _avoids, _without, _frequency, _letter_frequency, _capitals, _case, _length),
    *map(_fixed, (Quoted(), Title(), Postscript(), Script(script="latin"), Highlights(least=1))),
)
"""What can be said of sentences and paragraphs."""
