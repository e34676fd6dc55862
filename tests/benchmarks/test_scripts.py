"""The benchmarks run as their pages say, and show what they claim; small, and slow all the same."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def printed(script: str, *arguments: str, cwd: Path | None = None) -> str:
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_chunked_head_takes_less_than_half_the_memory() -> None:
    table = printed("memory.py", "--runs", "1")
    ratios = [float(ratio) for ratio in re.findall(r"\| ([\d.]+) \|$", table, flags=re.MULTILINE)]
    assert len(ratios) == 4
    assert min(ratios) > 2


@pytest.mark.slow
def test_every_preset_trains_and_a_second_call_repeats_nothing(tmp_path: Path) -> None:
    small = ("--samples", "128", "--seeds", "1", "--out", "runs")
    first = printed("presets.py", *small, cwd=tmp_path)
    rows = re.findall(r"^\| `(\w+)` \|", first, flags=re.MULTILINE)
    presets = {p.stem for p in (HERE.parent.parent / "conf" / "agent").glob("*.yaml")}
    # ppo and sft are other agents
    assert set(rows) >= presets - {"ppo", "sft"}
    assert (tmp_path / "runs" / "table.md").read_text().count("\n| `") == len(rows)
    written = {p: p.stat().st_mtime for p in tmp_path.rglob("metrics.jsonl")}
    table = first[first.index("| `agent=` |") :]
    assert printed("presets.py", *small, cwd=tmp_path).endswith(table)
    assert written == {p: p.stat().st_mtime for p in tmp_path.rglob("metrics.jsonl")}


@pytest.mark.slow
def test_a_group_environment_is_faster_than_gymnasiums_own() -> None:
    last = printed("vector_env.py").splitlines()[-1]
    assert float(last.removeprefix("vector: speedup ")) > 2


@pytest.mark.slow
def test_an_answer_earns_the_same_in_every_trainer() -> None:
    rows = printed("doors.py", "--answers", "8").splitlines()[2:]
    assert len(rows) == 5
    assert all(row.count("equal") >= 2 and "differ" not in row for row in rows)


@pytest.mark.slow
def test_a_batch_is_made_faster_than_from_lists() -> None:
    last = printed("collate.py", "--rows", "128").splitlines()[-1]
    assert float(last.removeprefix("collate: speedup ")) > 2


@pytest.mark.slow
def test_filling_free_places_takes_fewer_steps() -> None:
    small = ("--prompts", "12", "--rows", "24", "--tokens", "200", "--rounds", "1")
    (fewer,) = re.findall(r"^refill: fewer steps (.*)$", printed("refill.py", *small), re.MULTILINE)
    assert float(fewer) > 1.3


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def test_a_step_takes_less_time_and_memory_than_trls(device: str) -> None:
    pytest.importorskip("trl", reason="needs the extra bench")
    small = ("--shapes", "a", "--rounds", "1", "--steps", "1", "--device", device)
    last = printed("bench_grpo_step.py", *small).splitlines()[-1]
    found = re.fullmatch(r"shape \(a\): speedup ([\d.]+) memory ([\d.]+)", last)
    assert found is not None, last
    assert float(found[1]) > 1
    assert float(found[2]) < 1


@pytest.mark.slow
def test_launches_are_those_of_the_same_checkout() -> None:
    table = printed("launches.py", "--before", sys.executable)
    ratios = re.findall(r"^\| (.*) \| .* \| ([\d.]+) \|$", table, flags=re.MULTILINE)
    assert len(ratios) == 7
    assert {ratio for name, ratio in ratios if "memory" not in name} == {"1.00"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_the_time_that_a_report_takes_to_open_is_measured() -> None:
    printed_text = printed("report_page.py")
    assert re.search(
        r"5,000 completions, .* ready after [\d.]+ s, drawn after [\d.]+ s", printed_text
    )


@pytest.mark.slow
def test_an_architecture_is_sampled_exactly_or_refused() -> None:
    """As the page of models says; a few of the many."""
    names = ("qwen3", "qwen3_5_text", "mamba", "minimax", "gemma2", "llama4_text", "rwkv")
    page = (HERE.parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    _, _, *rows = printed("architectures.py", *names).splitlines()
    assert len(rows) == len(names)
    assert set(rows) <= set(page.splitlines())


@pytest.mark.slow
def test_a_dataset_is_ready_at_once_after_the_first_time() -> None:
    table = printed("dataset_rows.py", "--rows", "40000")
    first, second = map(float, re.findall(r"\(([\d.]+) s of processor time\)", table))
    assert second < first / 3


@pytest.mark.slow
def test_a_tool_is_called_and_without_it_nothing_is_learnt() -> None:
    small = ("trainer.steps=20", "trainer.prompts_per_step=6", "trainer.eval_problems=100")
    rows = printed("tools_learn.py", "--seeds", "1", *small).splitlines()[2:]
    right = [[float(cell) for cell in row.split("|")[3:7]] for row in rows]
    (before, after, _, calls), (_, without, _, _) = right
    assert before < 0.2
    assert after > 0.9
    assert calls >= 1
    assert without < 0.2


@pytest.mark.slow
def test_a_critic_of_its_own_takes_memory_and_operations() -> None:
    table = printed("critic.py", "cost", "--models", "tiny", "--steps", "1")
    rows = re.findall(
        r"\| (GRPO|PPO, \w+ body) \|.*?\(([\d.]+)\) \|.*?\(([\d.]+)\) \|$", table, re.M
    )
    assert [name for name, *_ in rows] == ["GRPO", "PPO, own body", "PPO, shared body"]
    memory = [float(re.findall(r"\(([\d.]+)\)", line)[0]) for line in table.splitlines()[2:5]]
    assert memory[1] > 1.05 > memory[2]
    assert float(rows[1][2]) > 1.5 > float(rows[2][2])
