"""What a page shows of a run beside its curves, and how large it is."""

import json
from pathlib import Path

import pytest

from grpo_envs.report import write_report
from grpo_envs.report.configs import configurations
from grpo_envs.report.page import page
from grpo_envs.runs.record import read_record
from tests.support.pages import append, completion, run_with
from tests.support.tab import needs_browser, opened

_TOOL = {"type": "function", "function": {"name": "add<b>", "parameters": {"type": "object"}}}


def told(run: Path, **config: object) -> Path:
    """The run, with keys of its config.json changed."""
    file = run / "config.json"
    note = json.loads(file.read_text(encoding="utf-8"))
    note["about"]["weights"] = {"correct": 1.0, "format": 0.1, "length": -0.2}
    note["config"] |= config
    file.write_text(json.dumps(note), encoding="utf-8")
    return run


def page_of(*runs: Path) -> Path:
    out = runs[0] / "report.html"
    write_report([read_record(run) for run in runs], out)
    return out


def talk(note: str) -> list[dict[str, object]]:
    return [
        {"action": "7", "observation": "too high", "reward": -0.25, "note": note},
        {"action": "5", "observation": "", "reward": 1.0, "note": ""},
    ]


def test_5000_completions_are_at_most_2_2_megabytes(tmp_path: Path) -> None:
    lines = "\n".join(f"{i}+{i}={2 * i}" for i in range(25))
    rows = [
        completion(1 + i // 128, i // 8, f"<think>{lines}</think><answer>{i * 7919 % 997}</answer>")
        for i in range(5000)
    ]
    page = page_of(run_with(tmp_path, rows))
    assert 1_900_000 < page.stat().st_size < 2_200_000
    assert "All 5,000 completions." in page.read_text(encoding="utf-8")


@needs_browser
def test_a_completion_stands_with_what_it_was_asked_and_what_it_earned(tmp_path: Path) -> None:
    parts = {"correct": 1.0, "format": 0.0, "length": 0.5}
    rows = [
        completion(3, 1, "<answer>5</answer>", reward=0.9, parts=parts, gold="<i>5</i>"),
        completion(3, 1, "x", reward=0.1),
        completion(3, 1, "y", reward=0.0, valid=False),
        completion(4, 2, "75", turns=talk("no <number>"), note="turn 1: no <number>"),
    ]
    run = told(run_with(tmp_path, rows))
    said = {"system_prompt": "Be <b>brief</b>.", "tools": [_TOOL]}
    append(run / "problems.jsonl", [{"step": 3, "problem": 1, **said}])
    with opened(f"file://{page_of(run)}", tmp_path / "profile") as tab:
        tab.until("document.body.dataset.ready")
        first, *_, last = tab.js("[...LIST.children].map((card) => card.innerText)")
        html = tab.js("LIST.innerHTML")
        assert "3 in its group: mean 0.500, std 0.566" in first
        assert "gold <i>5</i>" in first
        assert "system prompt; tools: add<b>" in first
        assert "<b>brief" not in html
        assert "Be &lt;b&gt;brief&lt;/b&gt;." in html
        for kind, name in (("full", "correct 1"), ("none", "format 0"), ("penalty", "length 0.5")):
            assert f">{name}</span>" in html.partition(f'class="chip {kind}"')[2][:80]
        assert last.index("turn 1: reward -0.25") < last.index("no <number>")
        assert last.index("no <number>") < last.index("too high") < last.index("turn 2: reward 1")
        assert last.count("no <number>") == 1
        red = tab.js("getComputedStyle(LIST.querySelector('.chip.penalty')).backgroundColor")
        assert red.startswith("rgba(209, 69, 59")
        tab.js("FORM.elements.only.value = 'penalty', writeAddress()")
        assert tab.js("document.getElementById('count').innerText") == "1 match, 1 shown"


@pytest.mark.slow
@needs_browser
def test_keys_go_through_the_completions(tmp_path: Path) -> None:
    rows = [completion(1 + i // 20, i // 4, f"text {i}") for i in range(80)]
    page = page_of(run_with(tmp_path, rows))
    with opened(f"file://{page}", tmp_path / "profile") as tab:
        tab.until("document.body.dataset.ready")
        focus = "document.activeElement.querySelector('pre').innerText"
        tab.press("j")
        assert tab.js(focus) == "text 0"
        for _ in range(31):  # 30 are shown at once
            tab.press("j")
        assert tab.js(focus) == "text 31"
        tab.press("k")
        assert tab.js(focus) == "text 30"
        tab.press("g")
        tab.until("FORM.elements.problem.value === '7'")
        assert tab.js("LIST.children.length") == 4
        tab.press("x")
        tab.until("LIST.children.length === 30")
        tab.press("n")
        tab.press("n")
        assert tab.js("location.hash") == "#step=2"
        tab.press("/")
        tab.press("j")  # is text now
        assert tab.js("FORM.elements.text.value") == "j"
        tab.js("document.activeElement.blur()")
        tab.press("?")
        listed = tab.js("DIALOG.open && document.getElementById('bindings').innerText")
        assert "next completion" in listed
        assert "search in prompts" in listed


@pytest.mark.slow
@needs_browser
def test_a_browser_that_cannot_unpack_says_so(tmp_path: Path) -> None:
    page = page_of(run_with(tmp_path, [completion(1, 1, "x")]))
    old = tmp_path / "old.html"
    text = page.read_text(encoding="utf-8")
    deleted = "<script>delete window.DecompressionStream</script>"
    old.write_text(text.replace("<h1>", f"{deleted}<h1>", 1), encoding="utf-8")
    with opened(f"file://{old}", tmp_path / "profile") as tab:
        said = tab.until("document.getElementById('failed').innerText")
    assert said.startswith("This browser cannot unpack the page")
    assert "\n" not in said


def in_sweep(tmp_path: Path) -> list[Path]:
    """Two runs of a sweep, each with its page."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "multirun.yaml").write_text("", encoding="utf-8")
    return [page_of(run_with(sweep, [completion(1, 1, "x")], f"seed-{i}")) for i in (1, 2)]


def test_the_pages_of_a_sweep_share_the_bundle(tmp_path: Path) -> None:
    pages = in_sweep(tmp_path)
    assert all(page.stat().st_size < 100_000 for page in pages)
    bundle = tmp_path / "sweep" / "plotly.min.js"
    assert bundle.stat().st_size > 1_000_000
    assert 'data-bundle="../plotly.min.js"' in pages[0].read_text(encoding="utf-8")


@pytest.mark.slow
@needs_browser
def test_a_page_of_a_sweep_finds_the_bundle_or_says_what_is_missing(tmp_path: Path) -> None:
    page, _ = in_sweep(tmp_path)
    with opened(f"file://{page}", tmp_path / "profile") as tab:
        tab.until("document.querySelector('.plot-container')")
    (tmp_path / "sweep" / "plotly.min.js").unlink()
    with opened(f"file://{page}", tmp_path / "other") as tab:
        said = tab.until("document.getElementById('failed').innerText")
        assert said.startswith("No curves: ../plotly.min.js")
        assert tab.js("LIST.children.length") == 1


def test_where_configurations_differ_stands_first(tmp_path: Path) -> None:
    runs = [
        told(run_with(tmp_path, [], f"run{i}"), **{"agent.lr": f"<{i}>", "new": 1} if i else {})
        for i in range(2)
    ]
    records = [read_record(run) for run in runs]
    text = "".join(configurations(records, ["run0", "run1"]))
    head, _, rest = text.partition("<details>")
    keys = len({key for record in records for key in record.config})
    assert f"Where they differ: 2 of {keys} keys" in head
    assert "<td>agent.lr</td>" in head
    assert "&lt;1&gt;" in head
    assert "<td>new</td><td><code>-</code></td><td><code>1</code></td>" in head
    assert "trainer.steps" not in head
    assert "trainer.steps" in rest
    assert "Where they differ" not in "".join(configurations(records[:1], ["run0"]))


def test_what_stayed_wrong_is_shown_with_its_gold(tmp_path: Path) -> None:
    run = run_with(tmp_path, [])
    right = {1: (False, True), 2: (False, False), 3: (True, False), 4: (True, True)}
    rows = [
        completion(step, n, f"answer {n}<b>", gold=f"gold {n}<b>", right=said[i], reward=said[i])
        for i, step in enumerate((0, 40))
        for n, said in right.items()
    ]
    append(run / "eval_completions.jsonl", [{"decoding": "greedy", **row} for row in rows])
    changed, _, wrong = page([read_record(run)]).partition('<h2 id="wrong">Stayed wrong</h2>')
    wrong = wrong.partition('<h2 id="completions">')[0]
    assert "1 earn more, 1 less, 2 the same." in changed
    assert "1 of 4 held-out problems were answered wrong" in wrong
    assert "<b>gold</b> gold 2&lt;b&gt;" in wrong
    assert "answer 3" not in wrong


def test_a_run_with_one_evaluation_has_one_column_of_it(tmp_path: Path) -> None:
    run = run_with(tmp_path, [completion(1, 1, "7")])
    file = run / "eval.jsonl"
    both = file.read_text(encoding="utf-8").splitlines(keepends=True)
    assert "<th>step 0</th><th>step 40</th>" in page_of(run).read_text(encoding="utf-8")
    file.write_text(both[0], encoding="utf-8")
    assert page_of(run).read_text(encoding="utf-8").count("<th>step 0</th>") == 1


def test_a_metric_that_only_the_last_evaluation_has_stands_below_it(tmp_path: Path) -> None:
    run = run_with(tmp_path, [completion(1, 1, "7")])
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    rows[-1]["eval/later"] = 0.5
    (run / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page_of(run).read_text(encoding="utf-8")
    assert "<td>later</td><td>-</td><td>0.500</td>" in text
