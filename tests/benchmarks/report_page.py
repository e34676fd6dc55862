"""How long a browser takes to open the report of a run with 5,000 completions.

    python tests/benchmarks/report_page.py            # needs chromium

Headless Chromium, without a GPU; medians of several times. "ready": the completions can be read and
filtered; "drawn": plotly is loaded and draws the charts that are in view.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from grpo_envs.report import write_report
from grpo_envs.runs.record import read_record

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.tab import opened

RUN = Path(__file__).parent.parent / "data" / "runs" / "healthy"
_TEXT = "<think>{}</think><answer>{}</answer>"


def make_page(folder: Path, completions: int) -> Path:
    """Write the report of a real run's metrics and so many completions of 200 characters."""
    run = folder / "run"
    shutil.copytree(RUN, run)
    first = json.loads((RUN / "completions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    with (run / "completions.jsonl").open("w", encoding="utf-8") as file:
        for i in range(completions):
            text = _TEXT.format("1+1=2\n" * 25, i)
            row = first | {"step": 1 + i // 128, "problem": i // 8, "text": text}
            file.write(json.dumps(row) + "\n")
    write_report([read_record(run)], run / "report.html")
    return run / "report.html"


def open_page(page: Path) -> dict[str, int]:
    """Return the milliseconds until it was ready and drawn."""
    profile = page.parent / "profile"
    with opened(f"file://{page}", profile) as tab:
        tab.until("document.body.dataset.drawn")
        found = {name: int(tab.js(f"document.body.dataset.{name}")) for name in ("ready", "drawn")}
    shutil.rmtree(profile)
    return found


def main() -> None:
    """Open the page several times."""
    if shutil.which("chromium") is None:
        sys.exit("no chromium here")
    with tempfile.TemporaryDirectory() as folder:
        page = make_page(Path(folder), 5000)
        times = [open_page(page) for _ in range(7)]
        size = page.stat().st_size / 2**20
    ready, drawn = (median(each[name] for each in times) / 1000 for name in ("ready", "drawn"))
    print(
        f"5,000 completions, {size:.1f} MiB: ready after {ready:.2f} s, drawn after {drawn:.2f} s"
    )


if __name__ == "__main__":
    main()
