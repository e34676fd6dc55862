"""UnicodeText: the space of strings a language model can read and write."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_SAMPLE_ALPHABET = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 +-*/=.,()"


class UnicodeText(spaces.Space[str]):
    """Every UTF-8-encodable string of at most `max_length` characters, the empty one included.

    Gymnasium's own `spaces.Text` has a fixed character set. The default set has no punctuation, a
    set of all Unicode characters takes 231 MB, and the shared-memory vector environment corrupts
    such text.
    """

    def __init__(self, max_length: int = 1 << 20, seed: int | None = None) -> None:
        if max_length < 0:
            raise ValueError(f"UnicodeText: max_length must be 0 or more, got {max_length}.")
        self.max_length = max_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no flat numpy form."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return up to 32 random printable ASCII characters. Masks are not defined for text."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes neither a mask nor a probability.")
        length = int(self.np_random.integers(0, min(self.max_length, 32) + 1))
        picks: NDArray[np.int64] = self.np_random.integers(0, len(_SAMPLE_ALPHABET), size=length)
        return "".join(_SAMPLE_ALPHABET[i] for i in picks)

    def contains(self, x: Any) -> bool:
        """Return whether `x` is a str of allowed length without lone surrogates."""
        if not isinstance(x, str) or len(x) > self.max_length:
            return False
        try:
            x.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText(max_length={self.max_length})"
