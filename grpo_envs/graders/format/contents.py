"""What stands in a text and where: first and last words, words in order."""

from dataclasses import dataclass
from typing import ClassVar

from grpo_envs.graders.format.base import Constraint, folded, need_text, need_words, words_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsWith(Constraint):
    """The text starts with a phrase, as it is given and whole: `Dear` is no start of `Dearest`."""

    name: ClassVar[str] = "starts_with"
    phrase: str

    def _require(self) -> None:
        need_text(self.name, "phrase", self.phrase)

    def _said(self) -> str:
        return f"start with the words {self.phrase}"

    def _measure(self, text: str) -> float:
        phrase = self.phrase.strip()
        rest = text.lstrip().removeprefix(phrase)
        return text.lstrip().startswith(phrase) and not (phrase[-1] + rest[:1]).isalnum()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsWith(Constraint):
    """The text ends with a phrase, exactly as it is given."""

    name: ClassVar[str] = "ends_with"
    phrase: str

    def _require(self) -> None:
        need_text(self.name, "phrase", self.phrase)

    def _said(self) -> str:
        return f"end with the words {self.phrase}"

    def _measure(self, text: str) -> float:
        phrase = self.phrase.strip()
        before = text.rstrip().removesuffix(phrase)
        return text.rstrip().endswith(phrase) and not (before[-1:] + phrase[0]).isalnum()


@dataclass(frozen=True, slots=True, kw_only=True)
class InOrder(Constraint):
    """Nothing but these words, in this order or in the reverse one, whatever their case."""

    name: ClassVar[str] = "sequence"
    words: tuple[str, ...]
    reverse: bool = False

    def _require(self) -> None:
        need_words(self.name, "words", self.words)

    def _said(self) -> str:
        order = "reverse order" if self.reverse else "this order"
        return f"write these words in {order}: {' '.join(self.words)}"

    def _measure(self, text: str) -> float:
        wanted = [folded(word) for word in self.words]
        return words_of(folded(text)) == (wanted[::-1] if self.reverse else wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphabetical(Constraint):
    """Nothing but these words, sorted by their letters, whatever their case."""

    name: ClassVar[str] = "alphabetical"
    words: tuple[str, ...]

    def _require(self) -> None:
        need_words(self.name, "words", self.words)

    def _said(self) -> str:
        return f"write these words in alphabetical order: {' '.join(self.words)}"

    def _measure(self, text: str) -> float:
        return words_of(folded(text)) == sorted(folded(word) for word in self.words)


KINDS = (StartsWith, EndsWith, InOrder, Alphabetical)
