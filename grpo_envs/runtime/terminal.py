"""What commands print: text of models and environments, and the line that they end with.

Nothing in a text of others moves the cursor or hides.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from grpo_envs.errors import GrpoEnvsError

MISTAKE = 2
"""Exit code after a mistake of the user, as argparse has it."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
_KEPT = "\n\t"
_GAP = "..."


@contextmanager
def exit_on_error(interrupted: str = "") -> Iterator[None]:
    """End the process with one line on stderr after an error of ours, or after Ctrl-C.

    Also a decorator: of each command's `main`.

    Args:
        interrupted: What to say after Ctrl-C; '' for nothing but the end of the line.

    Raises:
        SystemExit: with the exit code 2, or 130 after Ctrl-C.
    """
    try:
        yield
    except GrpoEnvsError as error:
        sys.stderr.write(f"grpo_envs: {error}\n")
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.stderr.write(f"grpo_envs: {interrupted}\n" if interrupted else "\n")
        sys.exit(INTERRUPTED)


def printable(text: str) -> str:
    r"""Return `text` with its control characters escaped, line ends and tabs excepted.

    >>> print(printable("a\x1b[2Jb\u202e"))
    a\x1b[2Jb\u202e
    """
    return "".join(c if c in _KEPT or c.isprintable() else _escaped(c) for c in text)


def one_line(text: str, most: int) -> str:
    r"""Return `text` in one line of at most `most` characters: its beginning and its end.

    >>> print(one_line("a\nb", 20), one_line("<think>3+4</think><answer>7</answer>", 25), sep="\n")
    a\nb
    <think>...swer>7</answer>
    """
    # Of a long text only the ends: escaping makes nothing shorter.
    ends = text if len(text) <= 2 * most else text[:most] + text[-most:]
    line = "".join(c if c.isprintable() else _escaped(c) for c in ends)
    if len(line) <= most and ends is text:
        return line
    room = max(0, most - len(_GAP))
    head = room // 3  # an answer comes after its thoughts
    return f"{line[:head]}{_GAP}{line[len(line) - (room - head) :]}"


def number(value: float | None) -> str:
    """Return a number in four digits, or `-` if there is none.

    >>> number(1.1000000001), number(-0.0), number(None)
    ('1.1', '0', '-')
    """
    return "-" if value is None else f"{value + 0.0:.4g}"  # no minus before a zero


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
