"""The answer in a completion, and its format, for the reward component `format`."""

from grpo_envs.graders.text import after_think

_OPEN, _CLOSE = "<answer>", "</answer>"


def answer_of(completion: str) -> str | None:
    """Return the text in the last closed `<answer>` after the think block, stripped; None if none.

    >>> answer_of("<think>?</think><answer> 7 </answer>"), answer_of("7")
    ('7', None)
    """
    before, closed, _ = (after_think(completion) or "").rpartition(_CLOSE)
    _, opened, inner = before.rpartition(_OPEN)
    return inner.strip() if opened and closed else None


def well_formed(completion: str) -> bool:
    """Return whether a completion ends with its only answer, not empty, after at most one think.

    >>> well_formed("<think>?</think>So <answer>7</answer>"), well_formed("<answer>7</answer>!")
    (True, False)
    """
    if completion.count("<think>") > 1 or completion.count("</think>") > 1:
        return False
    once = completion.count(_OPEN) == completion.count(_CLOSE) == 1
    last = (after_think(completion) or "").rstrip().endswith(_CLOSE)
    return once and last and bool(answer_of(completion))
