"""Blocks of words, the contents of every layout."""

import random
import re
from collections.abc import Sequence
from itertools import pairwise

from grpo_env_format.demands import Demands, Plan
from grpo_env_format.vocabulary import Deck
from grpo_envs.graders.format.contents import EndsWith, StartsWith
from grpo_envs.graders.format.counts import Frequency
from grpo_envs.graders.format.marks import Highlights, Placeholders
from grpo_envs.graders.format.text_counts import (
    CapitalWords,
    LetterFrequency,
    Paragraphs,
    Sentences,
    SentenceWords,
)
from grpo_envs.graders.format.wording import Case, Contains, Without
from grpo_envs.graders.format.words import folded, words_of


def blocks_of_words(rng: random.Random, demands: Demands, plan: Plan, deck: Deck) -> list[str]:
    """Return `plan.blocks` texts that together meet all requirements on words."""
    start = [one.phrase.strip() for one in demands.all(StartsWith)][:1]
    end = [one.phrase.strip() for one in demands.all(EndsWith)][:1]
    pieces = _pieces(rng, demands, deck)
    missing = plan.words - len(words_of(" ".join([*start, *pieces, *end])))
    pieces += [deck.draw() for _ in range(missing)]
    rng.shuffle(pieces)
    pieces = [*start, *pieces, *end]
    while len(pieces) < plan.blocks:
        pieces.insert(len(start), deck.draw())
    sentences = chunks(pieces, max(plan.sentences, plan.blocks))
    written = _as_sentences(sentences, demands, start, end)
    return [in_case(" ".join(block), demands) for block in chunks(written, plan.blocks)]


def chunks(things: Sequence[str], count: int) -> list[list[str]]:
    """Split a list into `count` parts of nearly equal length.

    >>> chunks("abcde", 2)
    [['a', 'b'], ['c', 'd', 'e']]
    """
    count = max(1, min(count, len(things)))
    cuts = [len(things) * number // count for number in range(count + 1)]
    return [list(things[low:high]) for low, high in pairwise(cuts)]


def in_case(text: str, demands: Demands) -> str:
    """Return a text in the required case."""
    case = demands.one(Case)
    if case is None or case.case == "sentence":
        return text
    if case.case == "title":
        return re.sub(r"(?<!\S)(\W*)(\w)", lambda found: found[1] + found[2].upper(), text)
    return text.upper() if case.case == "upper" else text.lower()


def _pieces(rng: random.Random, demands: Demands, deck: Deck) -> list[str]:
    pieces = [phrase for one in demands.all(Contains) for phrase in one.phrases]
    for frequency in demands.all(Frequency):
        given = words_of(folded(" ".join(_given(demands)))).count(folded(frequency.word))
        pieces += [frequency.word] * (_needed(rng, frequency.least, frequency.most) - given)
    for letter in demands.all(LetterFrequency):
        one = folded(letter.letter)
        given = folded(" ".join(_given(demands))).count(one)
        wide = Deck(rng, demands.vocabulary(having=one))
        count = _needed(rng, letter.least, letter.most) - given
        pieces += [wide.draw(having=one) for _ in range(count)]
    pieces += [f"*{deck.draw()}*" for _ in range(demands.number(rng, Highlights) or 0)]
    pieces += [f"[{deck.draw()}]" for _ in range(demands.number(rng, Placeholders) or 0)]
    capitals = demands.number(rng, CapitalWords) or 0
    return pieces + [deck.draw().upper() for _ in range(capitals)]


def _given(demands: Demands) -> list[str]:
    """Return the phrases that other constraints put into the text."""
    phrases = [phrase for one in demands.all(Contains) for phrase in one.phrases]
    phrases += [one.phrase for one in demands.all(StartsWith)]
    return phrases + [one.phrase for one in demands.all(EndsWith)]


def _needed(rng: random.Random, least: int | None, most: int | None) -> int:
    low = least if least is not None else min(1, most or 0)
    return rng.randint(low, low + 2 if most is None else min(most, low + 2))


def _as_sentences(
    sentences: list[list[str]], demands: Demands, start: list[str], end: list[str]
) -> list[str]:
    """Return sentences, with capitals and full stops if a constraint requires prose."""
    case = demands.one(Case)
    whole = any(map(demands.all, (Sentences, SentenceWords, Paragraphs)))
    if not whole and not (case and case.case == "sentence"):
        return [" ".join(sentence) for sentence in sentences]
    stop = next(
        (sign for sign in ".!?" if all(sign not in one.characters for one in demands.all(Without))),
        "",
    )
    kept = {*_given(demands), *(one.word for one in demands.all(Frequency))}
    written = []
    for number, words in enumerate(sentences):
        first = words[0] if words[0] in kept else words[0][:1].upper() + words[0][1:]
        last = number == len(sentences) - 1 and bool(end)
        text = " ".join([first, *words[1:]])
        written.append(text if last or text.endswith(tuple(".!?")) else text + stop)
    return written


def parts_of(rng: random.Random, total: int, count: int) -> list[int] | None:
    """Return `count` numbers above 0 whose sum is `total`, or None if there are none."""
    if not 1 <= count <= total or count > 10_000:
        return None
    cuts = sorted(rng.sample(range(1, total), count - 1))
    return [high - low for low, high in pairwise([0, *cuts, total])]
