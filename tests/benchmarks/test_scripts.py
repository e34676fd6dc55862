"""The benchmarks run as their pages say, and show what they claim; small, and slow all the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def printed(script: str, *arguments: str, cwd: Path | None = None) -> str:
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_the_chunked_head_takes_less_than_half_the_memory() -> None:
    table = printed("memory.py", "--runs", "1")
    ratios = [float(ratio) for ratio in re.findall(r"\| ([\d.]+) \|$", table, flags=re.MULTILINE)]
    assert len(ratios) == 4
    assert min(ratios) > 2


def test_every_preset_trains_and_a_second_call_repeats_nothing(tmp_path: Path) -> None:
    small = ("--samples", "128", "--seeds", "1", "--out", "runs")
    first = printed("presets.py", *small, cwd=tmp_path)
    rows = re.findall(r"^\| `(\w+)` \|", first, flags=re.MULTILINE)
    presets = {p.stem for p in (HERE.parent.parent / "conf" / "agent").glob("*.yaml")}
    assert set(rows) == presets
    written = {p: p.stat().st_mtime for p in tmp_path.rglob("metrics.jsonl")}
    assert printed("presets.py", *small, cwd=tmp_path).endswith(first[first.index("before:") :])
    assert written == {p: p.stat().st_mtime for p in tmp_path.rglob("metrics.jsonl")}
