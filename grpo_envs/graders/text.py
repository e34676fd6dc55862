"""What graders of any kind take out of a completion first."""


def after_think(completion: str) -> str | None:
    """Return what follows the reasoning block, all of it where there is no block.

    None where a `<think>` is never closed: nothing follows it.

    >>> after_think("<think>3+4</think>7"), after_think("7"), after_think("<think>3")
    ('7', '7', None)
    """
    _, closed, rest = completion.rpartition("</think>")
    return None if "<think>" in rest else rest if closed else completion
