"""Constraints on the contents of a text: first and last words, words in order."""

from dataclasses import dataclass
from typing import ClassVar

from grpo_envs.errors import require
from grpo_envs.graders.format.base import Constraint, need_text, need_words
from grpo_envs.graders.format.text_counts import paragraphs_of
from grpo_envs.graders.format.words import compared, words_of

_MOST_PARAGRAPHS = 1_000
_STOPS = ".!?:"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsWith(Constraint):
    """The text starts with exactly this phrase, as whole words: not `Dearest` for `Dear`."""

    name: ClassVar[str] = "starts_with"
    phrase: str

    def _require(self) -> None:
        need_text(self.name, "phrase", self.phrase)

    def _said(self) -> str:
        return f"start with the words {self.phrase}"

    def _measure(self, text: str) -> float:
        phrase = self.phrase.strip()
        rest = text.lstrip().removeprefix(phrase)
        return text.lstrip().startswith(phrase) and not (
            phrase[-1].isalnum() and rest[:1].isalnum()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsWith(Constraint):
    """The text ends with exactly this phrase."""

    name: ClassVar[str] = "ends_with"
    phrase: str

    def _require(self) -> None:
        need_text(self.name, "phrase", self.phrase)

    def _said(self) -> str:
        return f"end with the words {self.phrase}"

    def _measure(self, text: str) -> float:
        phrase = self.phrase.strip()
        before = text.rstrip().removesuffix(phrase)
        return text.rstrip().endswith(phrase) and not (
            before[-1:].isalnum() and phrase[0].isalnum()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InOrder(Constraint):
    """The text is only these words, in this or the reverse order, in any case."""

    name: ClassVar[str] = "sequence"
    words: tuple[str, ...]
    reverse: bool = False

    def _require(self) -> None:
        need_words(self.name, "words", self.words)

    def _said(self) -> str:
        order = "reverse order" if self.reverse else "this order"
        return f"write these words in {order}: {' '.join(self.words)}"

    def _measure(self, text: str) -> float:
        wanted = [compared(word) for word in self.words]
        return words_of(compared(text)) == (wanted[::-1] if self.reverse else wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphabetical(Constraint):
    """The text is only these words, sorted by their letters, in any case."""

    name: ClassVar[str] = "alphabetical"
    words: tuple[str, ...]

    def _require(self) -> None:
        need_words(self.name, "words", self.words)

    def _said(self) -> str:
        return f"write these words in alphabetical order: {' '.join(self.words)}"

    def _measure(self, text: str) -> float:
        return words_of(compared(text)) == sorted(compared(word) for word in self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstWord(Constraint):
    """The `paragraph`-th paragraph starts with this word; the text has `paragraphs`, if given."""

    name: ClassVar[str] = "first_word"
    word: str
    paragraph: int = 1
    paragraphs: int | None = None

    def _require(self) -> None:
        need_words(self.name, "word", (self.word,))
        place = type(self.paragraph) is int and 1 <= self.paragraph <= _MOST_PARAGRAPHS
        allowed = f"a whole number, 1 to {_MOST_PARAGRAPHS}"
        require(place, "first_word.paragraph", self.paragraph, allowed)
        if self.paragraphs is not None:
            least = self.paragraph
            count = type(self.paragraphs) is int and least <= self.paragraphs <= _MOST_PARAGRAPHS
            allowed = f"a whole number, {least} to {_MOST_PARAGRAPHS}"
            require(count, "first_word.paragraphs", self.paragraphs, allowed)

    def _said(self) -> str:
        start = f"start paragraph {self.paragraph} with the word {self.word}"
        if self.paragraphs is None:
            return f"{start}, with a blank line between paragraphs"
        count = f"{self.paragraphs} paragraph{'' if self.paragraphs == 1 else 's'}"
        return f"write exactly {count}, with a blank line between paragraphs, and {start}"

    def _measure(self, text: str) -> float:
        paragraphs = paragraphs_of(text)
        if len(paragraphs) != (self.paragraphs or len(paragraphs)):
            return 0.0
        words = words_of(compared("".join(paragraphs[self.paragraph - 1 : self.paragraph])))
        return words[:1] == [compared(self.word)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatPrompt(Constraint):
    """The text first repeats `prompt`, word for word, and then has something else."""

    name: ClassVar[str] = "repeat_prompt"
    prompt: str

    def _require(self) -> None:
        need_text(self.name, "prompt", self.prompt)
        given = repr(self.prompt)[:80]
        require(bool(words_of(self.prompt)), "repeat_prompt.prompt", given, "a text with a word")

    def _said(self) -> str:
        return f"first repeat these words without change, then go on: {self.prompt.strip(' .,')}"

    def rest(self, text: str) -> str | None:
        """Return the text after the repeated prompt; None if the text does not start with it."""
        wanted, given = self.prompt.split(), text.split()
        if given[: len(wanted) - 1] != wanted[:-1] or len(given) < len(wanted):
            return None
        last, end = given[len(wanted) - 1], wanted[-1].rstrip(_STOPS) or wanted[-1]
        if not last.startswith(end) or (end[-1:].isalnum() and last[len(end) :][:1].isalnum()):
            return None
        return " ".join([last[len(end) :], *given[len(wanted) :]]).lstrip(_STOPS + " ")

    def _measure(self, text: str) -> float:
        rest = self.rest(text)
        return rest is not None and bool(words_of(rest)) and self.rest(rest) is None


KINDS = (StartsWith, EndsWith, InOrder, Alphabetical, FirstWord, RepeatPrompt)
