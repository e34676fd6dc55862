"""examples/emails: the environment on a CSV file of its own that its README trains on."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from grpo_envs import check_env

EXAMPLE = Path(__file__).parents[2] / "examples" / "emails"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the example, which is not installed here."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, loaded)
    spec.loader.exec_module(loaded)
    return loaded


def test_it_keeps_the_promises_and_pays_for_each_right_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = module("grpo_env_emails", monkeypatch).EmailsEnv()
    check_env(env)
    problem = env.problem(0, "eval")
    order = json.loads(problem.solution)
    assert env.score(problem, json.dumps(order)).parts == {"fields": 1.0, "json": 1.0}
    one_wrong = {**order, "count": str(order["count"])}
    assert env.score(problem, json.dumps(one_wrong)).parts == {"fields": 0.75, "json": 1.0}
    for other in ({**order, "more": 1}, [order], "no object"):
        assert env.score(problem, json.dumps(other)).parts == {"fields": 0.0, "json": 0.0}


def test_the_script_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = module("make_emails", monkeypatch)
    monkeypatch.setattr(script, "__file__", str(tmp_path / "make_emails.py"))
    script.main()
    written = (tmp_path / "emails.csv").read_bytes()
    assert written == (EXAMPLE / "emails.csv").read_bytes()
