"""Extraction of answers from completions, for all graders."""

from dataclasses import dataclass


def after_think(completion: str) -> str | None:
    """Return the text after the reasoning block, or the whole text if there is no block.

    None if a `<think>` is not closed, because nothing follows it.

    >>> after_think("<think>3+4</think>7"), after_think("7"), after_think("<think>3")
    ('7', '7', None)
    """
    _, closed, rest = completion.rpartition("</think>")
    return None if "<think>" in rest else rest if closed else completion


def action_in(completion: str, form: str) -> str:
    """Return the action for another library's environment.

    Args:
        completion: What the model wrote.
        form: `text`: the stripped text after any reasoning; `tag`: the content of the last
            `<answer>` there, '' if there is none.

    >>> action_in("<think>up?</think> north ", "text"), action_in("So <answer>up</answer>", "tag")
    ('north', 'up')
    """
    rest = after_think(completion) or ""
    if form == "text":
        return rest.strip()
    before, closed, _ = rest.rpartition("</answer>")
    _, opened, inner = before.rpartition("<answer>")
    return inner.strip() if opened and closed else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The text between `<tag>` and `</tag>`."""

    tag: str
    text: str
    neat: bool
    """Whether the block is not empty and ends the completion, after at most one reasoning block."""


def only_block(completion: str, *tags: str) -> Block | None:
    """Return the block after the reasoning; None if there is no block, or more than one.

    Args:
        completion: What the model wrote.
        tags: Names of the tags to look for.

    >>> only_block("<think>3+4=7</think><answer>7</answer>", "answer")
    Block(tag='answer', text='7', neat=True)
    >>> only_block("<answer>7</answer>, I think", "answer", "tool").neat
    False
    >>> only_block("<answer>7</answer><answer>8</answer>", "answer")
    """
    rest = after_think(completion)
    if rest is None:
        return None
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    present = [(mark, count) for mark in marks if (count := rest.count(mark))]
    if len(present) != 2 or any(count > 1 for _, count in present):
        return None
    tag = present[0][0].strip("<>")
    _, _, opened = rest.partition(f"<{tag}>")
    text, closed, behind = opened.partition(f"</{tag}>")
    if not closed:
        return None
    before = completion[: len(completion) - len(rest)]
    one_thought = before.count("<think>") <= 1 and before.count("</think>") <= 1
    neat = one_thought and not any(mark in before.partition("<think>")[0] for mark in marks)
    neat = neat and bool(text.strip()) and not behind.strip(" \n.")
    return Block(tag=tag, text=text.strip(), neat=neat)
