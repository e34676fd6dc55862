"""report.html: what a browser makes of it. What a model wrote stays text, whatever it is."""

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.report import write_report
from grpo_envs.runs.record import read_record
from tests.support.pages import completion, run_with
from tests.support.tab import CHROMIUM, OPTIONS, needs_browser

HOSTILE = [
    "<script>document.title = 'hacked'</script>",
    "</script><script>document.title = 'hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "<!--<script>",
    "&lt;b&gt; \u2028 \ud83d \x00 $title ${title} \\u003c",
]


def page_of(*runs: Path) -> Path:
    out = runs[0] / "report.html"
    write_report([read_record(run) for run in runs], out)
    return out


def opened(page: Path, fragment: str = "") -> str:
    """The document as it is after headless Chromium has opened it."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--virtual-time-budget=10000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{page}#{fragment}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def carried(page: Path) -> dict[str, Any]:
    """The data that a page carries."""
    found = re.search(r'id="data"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return dict(json.loads(gzip.decompress(base64.b64decode(found[1]))))


def listed(document: str) -> str:
    """What the browser of completions shows."""
    return document.partition('<div id="list">')[2].partition('<button id="more"')[0]


@needs_browser
def test_a_browser_shows_it(tmp_path: Path) -> None:
    rows = [completion(1, 7, "<think>3+4=7</think><answer>7</answer>", reward=1.1, advantage=1.0)]
    document = opened(page_of(run_with(tmp_path, rows)))
    assert re.search(r'<body data-ready="\d+" data-drawn="\d+">', document)
    assert "held-out accuracy, greedy" in document
    assert 'class="plot-container' in document  # plotly has drawn
    assert '<span class="think">&lt;think&gt;3+4=7&lt;/think&gt;</span>' in listed(document)
    assert '<span class="answer">&lt;answer&gt;7&lt;/answer&gt;</span>' in listed(document)
    assert "advantage +1.00" in listed(document)
    assert '<span class="chip none" title="adds 0 to the reward">correct 0</span>' in listed(
        document
    )


@needs_browser
def test_what_a_model_wrote_does_nothing(tmp_path: Path) -> None:
    rows = [completion(1, i, text, prompt=text, error=text) for i, text in enumerate(HOSTILE)]
    run = run_with(tmp_path, rows)
    answers = [
        {"decoding": "greedy", **completion(step, i, text, prompt=text, reward=float(step > 0))}
        for i, text in enumerate(HOSTILE)
        for step in (0, 40)
    ]
    told = "".join(json.dumps(row) + "\n" for row in answers)
    (run / "eval_completions.jsonl").write_text(told, encoding="utf-8")
    document = opened(page_of(run))
    assert "<title>hacked" not in document
    assert "data-ready" in document
    assert "Before and after" in document
    assert "<img" not in listed(document)
    assert document.count("&lt;img src=x onerror=") >= 4  # here and in the answers before and after
    assert "5 match, 5 shown" in document


@needs_browser
def test_a_remark_of_the_grader_stands_with_its_answer(tmp_path: Path) -> None:
    old = completion(1, 2, "of a run before there were notes")
    rows = [completion(1, 1, "<answer>8</answer>", note="it comes to <8>"), old]
    run = run_with(tmp_path, rows)
    answers = [
        {"decoding": "greedy", **completion(0, 1, "eight", note="no <number>")},
        {"decoding": "greedy", **completion(40, 1, "8", reward=1.0)},
        {"decoding": "greedy", **completion(0, 2, "nine", error="sandbox <down>", valid=False)},
        {"decoding": "greedy", **completion(40, 2, "9", reward=1.0)},
    ]
    text = "".join(json.dumps(row) + "\n" for row in answers)
    (run / "eval_completions.jsonl").write_text(text, encoding="utf-8")
    document = opened(page_of(run))
    assert listed(document).count('class="note"') == 1
    assert '<p class="note">it comes to &lt;8&gt;</p>' in listed(document)
    before, _, after = document.partition("<h4>after: 1.00</h4>")
    assert '<pre>eight</pre><p class="note">no &lt;number&gt;</p>' in before
    assert '<p class="note">sandbox &lt;down&gt;</p>' in after


FILTERS = [
    ("", 6),
    ("step=2", 3),
    ("step=2&problem=4", 1),
    ("min=1", 2),
    ("part=correct&max=0", 4),
    ("part=extra", 1),
    ("text=needle", 1),
    ("only=invalid", 1),
    ("only=cut", 1),
]


@needs_browser
def test_filters_stand_in_the_address(tmp_path: Path) -> None:
    good = {"reward": 1.1, "parts": {"correct": 1.0, "format": 1.0}}
    rows = [
        completion(1, 3, "a", **good),
        completion(1, 3, "b", valid=False, error="sandbox down"),
        completion(1, 4, "a needle", tokens=9),
        completion(2, 4, "c", **good),
        completion(2, 5, "d", finish_reason="length"),
        completion(2, 5, "e", parts={"correct": 0.0, "format": 0.0, "extra": 0.5}),
    ]
    page = page_of(run_with(tmp_path, rows))
    tries = json.dumps([fragment for fragment, _ in FILTERS])
    script = f"""<pre id="tried"></pre><script>
    STARTED.then(() => {{
      for (const fragment of {tries}) {{
        history.replaceState(null, "", "#" + fragment);
        readAddress();
        const said = document.getElementById("count").textContent;
        document.getElementById("tried").append(said + ";");
      }}
    }});
    </script>"""
    page.write_text(page.read_text(encoding="utf-8") + script, encoding="utf-8")
    document = opened(page, "sort=longest")
    said = "".join(f"{count} match, {count} shown;" for _, count in FILTERS)
    assert f'<pre id="tried">{said}</pre>' in document


@pytest.mark.slow
@needs_browser
def test_completions_are_sorted(tmp_path: Path) -> None:
    rows = [completion(1, 1, f"answer {n}", tokens=n) for n in (3, 9, 1)]
    document = listed(opened(page_of(run_with(tmp_path, rows)), "sort=longest"))
    assert re.findall(r"answer (\d)", document) == ["9", "3", "1"]


@pytest.mark.slow
@needs_browser
def test_several_runs_are_told_apart(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, [completion(1, i, "x")], f"run{i}") for i in (1, 2)]
    document = opened(page_of(*runs), "run=run2")
    assert "1 match, 1 shown" in document
    assert "question 2" in listed(document)
    assert '<i style="background:#1F77B4"></i>run1' in document
    assert '<i style="background:#FF7F0E"></i>run2' in document


def test_it_needs_no_network(tmp_path: Path) -> None:
    page = page_of(run_with(tmp_path, [completion(1, 1, "x")])).read_text(encoding="utf-8")
    head = page.partition("<script>")[0]
    assert "default-src 'none'" in head  # what would load something is refused by the browser
    assert not re.search(r"<(?:script|link|img)[^>]+\b(?<!-)(?:src|href)=", page)


def test_many_completions_are_thinned_by_whole_groups(tmp_path: Path) -> None:
    rows = [completion(s, p, "x" * 10) for s in range(1, 101) for p in range(10) for _ in range(8)]
    page = page_of(run_with(tmp_path, rows))
    said = "5,000 of 8,000 completions: whole groups, evenly over the steps."
    assert said in page.read_text(encoding="utf-8")
    kept = carried(page)["rows"]
    groups: dict[tuple[int, int], int] = {}
    for row in kept:
        key = (row["step"], row["problem"])
        groups[key] = groups.get(key, 0) + 1
    assert set(groups.values()) == {8}
    steps = [step for step, _ in groups]
    assert all(5 <= steps.count(step) <= 8 for step in range(1, 101))


def test_long_completions_are_thinned_by_their_size(tmp_path: Path) -> None:
    rows = [completion(s, 0, "x" * 100_000) for s in range(1, 161)]
    page = page_of(run_with(tmp_path, rows))
    assert page.stat().st_size < 14_000_000
    assert "80 of 160 completions" in page.read_text(encoding="utf-8") or "79 of 160" in (
        page.read_text(encoding="utf-8")
    )


def test_a_run_without_completions_has_a_page_all_the_same(tmp_path: Path) -> None:
    run = run_with(tmp_path, [])
    (run / "completions.jsonl").unlink()
    (run / "eval.jsonl").unlink()
    assert "All 0 completions." in page_of(run).read_text(encoding="utf-8")


def test_the_command_writes_into_the_run_and_names_what_is_none(tmp_path: Path) -> None:
    run = run_with(tmp_path, [completion(1, 1, "x")])
    command = [sys.executable, "-m", "grpo_envs.report"]
    done = subprocess.run([*command, run], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(run / "report.html")
    assert (run / "report.html").is_file()
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl\. Give the folder of a run\.$"):
        read_record(tmp_path / "nowhere")
