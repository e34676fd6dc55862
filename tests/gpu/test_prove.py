"""The proof itself, with small shapes on the CPU: every part runs, and can fail."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from grpo_agent.agent import GrpoAgent
from grpo_policy import packing, policy, row_attention, scoring
from grpo_policy.learner import Learner
from grpo_policy.masters import Masters
from grpo_policy.merging import Merged
from grpo_policy.samplers import draw
from grpo_policy.samplers.budget import Budget
from grpo_policy.samplers.fixed import FixedStep
from tests.gpu import correct, memory, prove, runs, speed, wheels
from tests.gpu.proof import Row, Scale, config_of, prompts_of

SMALL = Scale(small=True, device=torch.device("cpu"))
Part = Callable[[Scale], Iterator[Row]]
SLOW = (runs.resumes, runs.quick_start)


@pytest.fixture(autouse=True)
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two models of a part one is enough here."""
    for module in (correct, speed):
        monkeypatch.setattr(module, "MODELS", ("0.6b",))


def parts(*functions: Part) -> list[Any]:
    marks = {part: [pytest.mark.slow] if part in SLOW else [] for part in functions}
    return [pytest.param(part, marks=marks[part], id=part.__name__) for part in functions]


@pytest.mark.filterwarnings("ignore::UserWarning")  # AdamW, of a run with learning rate 0
@pytest.mark.parametrize("part", parts(*prove.PARTS.values()))
def test_a_part_holds_on_a_cpu(part: Part) -> None:
    rows = list(part(SMALL))
    assert rows
    assert [f"{row.what}: {row.fault}" for row in rows if row.fault] == []
    assert all(math.isfinite(row.value) for row in rows if not isinstance(row.value, str))


# --- each can fail


def another_temperature(patch: pytest.MonkeyPatch) -> None:
    """Scores are not those of the distribution that was sampled from."""
    score = scoring.score_tokens

    def wrong(
        hidden_ND: Tensor, targets_N: Tensor, head: nn.Module, temperature: float, **k: Any
    ) -> Any:
        return score(hidden_ND, targets_N, head, 1.5 * temperature, **k)

    patch.setattr(policy, "score_tokens", wrong)


def the_least_likely(patch: pytest.MonkeyPatch) -> None:
    """The sampler takes it for the best."""
    choose = draw.choose
    patch.setattr(draw, "choose", lambda logits, *rest: choose(-logits, *rest))


def everyone_attends(patch: pytest.MonkeyPatch) -> None:
    """Completions of a pack see those before them."""

    def attends(owner_KL: Tensor) -> Callable[..., Tensor]:
        return lambda k, head, query, key: (owner_KL[k, key] >= 0) & (key <= query)

    patch.setattr(packing, "attends", attends)
    patch.setattr(packing, "lay_out", lambda *_, **__: None)  # as on a GPU: not by rows


def rows_see_what_follows(patch: pytest.MonkeyPatch) -> None:
    answers = row_attention._answers
    patch.setattr(
        row_attention,
        "_answers",
        lambda states, laid, scale: answers(
            states, replace(laid, bias_B1TS=torch.zeros_like(laid.bias_B1TS), _shared={}), scale
        ),
    )


def nothing_merged(patch: pytest.MonkeyPatch) -> None:
    adapter = Merged._adapter
    patch.setattr(Merged, "_adapter", lambda self: (*adapter(self)[:2], 0.0))


def the_samplers_word(patch: pytest.MonkeyPatch) -> None:
    """The old log-probabilities are those of the sampler, which computes in another way."""
    patch.setattr(Learner, "logps", lambda self, batch, parts: batch.sampled_logps_BT)


def the_same_column(patch: pytest.MonkeyPatch) -> None:
    """Every token is written over the one before."""
    operations = FixedStep.operations

    def stay(self: FixedStep) -> None:
        operations(self)
        self.column_1.sub_(1)

    patch.setattr(FixedStep, "operations", stay)


def nothing_said(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Budget, "halve", lambda self: setattr(self, "held", self.tried // 2))


def gradients_left(patch: pytest.MonkeyPatch) -> None:
    """Those of an update before count, too."""
    patch.setattr(torch.optim.AdamW, "zero_grad", lambda self: None)
    patch.setattr(
        Masters, "take_gradients", lambda self: {n: p.grad for n, p in self.computing().items()}
    )


def moments_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GrpoAgent, "load_state_dict", lambda self, state: None)


FAULTS = [
    (correct.scores, another_temperature),
    (correct.generate, the_least_likely),
    (correct.packed, everyone_attends),
    (correct.packed, rows_see_what_follows),
    (correct.merged, nothing_merged),
    (correct.unmoved, the_samplers_word),
    (speed.captured, the_same_column),
    (memory.sampling_recovers, nothing_said),
    (memory.update_recovers, gradients_left),
    pytest.param(runs.resumes, moments_lost, marks=pytest.mark.slow),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("part", "fault"), FAULTS)
def test_a_part_finds_what_is_wrong(
    part: Part, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    assert [row.what for row in part(SMALL) if row.fault]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (Row(what="", value=2.0, most=2), ""),
        (Row(what="", value=2.5, most=2), "2.5 is above 2"),
        (Row(what="", value=0.5, least=1), "0.5 is below 1"),
        (Row(what="", value=math.nan, most=1), "nan is above 1"),
        (Row(what="", value="measured", most=1), ""),
    ],
)
def test_a_row_says_what_is_wrong(row: Row, fault: str) -> None:
    assert row.fault == fault


