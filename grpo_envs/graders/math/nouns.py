"""Whether the words after a number name the counted things: 8 hens, but not 8 million.

The nouns are an open class: a plural in `s`, an irregular plural, or a noun of a list. Adjectives
may precede the noun, and a few phrases may follow it. Words with a term that changes the value,
negates it or sets a condition do not name things.
"""

import re

_DENIED_TEXT = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty
    ninety hundred hundreds thousand thousands million millions billion billions trillion
    trillions quadrillion lakh lakhs crore crores dozen dozens tens half halves third thirds
    fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth
    tenths eleventh elevenths twelfth twelfths hundredth hundredths thousandth thousandths
    millionth millionths double triple quadruple twice thrice percent percents ish pct percentage
    permille plus minus over under above below beneath by divided multiplied multiplies squared
    cubed square cube power root factorial mod modulo choose raised exponent base log log10
    sqrt ln negative positive inverse reciprocal opposite less least most almost nearly off
    short shy fewer than up down or nor either neither not no non none never cannot isn doesn
    wrong wrongs false incorrect invalid error mistake fake unsure maybe perhaps possibly
    probably unknown unless if when where whenever while whether but except without instead
    versus vs otherwise although however though because since so thus hence is are was were be
    been equals equal as has its this yes always sometimes afterwards besides does goes unless
    plusminus guess remainder rest mod infinity infinite pi sin cos tan max min gcd lcm series
    minuses times backwards forwards upwards downwards towards score gross degree degrees deg
"""
_DENIED = frozenset(_DENIED_TEXT.split())
_IRREGULAR_TEXT = """
    people persons men women children feet mice geese teeth oxen sheep fish deer cattle poultry
    dice students staff aircraft data vertices matrices indices axes radii foci loci criteria
    polyhedra formulae bacteria fungi cacti alumni series species salmon trout bison moose
    shrimp police folk kin offspring livestock sq stamina
"""
_IRREGULAR = frozenset(_IRREGULAR_TEXT.split())
_SINGULAR_TEXT = """
    apple banana orange pear grape lemon egg cookie cake pie pizza slice piece cup glass bottle
    box bag can jar basket bucket packet pack crate case carton tray plate bowl spoon fork
    knife pen pencil book notebook page paper sheet card ticket stamp coin bill note marble
    ball toy doll block bead button balloon flower rose tulip tree plant seed leaf bush car
    truck bus bike bicycle train plane boat ship wheel tire seat room house home building floor
    door window table chair desk bed shelf lamp bulb shirt dress hat shoe sock coat jacket dog
    cat hen chicken cow horse pig goat duck bird rabbit frog turtle mouse rat lion tiger bear
    monkey elephant ant bee spider person man woman child boy girl student teacher worker
    player friend adult guest customer member passenger team group class school game match goal
    point mark vote question problem answer solution way method step stage move turn trip lap
    round time race song word letter digit number integer prime factor divisor multiple value
    term element set subset pair side edge vertex angle triangle circle rectangle polygon
    square face diagonal line segment intersection hour ring stick brick tile candle candy
    chocolate donut muffin sandwich burger sticker photo picture video movie ride vacation
    lesson shift batch row column stack pile bunch bouquet week month year fruit vegetable
    carrot potato tomato onion cherry peach plum mango melon nut peanut liter pound loaf bread
    gift present prize star light heart cell atom proton neutron electron molecule planet moon
    outcome arrangement combination permutation path route choice possibility configuration
    case function root pen zero parameter dimension member coupon brother sister sibling cousin
    crayon water milk juice rice sugar flour salt money cash change homework work sand gas oil
    fuel
"""
_SINGULAR = frozenset(_SINGULAR_TEXT.split())
_BEHIND = re.compile(
    r"(?:in (?:all|total)|total|altogether|each|left|left over|remaining|together|overall|apiece"
    r"|ago|old|long|tall|high|wide|deep|thick|away|apart|later|earlier|longer|faster|older|younger"
    r"|taller|more|(?:per|a|an|every|for each|for every|in each|in every) [a-z]+(?: [a-z]+)?"
    r"|(?:of|in|on|at|for|from|with|to)(?: (?:the|a|an|his|her|their|each|every))?(?: [a-z]+){1,3})"
)
_BEFORE_TEXT = """
    more fewer other additional extra different full whole of the
"""
_BEFORE = frozenset(_BEFORE_TEXT.split())
_ALONE = re.compile(
    r"in (?:all|total)|total|altogether|each|left|remaining|more|in each [a-z]+"
    r"|(?:per|every) [a-z]+"
)
_TIMES = re.compile(
    r"times(?: (?:larger|smaller|faster|older|more|longer|as (?:many|much|long|old|fast|large|big"
    r"|tall|likely|high|heavy)))?"
)
_MOST_WORDS = 8
_MOST_BEFORE = 3
# Before a noun these describe it: 8 positive integers, 8 wrong answers.
_DESCRIBING_TEXT = """
    positive negative square double triple inverse opposite wrong incorrect false unknown invalid
    fewer
"""
_DESCRIBING = frozenset(_DESCRIBING_TEXT.split())


def counted(phrase: str) -> str | None:
    """Return the standard spelling of the counted things; None if `phrase` names none.

    Args:
        phrase: Words in lower case with single spaces.

    >>> counted("hens"), counted("red apples left"), counted("people in the room")
    ('hen', 'red apple', 'people')
    >>> counted("below zero"), counted("million"), counted("wrong"), counted("minus two")
    (None, None, None, None)
    """
    if _TIMES.fullmatch(phrase):
        return "time"
    words = phrase.split()
    if not words or len(words) > _MOST_WORDS or not all(map(_is_word, words)):
        return None
    if _ALONE.fullmatch(phrase) and _DENIED.isdisjoint(words):
        return "total"
    for size in range(1, min(len(words), _MOST_BEFORE + 1) + 1):
        before, noun, behind = words[: size - 1], words[size - 1], " ".join(words[size:])
        if is_noun(noun) and (not behind or may_follow(behind)):
            allowed = _DENIED.isdisjoint(word for word in before if word not in _DESCRIBING)
            described = [word for word in before if word not in _BEFORE]
            return " ".join([*described, _one(noun)]) if allowed else None
    return None


def may_follow(phrase: str) -> bool:
    """Return whether `phrase` may follow a unit: old, in total, of rope."""
    return bool(_BEHIND.fullmatch(phrase)) and _DENIED.isdisjoint(phrase.split())


def changes_value(phrase: str) -> bool:
    """Return whether a word of `phrase` changes the value of the number before it."""
    return not _DENIED.isdisjoint(re.findall(r"[a-z]+", phrase))


def is_noun(word: str) -> bool:
    """Return whether `word` can be counted: a plural, or a singular of the list."""
    if word in _DENIED or word.startswith(("half-", "quarter-")):
        return False
    if word in _SINGULAR or word in _IRREGULAR:
        return True
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "ously"))


def _is_word(word: str) -> bool:
    plain = word.replace("-", "").replace("'", "")
    latin = max(word) < "\u3000"  # 8 以上 apples are no 8
    return latin and plain.isalpha() and (len(word) > 1 or word == "a")


def _one(word: str) -> str:
    if word in _IRREGULAR or word in _SINGULAR:
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    for ending in ("ches", "shes", "xes", "sses"):
        if word.endswith(ending):
            return word[:-2]
    return word.removesuffix("s")
