"""A taskset as its author would write it: letters to reverse."""

import random
from collections.abc import Iterator

import verifiers.v1 as vf


class ReverseData(vf.TaskData):
    """A word and its letters from the last to the first."""

    gold: str


class ReverseConfig(vf.TasksetConfig):
    """`broken` and `boxed` are for trying what is refused."""

    length: int = 4
    broken: bool = False
    boxed: bool = False


class ReverseTask(vf.Task[ReverseData]):
    """Pays 1 for the reversed word, -1 for anything else."""

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        """Whether the reply is the word reversed."""
        if self.data.name == "broken":
            raise OSError("no network")
        return 1.0 if trace.last_reply == self.data.gold else -1.0

    @vf.metric
    async def letters(self, trace: vf.Trace) -> float:
        """Letters of the reply."""
        return float(len(trace.last_reply))


class BoxedTask(ReverseTask):
    """Has a reward that needs a runtime."""

    @vf.reward
    async def ran(self, trace: vf.Trace, runtime: vf.Runtime) -> float:
        """Never reached: it is refused before."""
        return 1.0


class ReverseTaskset(vf.Taskset[ReverseTask, ReverseConfig]):
    """Words without an end."""

    INFINITE = True

    def load(self) -> Iterator[ReverseTask]:
        """Yield a task for each word."""
        rng = random.Random(0)
        kind = BoxedTask if self.config.boxed else ReverseTask
        while True:
            word = "".join(rng.sample("abcdefghijklmnop", self.config.length))
            data = ReverseData(
                prompt=f"Reverse {word}.",
                system_prompt="Only the letters.",
                gold=word[::-1],
                name="broken" if self.config.broken else None,
            )
            yield kind(data)


__all__ = ["ReverseTaskset"]
