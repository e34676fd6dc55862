"""Words to build answers of."""

import random
from collections.abc import Iterable, Sequence

from grpo_env_format.simple import NOUNS
from grpo_envs.graders.format.base import folded

MORE = (
    *("apple", "autumn", "basket", "bell", "blue", "bridge", "candle", "castle", "child", "clock"),
    *("coffee", "corn", "dance", "desk", "dream", "eagle", "early", "earth", "evening", "farm"),
    *("field", "fire", "flower", "forest", "garden", "ghost", "glass", "gold", "grass", "green"),
    *("harbor", "hill", "honey", "horse", "ice", "island", "jacket", "jazz", "journey", "kitchen"),
    *("lake", "leaf", "letter", "light", "market", "meadow", "milk", "morning", "music", "night"),
    *("north", "ocean", "old", "orange", "oxygen", "paper", "path", "pepper", "piano", "quiet"),
    *("queen", "red", "rice", "roof", "salt", "school", "seven", "silver", "snow", "song", "sugar"),
    *("table", "tiger", "tower", "train", "under", "valley", "velvet", "village", "voice", "water"),
    *("west", "wheel", "window", "winter", "wood", "yellow", "young", "zebra", "zero"),
)
SCRIPTS = {
    "greek": "βιβλίο θάλασσα ήλιος νερό δρόμος δέντρο σπίτι φως ψωμί γάτα",
    "cyrillic": "книга море солнце вода дорога дерево дом свет хлеб кот",
    "arabic": "كتاب بحر شمس ماء طريق شجرة بيت نور خبز قطة",
    "hebrew": "ספר ים שמש מים דרך עץ בית אור לחם חתול",
    "devanagari": "घर जल नगर सड़क फल वन कमल बतख मगर शहर",
    "thai": "คน นก ฝน ปลา บาน ทราย ตา มา ดาว ยา",
    "hangul": "책 바다 태양 물 길 나무 집 빛 빵 고양이",
    "han": "書 海 太陽 水 路 樹 家 光 米 貓",
    "japanese": "ほん うみ たいよう みず みち 木 いえ 光 パン ネコ",
}


class Deck:
    """Words that come back only when all others have been used."""

    def __init__(self, rng: random.Random, words: Iterable[str], first: Sequence[str] = ()) -> None:
        """Shuffle `words`, with those of `first` in front."""
        self._rng = rng
        self.words = list(words)
        self._left = rng.sample(self.words, len(self.words))
        self._left.sort(key=lambda word: word in first)

    def __bool__(self) -> bool:
        return bool(self.words)

    def draw(self, having: str = "") -> str:
        """Return the next word, with the letter `having` once in it; the letter if no word has."""
        fits = [word for word in self._left if not having or folded(word).count(having) == 1]
        if fits:
            self._left.remove(fits[-1])
            return fits[-1]
        if having:
            return having
        self._left = self._rng.sample(self.words, len(self.words))
        return self._left.pop()


def words_in(script: str | None) -> Sequence[str]:
    """Return words of a script, English ones for none or `latin`."""
    return SCRIPTS[script].split() if script in SCRIPTS else (*NOUNS, *MORE)