# --- the command


def child(rows: list[Row], code: int | None, said: str) -> Callable[..., int | None]:
    """What stands for the process of a part."""

    def run(command: list[str], output: int, seconds: float) -> int | None:
        os.write(output, said.encode())
        lines = [{"card": "H1000"}, *map(asdict, rows)]
        path = Path(command[command.index("--rows") + 1])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return code

    return run


@pytest.mark.slow
def test_a_part_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert prove.main(["--only", "limits", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "prove.md").read_text(encoding="utf-8")
    assert page.startswith("# Proof on CPU (")
    assert "| limits | limits below are by | measured |  |  |" in page
    written = json.loads((tmp_path / "prove.json").read_text(encoding="utf-8"))
    assert written["machine"]["shapes"] == "small"
    assert written["rows"][0]["what"] == "limits below are by"
    assert "--- limits" in (tmp_path / "prove.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        pytest.param(
            1, "Traceback\nValueError: no.\n\n", "exit code 1: ValueError: no.", id="raised"
        ),
        pytest.param(-11, "", "exit code -11: nothing was said", id="killed"),
        pytest.param(None, "warming up", "its time was over", id="too slow"),
    ],
)
def test_a_part_that_fails_is_a_row_and_the_others_go_on(
    code: int | None,
    said: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [Row(what="a | b", value=1.0, unit="s"), Row(what="gap", value=2.0, most=1)]
    monkeypatch.setattr(prove, "_run", child(rows, code, said))
    assert prove.main(["--only", "runs", "--out", str(tmp_path)]) == 1
    page = (tmp_path / "prove.md").read_text(encoding="utf-8")
    for part in ("resumes", "quick_start"):
        assert f"| {part} | a / b | 1 s |  |  |" in page
        assert f"| {part} | gap | 2 | ≤ 1 | FAILED: 2 is above 1 |" in page
        assert f"| {part} |  |  |  | FAILED: {reason} |" in page
    assert page.startswith("# Proof on H1000\n")
    assert f"  FAILED: {reason}\n" in capsys.readouterr().out


def test_a_bound_that_does_not_hold_is_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, code in ((1.0, 0), (2.0, 1)):
        monkeypatch.setattr(prove, "_run", child([Row(what="gap", value=value, most=1)], 0, ""))
        assert prove.main(["--only", "limits", "--out", str(tmp_path)]) == code


def test_a_part_ends_with_its_time_and_with_what_it_started(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as file:
        command = ["sh", "-c", "sleep 600 & echo $!; wait"]
        assert prove._run(command, file.fileno(), 2) is None
    state = Path(f"/proc/{int((tmp_path / 'said').read_text())}/stat")
    end = time.monotonic() + 30
    while state.exists() and state.read_text().split()[2] not in "ZX":
        assert time.monotonic() < end
        time.sleep(0.1)


def test_no_time_left_is_said(tmp_path: Path) -> None:
    assert prove.main(["--only", "limits", "--minutes", "0", "--out", str(tmp_path)]) == 1
    assert "FAILED: its time was over" in (tmp_path / "prove.md").read_text(encoding="utf-8")


def test_a_module_stands_for_its_parts() -> None:
    assert prove.chosen([]) == [*prove.PARTS]
    assert prove.chosen(["runs", "scores"]) == ["scores", "resumes", "quick_start"]


# --- shapes and wheels


def test_full_shapes_are_those_of_qwen3() -> None:
    """Parameters as the models' names say: 0.6 B has 596 M, 1.7 B 1,721 M."""
    full = Scale(small=False, device=torch.device("meta"))
    sizes = {}
    for name in ("0.6b", "1.7b"):
        with torch.device("meta"):
            sizes[name] = Qwen3ForCausalLM(config_of(name, full)).num_parameters()
    assert sizes == {"0.6b": 596_049_920, "1.7b": 1_720_574_976}


def test_prompts_are_ragged_where_that_is_asked() -> None:
    assert {len(ids) for ids in prompts_of(4, 16)} == {16}
    assert [len(ids) for ids in prompts_of(4, 16, ragged=True)] == [16, 14, 12, 10]


def test_wheels_are_what_the_machine_lacks() -> None:
    wanted = {text.partition("==")[0] for text in wheels.needed(wheels.HAVE)}
    assert {"hydra-core", "gymnasium", "google-re2", "antlr4-python3-runtime"} <= wanted
    there = {"torch", "numpy", "transformers", "pytest", "datasets", "pyarrow", "grpo-envs", "trl"}
    assert not wanted & there
    assert "hydra-core" not in {text.partition("==")[0] for text in wheels.needed(["grpo-envs"])}
