"""--watch: a page that shows what a run writes while it goes on."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.report import explained
from grpo_envs.report.live import serve
from grpo_envs.report.watched import Watched
from tests.support.pages import RUNS, append, completion, run_with
from tests.support.tab import needs_browser, opened


def going_on(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A run that has done 3 of its steps, and the rows of metrics.jsonl that come."""
    run = run_with(tmp_path, [completion(1, 1, "first")])
    for name in ("done.json", "eval.jsonl"):
        (run / name).unlink()
    rows = [json.loads(x) for x in (RUNS / "healthy" / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("", encoding="utf-8")
    append(run / "metrics.jsonl", rows[:3])
    return run, rows[3:]


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of its page."""
    with serve([run], 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def version_of(page: str) -> str:
    found = re.search(r'data-version="(\d+)"', page)
    assert found is not None
    return found[1]


def test_only_what_is_new_is_sent(tmp_path: Path) -> None:
    run, coming = going_on(tmp_path)
    watched = Watched([run])
    version = version_of(watched.page())
    assert watched.news(version) is None
    append(run / "metrics.jsonl", coming[:2])
    append(run / "completions.jsonl", [completion(4, 9, "</script><b>second")])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')  # a row that is being written
    news = watched.news(version)
    assert news is not None
    assert [row["text"] for row in news["rows"]] == ["</script><b>second"]
    assert news["state"] == "5 of 40 steps"
    assert {tuple(line["x"]) for chart in news["points"] for line in chart} == {(4, 5)}
    assert "5 of 40 steps" in news["html"]["summary"]
    assert watched.news(news["version"]) is None
    assert (watched.news(version) or {})["rows"] == news["rows"]  # another page, of before


def test_the_noted_group_stays_on_a_page_that_follows_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step that is written whole; of a long file there is the command in its place."""
    run, _ = going_on(tmp_path)
    about = json.loads((run / "config.json").read_text())
    about["config"]["agent.group_size"] = 1
    (run / "config.json").write_text(json.dumps(about))
    watched = Watched([run])
    version = version_of(watched.page())
    terms = {"old": [-1.0], "new": [-1.0], "weight": [1.0], "loss/policy": [0.5]}
    noted = {"group": 0, "member": 0, "update": 1, "tokens": ["<b>"], "terms": terms}
    append(run / "completions.jsonl", [completion(4, 9, "second"), completion(5, 9, "third")])
    append(run / "tokens.jsonl", [{"step": step, **noted} for step in (4, 5)])
    html = (watched.news(version) or {})["html"]["held-out"]
    assert "A group, token by token" in html
    assert "step 4, group 0" in html
    assert "<td>&lt;b&gt;</td>" in html
    assert html in watched.page()
    monkeypatch.setattr(explained, "_MOST_LIVE", 10)
    html = (watched.news(version) or {})["html"]["held-out"]
    assert "too much to read every two seconds" in html
    assert f"grpo_envs.explain {run}" in html


def test_a_chart_more_or_a_run_that_begins_anew_is_another_page(tmp_path: Path) -> None:
    run, _ = going_on(tmp_path)
    watched = Watched([run])
    version = version_of(watched.page())
    append(run / "eval.jsonl", [{"step": 0, "eval/accuracy": 0.5, "eval/ci95": 0.1}])
    assert (watched.news(version) or {})["reload"]
    version = version_of(watched.page())
    again = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "other").write_text("".join(again[:2]), encoding="utf-8")
    (run / "other").replace(run / "metrics.jsonl")  # as a resumed run leaves it
    assert (watched.news(version) or {})["reload"]
    assert "2 of 40 steps" in watched.page()


def test_it_answers_its_own_page_only(tmp_path: Path) -> None:
    run, _ = going_on(tmp_path)
    with served(run) as address:
        with urlopen(address) as reply:
            assert "connect-src 'self'" in reply.read().decode()
        stranger = Request(address, headers={"Host": "somewhere.example:80"})
        with pytest.raises(HTTPError, match="403"):
            urlopen(stranger)
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{address}../config.json")
        port = int(address.rstrip("/").rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"--port {port}: Address already in use\. Allowed:"):
            serve([run], port)


@needs_browser
def test_a_browser_follows_a_run(tmp_path: Path) -> None:
    run, coming = going_on(tmp_path)
    with served(run) as address, opened(address, tmp_path / "profile") as tab:
        tab.until("document.querySelector('.plot-container')")
        assert tab.js("LIVE.innerText") == "Live: 3 of 40 steps."
        tab.js("window.same = true")
        append(run / "metrics.jsonl", coming[:4])
        hostile = "<img src=x onerror=\"document.title='hacked'\">"
        append(run / "completions.jsonl", [completion(7, 9, hostile, prompt=hostile)])
        tab.until("LIVE.innerText === 'Live: 7 of 40 steps.'")
        assert tab.js("LIST.children.length") == 2
        assert hostile in tab.js("LIST.lastElementChild.innerText")
        assert tab.js("document.title") != "hacked"
        assert tab.js("charts.at(-1).data[0].x") == [1, 2, 3, 4, 5, 6, 7]
        assert tab.js("document.querySelector('.chart').data.at(-1).x.length") == 7
        assert tab.js("window.same")  # the page was not loaded anew


def test_the_command_says_where_and_ends_in_a_line(tmp_path: Path) -> None:
    run, _ = going_on(tmp_path)
    command = [sys.executable, "-m", "grpo_envs.report", str(run), "--watch"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background: ignored
    try:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ follows run until Ctrl-C\.\n", line)
        with urlopen(line.split()[0]) as reply:
            assert "3 of 40 steps" in reply.read().decode()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "grpo_envs: the page is not served any more.\n"
    assert not (run / "report.html").exists()
