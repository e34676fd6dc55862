"""The files of `python -m grpo_envs.new_env NAME --dataset`: problems are the rows of a CSV."""

README = """# env=NAME

```bash
pip install -e ".[dev]"                              # where grpo-envs is installed
pytest                                               # its tests
python -m grpo_envs.check env=NAME                   # every promise of an environment
python -m grpo_envs.run env=NAME                     # train
python -m grpo_envs.run env=NAME env.dataset=mine.csv 'env.columns={prompt: question, gold: answer}'
```

`grpo_env_NAME/__init__.py` is the environment: `from_row` makes a problem from a row, `score`
rewards an answer. `grpo_env_NAME/questions.csv` is the dataset if `env.dataset` is not set.
"""

ENV = '''"""Questions with a short answer, the rows of a dataset.

Task: the column `prompt`.
Answer: `<answer>...</answer>`, after at most one `<think>` block.
Reward: `correct` for the column `gold` in any case, `format` for exactly one answer and nothing
beside it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from grpo_envs import DatasetEnv, Problem, Reward, Row
from grpo_envs.graders.text import after_think

__all__ = ["CLASSEnv"]


class CLASSEnv(DatasetEnv):
    """Questions from a file."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."
    default_dataset = Path(__file__).with_name("questions.csv")

    def from_row(self, row: Row) -> Problem:
        """Make the problem of a row; raise DatasetError if the row cannot be read."""
        gold = row.text("gold")
        return Problem(prompt=row.text("prompt"), gold=gold, solution=f"<answer>{gold}</answer>")

    def score(self, problem: Problem, answer: str) -> Reward:
        """Compare the whole answer, so that a list of guesses earns nothing."""
        found = re.fullmatch(r"\\s*<answer>([^<]*)</answer>\\s*", after_think(answer) or "")
        right = found is not None and found[1].strip().casefold() == problem.gold.casefold()
        return Reward(parts={"correct": float(right), "format": float(found is not None)})
'''

QUESTIONS = """prompt,gold
What is the capital of France?,Paris
What is the capital of Italy?,Rome
What is the capital of Japan?,Tokyo
What is the capital of Kenya?,Nairobi
What is the capital of Peru?,Lima
What is the capital of Norway?,Oslo
What is the capital of Egypt?,Cairo
What is the capital of Cuba?,Havana
What is the capital of Ghana?,Accra
What is the capital of Spain?,Madrid
What is the capital of Nepal?,Kathmandu
What is the capital of Chile?,Santiago
"""

YAML = """# Questions with a short answer; another file: env.dataset=mine.csv
name: NAME
"""

TESTS = '''"""The environment keeps every promise, and rewards what it should."""

from pathlib import Path

import pytest

import grpo_envs
from grpo_env_NAME import CLASSEnv
from grpo_env_NAME.rewards import brief


def test_it_keeps_every_promise() -> None:
    grpo_envs.check_env(CLASSEnv())


def test_another_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("question,answer,level\\n1+1?,2,easy\\n2+2?,4,hard\\n")
    columns = {"prompt": "question", "gold": "answer"}
    env = grpo_envs.make("NAME", dataset=str(tmp_path / "mine.csv"), columns=columns, held_out=0.5)
    problems = [env.problem(0, split) for split in ("train", "eval")]
    assert {(p.prompt, p.gold, p.meta["level"]) for p in problems} == {
        ("1+1?", "2", "easy"),
        ("2+2?", "4", "hard"),
    }


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        pytest.param("<answer>Paris</answer>", 1.0, id="right"),
        pytest.param("<think>It is Paris.</think><answer> paris </answer>", 1.0, id="a thought"),
        pytest.param("<answer>Rome</answer>", 0.0, id="wrong"),
        pytest.param("<answer>Paris</answer><answer>Rome</answer>", 0.0, id="two answers"),
        pytest.param("Paris", 0.0, id="no tags"),
    ],
)
def test_what_an_answer_earns(answer: str, correct: float) -> None:
    problem = grpo_envs.Problem(prompt="", gold="Paris", solution="<answer>Paris</answer>")
    assert CLASSEnv().score(problem, answer).parts["correct"] == correct


def test_a_long_answer_is_not_brief() -> None:
    problem = CLASSEnv().problem(1)
    assert [brief(problem, "x" * n, most=10) for n in (0, 10, 15, 99)] == [0.0, 0.0, 0.5, 1.0]
'''
