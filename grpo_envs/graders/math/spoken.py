r"""The value that a sentence states: 42 of `The answer is 42`.

Only answers are read like this: a gold is not a sentence. The text before the value must not negate
it or set a condition. The text after it must be mathematics or a unit; otherwise no value is found.
"""

import re
from functools import lru_cache

from grpo_envs.graders.math.surface import surface
from grpo_envs.graders.math.units import FONTS

_LONGEST = 4000
_LEAD = re.compile(
    r"(?:[A-Za-z$(](?:[\w ()'’,^+*/=-]|\$[^$]*\$)*?)?\b(?:is|are|equals|equal to|will be|would be"
    r"|was|were|has|have|had|costs?|gets?|gives?|takes?|needs?|makes?|earns?|contains?|obtain|becomes)"
    r"(?: (?:is|are|was|were))?"
    r"(?: (?:equal to|exactly|therefore|given by|simply|just|thus))*\s*:?\s+"
)
_HEADING = re.compile(
    r"(?:(?:so|thus|hence|therefore|finally)[, ]+)?(?:the |my |our |your )?"
    r"(?:final |correct |right )?"
    r"(?:answer|ans|result|solution|value|total|sum|output|response)s?\.?\s*(?::|=|-(?= ))\s*",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"(?:the(?= \d)|about|approximately|approx\.?|roughly|around|exactly|only|just|a total of"
    r"|so|thus|hence|therefore),?\s+(?=[\d\\$(+-]|[a-z](?:_\w)? ?=)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r"\s+is (?:the|my|our) (?:final |correct )?answer$", re.IGNORECASE)
_CHINESE_LEAD = re.compile(
    r"(?:[\u4e00-\u9fff,的\w ]{0,24}?(?:是|为|等于|共有|有|共需|共|得到|得|需要|需)"
    r"|[\u4e00-\u9fff]{1,8}(?=:)|答|解|所以|因此|故|则|即|约为|约)[:=\s]*(?=[^\u4e00-\u9fff\s]|负?[零〇一二两三四五六七八九十百千万亿分之点]+[\u4e00-\u9fff]{0,2}\Z)"
)
_DENYING = re.compile(
    r"\b(?:not|no|never|isn't|wasn't|aren't|wrong|false|incorrect|if|unless|either|neither|nor|or|"
    r"where|when|while|such|for any|constant|but|cannot|can't|less|more|half|twice|double|doubts?"
    r"|of (?:the|my|our|this|that) answer|times the|triple|in base|suppos(?:e|ing)|assum(?:e|ing)"
    r"|guess(?:es)?|mistakes?|nobody|nothing|none|few|an estimate)\b"
    r"|n't|[不非没错误未猜]|如果|假设|假如|答案的",
    re.IGNORECASE,
)
_MAY_BE_SPOKEN = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[ :,]|[^\x00-\x7f]|\b[A-Za-z] is ")


@lru_cache(maxsize=4096)
def spoken(text: str) -> str:
    """Return the value that a sentence states; `text` itself if it is not such a sentence.

    >>> spoken("The answer is 42"), spoken("Answer: 42"), spoken("The answer is not 42")
    ('42', '42', 'not 42')
    """
    if len(text) > _LONGEST:
        return text
    plain = _SUFFIX.sub("", text) if "answer" in text else text
    if not (text[:1].isalpha() or text[:1] in "\\$(") or not _MAY_BE_SPOKEN.search(text):
        return plain
    value = bare = _unfonted(plain)
    for pattern in (_HEADING, _LEAD, _CHINESE_LEAD, _ABOUT):
        match = pattern.match(value)
        if match and match.end() < len(value) and not _DENYING.search(match[0]):
            value = value[match.end() :]
    return plain if value == bare else surface(value)


def _unfonted(text: str) -> str:
    """Return `text` with the font of its first words removed."""
    match = re.match(rf"\\(?:{FONTS})\s*\{{([^{{}}]*)\}}", text)
    if match is None or not (" " in match[1].strip() or ":" in match[1]):
        return text
    return match[1] + text[match.end() :]
