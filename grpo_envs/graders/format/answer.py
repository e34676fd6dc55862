"""The answer in a completion, and whether there is anything beside it."""

import re

from grpo_envs.graders.text import after_think

_TAG = re.compile(r"</?(?:think|answer)>")
_SHAPES = (
    ["<answer>", "</answer>"],
    ["<think>", "</think>", "<answer>", "</answer>"],
)


def tagged_answer(completion: str) -> str | None:
    """Return the content of the only `<answer>` after any thoughts; None if there is none.

    >>> tagged_answer("<think>1 fox</think> So: <answer>fox</answer>")
    'fox'
    >>> tagged_answer("<answer>fox</answer> or <answer>sea</answer>"), tagged_answer("fox")
    (None, None)
    """
    rest = after_think(completion)
    if rest is None or rest.count("<answer>") != 1 or rest.count("</answer>") != 1:
        return None
    _, _, inside = rest.partition("<answer>")
    answer, closed, _ = inside.partition("</answer>")
    return answer if closed else None


def well_formed(completion: str) -> bool:
    """Return whether the text is at most one think block and then one answer, nothing else.

    >>> well_formed("<think>1 fox</think><answer>fox</answer>"), well_formed("<answer>a</answer>.")
    (True, False)
    """
    tags, outside = _TAG.findall(completion), _outside(completion)
    return tags in _SHAPES and outside and bool((tagged_answer(completion) or "").strip())


def bare_text(completion: str) -> bool:
    """Return whether the text is at most one think block, then text without our tags.

    >>> bare_text("<think>1 fox</think>fox"), bare_text("fox"), bare_text("<answer>fox</answer>")
    (True, True, False)
    """
    tags, rest = _TAG.findall(completion), after_think(completion)
    if tags not in ([], _SHAPES[1][:2]) or not (rest or "").strip():
        return False
    return not tags or completion.lstrip().startswith("<think>")


def _outside(completion: str) -> bool:
    """Return whether only blanks are outside of the blocks, in a text with correct tags."""
    depth_even = _TAG.split(completion)[::2]
    return not "".join(depth_even).strip()
