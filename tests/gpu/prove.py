"""Prove on this machine that the whole thing is right, and measure how fast it is; offline.

    python tests/gpu/prove.py                      # on a GPU where there is one: 25 minutes at most
    python tests/gpu/prove.py --only scores speed  # some parts, or all of a module
    python tests/gpu/prove.py --small              # small shapes, as on a CPU: two minutes

Models have random weights of real shapes, or are the bundled one. Each part is a function of
correct.py, memory.py, runs.py or speed.py, in the dictionary PARTS at the end of the module; it
yields the rows of the table. It runs in a process of its own and for its minutes only: one that
fails is a row "FAILED: why", the others go on, and the exit code is 1. Writes prove.json, prove.md
and what was printed, prove.log.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.gpu import correct, memory, runs, speed
from tests.gpu.proof import Row, Scale

MODULES = (correct, memory, runs, speed)
PARTS = {part.__name__: part for module in MODULES for part in module.PARTS}
GROUPS = {module.__name__.rpartition(".")[2]: [*module.PARTS] for module in MODULES}
MINUTES = {part.__name__: limit for module in MODULES for part, limit in module.PARTS.items()}

_CPU = 4
"""Times as long a part may take on a CPU, which others use too."""


@dataclass(slots=True)
class Result:
    """What came of a part."""

    part: str
    seconds: float
    machine: dict[str, str]
    rows: list[Row]
    failure: str
    """Why it has not come to its end; nothing where it has."""

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what the table says: every row with its fault, then why the part ended."""
        for row in self.rows:
            yield {"part": self.part, **asdict(row), "fault": row.fault}
        if self.failure:
            yield {"part": self.part, **asdict(Row(what="", value="")), "fault": self.failure}


@dataclass(slots=True)
class Log:
    """Runs parts and keeps what they print."""

    path: Path
    small: bool
    end: float
    """When there is no time left, by time.monotonic."""
    results: list[Result] = field(default_factory=list)

    def run(self, part: str) -> Result:
        """Run a part in a process of its own, until its time is over."""
        own = 60.0 * MINUTES[part] * (1 if torch.cuda.is_available() else _CPU)
        seconds = max(0.0, min(own, self.end - time.monotonic()))
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rows, said = Path(folder) / "rows.jsonl", Path(folder) / "said"
            rows.touch()
            command = [sys.executable, __file__, "--part", part, "--rows", str(rows)]
            with said.open("w") as file:
                code = _run([*command, *["--small"] * self.small], file.fileno(), seconds)
            text = said.read_text(errors="replace")
            lines = rows.read_text(encoding="utf-8").splitlines()
            machine, *found = [json.loads(line) for line in lines] or [{}]
        with self.path.open("a") as file:
            file.write(f"--- {part}\n{text}\n")
        taken = time.monotonic() - start
        result = Result(part, taken, machine, [Row(**row) for row in found], _failure(code, text))
        self.results.append(result)
        return result


def _run(command: Sequence[str], output: int, seconds: float) -> int | None:
    """Return the exit code of a command; None where its time was over, and it was ended."""
    process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the programs that it has started
            process.wait()


def _failure(code: int | None, text: str) -> str:
    if code is None:
        return "its time was over"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1].strip() if lines else 'nothing was said'}" if code else ""


def machine(scale: Scale) -> dict[str, str]:
    """Return the card and the versions."""
    return {
        "card": torch.cuda.get_device_name() if scale.gpu else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "transformers": transformers.__version__,
        "Python": platform.python_version(),
        "shapes": "small" if scale.small else "full",
    }


def be(part: str, rows: Path, *, small: bool) -> None:
    """Run a part in this process; write the machine, and each row as soon as it is there."""
    transformers.logging.set_verbosity_error()
    cuda = torch.cuda.is_available()
    scale = Scale(small=small or not cuda, device=torch.device("cuda" if cuda else "cpu"))
    with rows.open("w") as file:
        file.write(json.dumps(machine(scale)) + "\n")
        for row in PARTS[part](scale):
            print(row, flush=True)
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()


def table(results: Sequence[Result]) -> str:
    """Return the Markdown page."""
    where = next((result.machine for result in results if result.machine), {})
    seconds = sum(result.seconds for result in results)
    title = ", ".join(f"{name} {value}" for name, value in where.items() if name != "card")
    text = [f"# Proof on {where.get('card', 'no machine')}", "", f"{title}; {seconds:.0f} s.", ""]
    text += ["| part | what | value | must be | |", "|---|---|---:|---:|---|"]
    for result in results:
        for row in result.lines():
            value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.4g}"
            bounds = [f"{sign} {row[key]:g}" for sign, key in (("≥", "least"), ("≤", "most"))
                      if row[key] is not None]  # fmt: skip
            verdict = f"FAILED: {row['fault']}" if row["fault"] else "ok" if bounds else ""
            cells = (row["part"], row["what"], f"{value} {row['unit']}", " ".join(bounds), verdict)
            text.append(f"| {' | '.join(cell.strip().replace('|', '/') for cell in cells)} |")
    return "\n".join(text) + "\n"


def chosen(names: Sequence[str]) -> list[str]:
    """Return the parts of these names, a module's name standing for all of its parts."""
    wanted = {part.__name__ for name in names for part in GROUPS.get(name, ())} | {*names}
    return [part for part in PARTS if not names or part in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts one after another; return 1 where one has failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", choices=[*GROUPS, *PARTS])
    parser.add_argument("--small", action="store_true", help="small shapes, on a GPU too")
    parser.add_argument("--minutes", type=float, default=25, help="of all parts (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of what is written (here)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        be(options.part, options.rows, small=options.small)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "prove.log").unlink(missing_ok=True)
    log = Log(options.out / "prove.log", options.small, time.monotonic() + 60 * options.minutes)
    failed = 0
    for part in chosen(options.only):
        result = log.run(part)
        faults = [f"{row['what']}: {row['fault']}" for row in result.lines() if row["fault"]]
        failed += len(faults)
        print(f"{part}: {len(result.rows)} rows, {result.seconds:.0f} s", flush=True)
        for fault in faults:
            print(f"  FAILED: {fault.removeprefix(': ')}", flush=True)
        lines = [line for result in log.results for line in result.lines()]
        written = {"machine": result.machine, "rows": lines}
        (options.out / "prove.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
        (options.out / "prove.md").write_text(table(log.results), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
