"""Runs as tests of the report make them: a real run's folder with rows of their own."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNS = Path(__file__).parents[1] / "data" / "runs"


def completion(step: int, problem: int, text: str, **more: Any) -> dict[str, Any]:
    """A row of completions.jsonl."""
    row = {
        **{"step": step, "problem": problem, "prompt": f"question {problem}", "meta": {}},
        **{"text": text, "reward": 0.1, "parts": {"correct": 0.0, "format": 1.0}},
        **{"valid": True, "error": "", "finish_reason": "stop", "tokens": 4, "turns": []},
        "advantage": -0.5,
    }
    return row | more


def append(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows to the end of a file, as the jsonl logger does."""
    with file.open("a", encoding="utf-8") as opened:
        opened.write("".join(json.dumps(row) + "\n" for row in rows))


def run_with(tmp_path: Path, completions: Sequence[dict[str, Any]], name: str = "run") -> Path:
    """A real run's folder, with completions of our own."""
    run = tmp_path / name
    shutil.copytree(RUNS / "healthy", run)
    (run / "completions.jsonl").write_text("", encoding="utf-8")
    append(run / "completions.jsonl", completions)
    return run
