"""Words for building answers."""

import random
from collections.abc import Iterable, Sequence

from grpo_env_format.simple import NOUNS
from grpo_envs.graders.format.language import small_words_of
from grpo_envs.graders.format.words import folded

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
LANGUAGES = {
    "en": " ".join(NOUNS),
    "de": "Hund Haus Sonne Wasser Baum Straße Garten Brot Licht Fenster",
    "fr": "chien maison soleil arbre route jardin pain lumière fenêtre livre",
    "es": "perro casa agua árbol camino jardín ventana libro calle noche",
    "it": "cane casa acqua albero strada giardino pane luce finestra libro",
    "pt": "cachorro casa água árvore caminho jardim pão janela livro noite",
    "nl": "hond huis zon boom straat tuin brood licht venster boek",
    "zh": "我們 他們 你 都 和 書 海 太陽 水 路 樹 家 光 米 貓",
    "ja": SCRIPTS["japanese"],
    "el": SCRIPTS["greek"],
    "he": SCRIPTS["hebrew"],
    "th": SCRIPTS["thai"],
    "ko": SCRIPTS["hangul"],
    "bn": "জল ঘর নদী বই আলো গাছ পথ ফুল",
    "pa": "ਪਾਣੀ ਘਰ ਨਦੀ ਕਿਤਾਬ ਰੁੱਖ ਰਾਹ ਫੁੱਲ ਦਿਨ",
    "gu": "પાણી ઘર નદી ચોપડી ઝાડ રસ્તો ફૂલ દિવસ",
    "ta": "நீர் வீடு ஆறு நூல் மரம் வழி பூ நாள்",
    "te": "నీరు ఇల్లు నది పుస్తకం చెట్టు దారి పువ్వు రోజు",
    "kn": "ನೀರು ಮನೆ ನದಿ ಪುಸ್ತಕ ಮರ ದಾರಿ ಹೂವು ದಿನ",
    "ml": "വെള്ളം വീട് നദി പുസ്തകം മരം വഴി പൂവ് ദിവസം",
}
"""Nouns by language; the function words of the language are added to them."""


class Deck:
    """Words that repeat only after all others have been used."""

    def __init__(self, rng: random.Random, words: Iterable[str], first: Sequence[str] = ()) -> None:
        """Shuffle `words`, with those of `first` in front."""
        self._rng = rng
        self.words = list(words)
        self._left = rng.sample(self.words, len(self.words))
        self._left.sort(key=lambda word: word in first)

    def __bool__(self) -> bool:
        return bool(self.words)

    def draw(self, having: str = "") -> str:
        """Return the next word with the letter `having` exactly once in it, else the letter."""
        fits = [word for word in self._left if not having or folded(word).count(having) == 1]
        if fits:
            self._left.remove(fits[-1])
            return fits[-1]
        if having:
            return having
        self._left = self._rng.sample(self.words, len(self.words))
        return self._left.pop()


def words_in(script: str | None) -> Sequence[str]:
    """Return words of a script; English words for None or `latin`."""
    return SCRIPTS[script].split() if script in SCRIPTS else (*NOUNS, *MORE)


def words_of_language(language: str) -> Sequence[str]:
    """Return nouns of a language and the function words that no other language has."""
    return (*LANGUAGES.get(language, "").split(), *small_words_of(language))
