"""The requirements of a list of constraints, for the builder: bounds, phrases, forbidden words."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grpo_env_format.vocabulary import words_in, words_of_language
from grpo_envs.graders.format.base import Constraint, Counted
from grpo_envs.graders.format.counts import Frequency, Letters, Words
from grpo_envs.graders.format.language import Language
from grpo_envs.graders.format.text_counts import (
    Characters,
    Length,
    LetterFrequency,
    Lines,
    Paragraphs,
    Sentences,
    SentenceWords,
)
from grpo_envs.graders.format.wording import Avoids, AvoidsPhrases, Distinct, Script, Without
from grpo_envs.graders.format.words import folded

Kind = TypeVar("Kind", bound=Constraint)
PER_WORD = 5.2
"""Characters of an average word of our vocabulary, including the blank after it."""
_TO_TELL = 12
"""Words that suffice to recognise the language of a text."""
_SPREAD = {Words: 8, Letters: 40, Characters: 60, Sentences: 2, Paragraphs: 1, Lines: 2}


class Demands:
    """Constraints to be met together."""

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        """Store the constraints."""
        self.constraints = tuple(constraints)

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Return the constraints of one kind."""
        return [one for one in self.constraints if isinstance(one, kind)]

    def one(self, kind: type[Kind]) -> Kind | None:
        """Return the first constraint of a kind; None if there is none."""
        return next(iter(self.all(kind)), None)

    def met(self, text: str) -> bool:
        """Return whether a text fully satisfies all constraints."""
        return all(one.check(text) == 1 for one in self.constraints)

    def bounds(self, kind: type[Counted]) -> tuple[int, int] | None:
        """Return the bounds of a count by all constraints; a missing upper bound is chosen."""
        found: list[Any] = list(self.all(kind))
        unit = {Words: "words", Characters: "characters"}.get(kind)
        found += [one for one in self.all(Length) if one.unit == unit]
        if not found:
            return None
        least = max(one.least or 0 for one in found)
        spread = _SPREAD.get(kind, 2)
        most = [one.most for one in found if one.most is not None]
        return max(least, min(1, *most, 1)), min([*most, max(least, 1) + spread])

    def number(self, rng: random.Random, kind: type[Counted]) -> int | None:
        """Return a number within the bounds, or None if there are none."""
        bounds = self.bounds(kind)
        return None if bounds is None else rng.randint(bounds[0], max(bounds))

    def vocabulary(self, having: str = "") -> list[str]:
        """Return the words with `having` in them that no constraint forbids or counts."""
        script, language = self.one(Script), self.one(Language)
        words = words_in(script.script if script else None)
        if language:
            words = words_of_language(language.language)
        counted = {folded(one.word) for one in self.all(Frequency)}
        letters = {folded(one.letter) for one in self.all(LetterFrequency)} - {having}
        forbidding = [*self.all(Avoids), *self.all(AvoidsPhrases), *self.all(Without)]
        return [
            word
            for word in words
            if having in folded(word)
            and folded(word) not in counted
            and not letters & {*word}
            and all(one.check(word) for one in forbidding)
        ]


@dataclass(slots=True)
class Plan:
    """The sizes of the next attempt."""

    words: int
    sentences: int
    blocks: int

    @classmethod
    def drawn(cls, rng: random.Random, demands: Demands, blocks: int | None) -> "Plan":
        """Choose sizes within all bounds; `blocks` is their number if the layout determines it."""
        blocks = blocks or demands.number(rng, Paragraphs) or demands.number(rng, Lines) or 1
        sentences = max(demands.number(rng, Sentences) or 0, blocks)
        words = demands.number(rng, Words)
        if words is None:
            each = demands.number(rng, SentenceWords)
            letters, signs = demands.number(rng, Letters), demands.number(rng, Characters)
            if letters is not None:
                words = round(letters / (PER_WORD - 1))
            elif signs is not None:
                words = round(signs / PER_WORD)
            else:
                words = sentences * (each or rng.randint(3, 5))
                words = max(words, _TO_TELL if demands.one(Language) else 0)
        distinct = demands.one(Distinct)
        return cls(max(words, distinct.least if distinct else 1), sentences, blocks)

    def mend(self, demands: Demands, text: str, *, fixed: bool) -> None:
        """Correct the sizes by the distance of the counts of `text` from their bounds."""
        for kind, name, unit in (
            (Words, "words", 1.0),
            (Letters, "words", PER_WORD - 1),
            (Characters, "words", PER_WORD),
            (Sentences, "sentences", 1.0),
            (Paragraphs, "blocks", 1.0),
            (Lines, "blocks", 1.0),
        ):
            bounds = demands.bounds(kind)
            if bounds is None or (name == "blocks" and fixed):
                continue
            count = kind(least=0)._count(text)
            missing = max(bounds[0] - count, 0) - max(count - bounds[1], 0)
            setattr(self, name, max(getattr(self, name) + round(missing / unit), 1))
