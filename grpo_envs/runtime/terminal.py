"""The output of commands: text of models and environments, and the line at the end.

Control characters in such text are escaped, so that nothing moves the cursor or is hidden.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from grpo_envs.errors import GrpoEnvsError

MISTAKE = 2
"""Exit code after a mistake of the user, as in argparse."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""
_KEPT = "\n\t"
_GAP = "..."


@contextmanager
def exit_on_error(interrupted: str = "") -> Iterator[None]:
    """End the process with one line on stderr after an error of ours, or after Ctrl-C.

    Also after an error of the system about a file, such as a page that cannot be written.

    Also a decorator, for the `main` of each command.

    Args:
        interrupted: Message after Ctrl-C; '' for a bare line end.

    Raises:
        SystemExit: with the exit code 2, or 130 after Ctrl-C.
    """
    try:
        yield
    except GrpoEnvsError as error:
        sys.stderr.write(f"grpo_envs: {error}\n")
        sys.exit(MISTAKE)
    except OSError as error:
        if error.filename is None:  # about no file of the user's
            raise
        sys.stderr.write(f"grpo_envs: {error.filename}: {error.strerror}.\n")
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.stderr.write(f"grpo_envs: {interrupted}\n" if interrupted else "\n")
        sys.exit(INTERRUPTED)


@contextmanager
def named_lines(name: str) -> Iterator[None]:
    """Begin each line that this process prints with `[name]`, for several processes on a terminal.

    The streams are not terminals then, so that no progress display is drawn.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Named(stream, name) for stream in streams)
    try:
        yield
    finally:
        for named in (sys.stdout, sys.stderr):
            if isinstance(named, _Named):
                named.finish()
        sys.stdout, sys.stderr = streams


def lines_are_named() -> bool:
    """Return whether this process is within `named_lines`."""
    return isinstance(sys.stderr, _Named)


class _Named(io.TextIOBase):
    """Writes whole lines with the name before them, each in one write, so that lines do not mix."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._begun = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        if lines:
            self._stream.write("".join(f"[{self._name}] {line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def finish(self) -> None:
        """Write an incomplete last line."""
        if self._begun:
            self.write("\n")


def printable(text: str) -> str:
    r"""Return `text` with escaped control characters, except line ends and tabs.

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
    # Only the ends of a long text are needed: escaping makes nothing shorter.
    ends = text if len(text) <= 2 * most else text[:most] + text[-most:]
    line = "".join(c if c.isprintable() else _escaped(c) for c in ends)
    if len(line) <= most and ends is text:
        return line
    room = max(0, most - len(_GAP))
    head = room // 3  # the answer is at the end, after the thoughts
    return f"{line[:head]}{_GAP}{line[len(line) - (room - head) :]}"


def number(value: float | None) -> str:
    """Return a number with four digits, or `-` for None.

    >>> number(1.1000000001), number(-0.0), number(None)
    ('1.1', '0', '-')
    """
    return "-" if value is None else f"{value + 0.0:.4g}"  # + 0.0 removes the sign of -0.0


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
