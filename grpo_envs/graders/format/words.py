"""The definition of a word for all constraints.

Words are separated by blanks and by every sign between letters: dashes, slashes, commas, stops.
These signs join the characters around them into one word:

- a hyphen or an apostrophe between letters or digits: `well-known`, `it's`, `mother-in-law`;
- an underscore: `snake_case`;
- the signs within a number, an abbreviation, an address or a file name: `1,000`, `3.14`, `10:30`,
  `1/2`, `e.g.`, `U.S.`, `R&D`, `https://example.org/a`, `a@b.org`, `notes.txt`.

Tags are not words: `<a>one</a><b>two</b>` is two words. Tags need an end tag, except `<br>`.

Chinese and Japanese have no blanks between words: every Han or Hiragana character is one part, like
the parts of a hyphenated word. More than four parts are a list or a sentence, not a word; then each
part counts as a word. Thai, Lao, Khmer and Burmese words cannot be separated: the text between
blanks or signs is one word.
"""

import re
import string
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

MOST_PARTS = 4
_NAME = r"[A-Za-z_][A-Za-z0-9_.:-]{0,99}"
_ATTRIBUTE = r"""\s+[A-Za-z_:-]{1,50}=(?:"[^"<>]{0,200}"|'[^'<>]{0,200}')"""
_CLOSING = re.compile(rf"</({_NAME})>")
_TAG = re.compile(rf"</?({_NAME})(?:{_ATTRIBUTE}){{0,20}}\s?/?>")
_BREAK = re.compile(r"<[bh]r\s?/?>")
_MARK, _UNDERSCORE = "\ue000", "\ue001"
_ALIKE = {"\u2019": "'", "\u02bc": "'", "\uff07": "'", "\u2010": "-", "\u2011": "-"}
_KEPT = {"_": _UNDERSCORE, _MARK: " ", _UNDERSCORE: " ", **_ALIKE}
_JOINS = f"'\\-{_UNDERSCORE}\u00b7\u00ad\u200c\u200d\u2060"
_UNSPACED = "\u3005\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_ENDINGS = (
    *("com", "org", "net", "edu", "gov", "int", "info", "io", "ai", "dev", "eu", "uk", "de", "fr"),
    *("cn", "jp", "ru", "txt", "md", "rst", "csv", "tsv", "json", "jsonl", "yaml", "yml", "toml"),
    *("xml", "html", "htm", "css", "js", "ts", "py", "ipynb", "java", "cpp", "rs", "sh", "exe"),
    *("pdf", "png", "jpg", "jpeg", "gif", "svg", "doc", "docx", "xls", "xlsx", "ppt", "pptx"),
    *("zip", "tar", "gz", "mp3", "mp4", "wav"),
)
_ADDRESS = r"[A-Za-z0-9./?=&%#:@~+!$*\-\ue001]*[A-Za-z0-9/=&%#~+$*\-\ue001]"
_WHOLE = "|".join(
    (
        rf"(?:https?|ftp)://{_ADDRESS}",
        rf"www\.{_ADDRESS}",
        r"\w[\w.+\-\ue001]{0,63}+@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}",
        rf"\w[\w\-\ue001]{{0,62}}+(?:\.[\w\-\ue001]{{1,63}}+){{0,5}}\.(?:{'|'.join(_ENDINGS)})(?![\w-])",
        r"[^\W\d](?:\.[^\W\d]){1,7}(?:\.-\w{1,63})?(?!\w)",
        r"[A-Z][a-z]?(?:\.[A-Z][a-z]?){1,3}(?!\w)",
        r"[A-Z]{1,3}(?:&[A-Z]{1,3}){1,2}(?!\w)",
    )
)
_NUMBER = "|".join(
    (
        r"\d{1,3}(?:,\d{3}){1,12}(?:\.\d+)?(?![,.]?\d)",
        r"\d{1,2}(?:,\d\d){1,6},\d{3}(?:\.\d+)?(?![,.]?\d)",
        r"v?\d+(?:\.\d+){1,3}(?!\.?\d)",
        r"\d+(?::\d+){1,2}(?!:?\d)",
        r"\d+(?:/\d+){1,2}(?!/?\d)",
    )
)
_ATOM = rf"(?:(?<!\d[,./:])(?:{_NUMBER})[\w{_MARK}]*|\w[\w{_MARK}]*)"
_CHAIN = rf"{_ATOM}(?:(?:'-|-'|[{_JOINS}]|{_UNDERSCORE}+){_ATOM})*"
_WORD = re.compile(rf"(?P<whole>{_WHOLE})|{_CHAIN}")
_BETWEEN_HYPHENS = re.compile(rf"[{_UNSPACED}]|[^\-{_UNDERSCORE}{_UNSPACED}]+")
_WITHOUT_BLANKS = re.compile(f"[{_UNSPACED}]")
_PART = re.compile(rf"[{_UNSPACED}]|[^{_JOINS}{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Return the words.

    >>> words_of("Well - it's 3 o'clock, (nearly).")
    ['Well', "it's", '3', "o'clock", 'nearly']
    >>> words_of("and/or well-known, 1,000 red,green")
    ['and', 'or', 'well-known', '1,000', 'red', 'green']
    """
    return [word for token in without_tags(text).split() for _, word in words_in(token)]


def without_tags(text: str) -> str:
    """Return a text with a blank in place of every tag that is closed somewhere.

    >>> without_tags("<a>b</a> <c>")
    ' b  <c>'
    """
    if "</" not in text and not _BREAK.search(text):
        return text
    closed = {*_CLOSING.findall(text)}
    return _TAG.sub(lambda tag: " " if tag[1] in closed else tag[0], _BREAK.sub(" ", text))


def is_word(text: str) -> bool:
    """Return whether a text is one word and nothing else.

    >>> is_word("well-known"), is_word("and/or"), is_word("two words")
    (True, False, False)
    """
    return words_of(text) == [text] or bool(re.fullmatch(f"[{_UNSPACED}]+", text))


def parts_of_word(word: str) -> list[str]:
    """Return the parts of a hyphenated word, or the characters of a Chinese word.

    >>> parts_of_word("state-of-the-art"), parts_of_word("it's")
    (['state', 'of', 'the', 'art'], ["it's"])
    """
    if len(word) == 1 or (word.isalpha() and word.isascii()):
        return [word]
    shape = _shape(word)
    found = [word[at.start() : at.end()] for at in _BETWEEN_HYPHENS.finditer(shape)]
    return [part for part in found if any(map(str.isalnum, part))]


def counts_of(word: str, text: str) -> tuple[int, int]:
    """Return how often a word occurs in a text: as a word, and including parts of words.

    Case and the form of apostrophes are ignored.

    >>> counts_of("sea", "Sea-salt, a sea/lake, seas")
    (1, 2)
    """
    wanted = compared(word)
    if _WITHOUT_BLANKS.search(wanted):
        count = compared(text).count(wanted)
        return count, count
    words = _compared_words(text)
    whole = words.count(wanted)
    return whole, whole + sum(
        parts_of_word(one).count(wanted) for one in words if one != wanted and wanted in one
    )


@lru_cache(maxsize=4)
def _compared_words(text: str) -> tuple[str, ...]:
    return tuple(words_of(compared(text)))


def compared(text: str) -> str:
    """Return a text for comparing words: without case, with one form of letters and hyphens.

    Full-width letters are the usual ones, and invisible signs do not divide a Latin word.
    """
    same = folded(text).translate(_SAME)
    return same if same.isascii() else _INVISIBLE.sub("", same)


_WIDE = {chr(0xFF41 + at): letter for at, letter in enumerate(string.ascii_lowercase)}
_SAME = str.maketrans({**_ALIKE, **_WIDE})
_INVISIBLE = re.compile(r"(?<=[a-z])[\u00ad\u200b-\u200d\u2060\ufeff]+(?=[a-z])")


def folded(text: str) -> str:
    """Return a text for comparison: without case, in one Unicode form."""
    return unicodedata.normalize("NFC", text).casefold()


def words_in(token: str) -> Iterator[tuple[int, str]]:
    """Yield the words of a text without blanks, each with the position of its end."""
    plain = token.strip(string.punctuation)
    if plain.isalnum() and (plain.isascii() or not _WITHOUT_BLANKS.search(plain)):
        yield len(token.rstrip(string.punctuation)), plain
        return
    for found in _WORD.finditer(_shape(token)):
        word = token[found.start() : found.end()]
        if found["whole"] or len(word) <= MOST_PARTS:
            yield found.end(), word
            continue
        parts = [
            (found.start() + part.end(), part[0])
            for part in _PART.finditer(found[0])
            if any(map(str.isalnum, part[0]))
        ]
        if len(parts) <= MOST_PARTS:
            yield found.end(), word
            continue
        for end, part in parts:
            yield end, token[end - len(part) : end]


def _shape(text: str) -> str:
    """Return a text of the same length, with one sign for combining accents and joining signs."""
    for character in {*text}:
        if character in _KEPT:
            break
    else:
        if text.isascii():
            return text
    return "".join(map(_sign, text))


@lru_cache(maxsize=4096)
def _sign(character: str) -> str:
    if character in _KEPT:
        return _KEPT[character]
    return _MARK if unicodedata.category(character).startswith("M") else character
