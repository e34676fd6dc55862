"""Plugins: real packages with real metadata, found without being imported."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Optional

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

import grpo_envs
from grpo_envs.env.installed import AGENTS, ENVS, available, check_keywords, check_values, load
from grpo_envs.env.plugins import conf_dir
from grpo_envs.errors import ConfigError, PluginError, UnknownName

SOURCE = '''
import random

from grpo_envs import Problem, Reward, TextEnv


class Parrot(TextEnv):
    """Repeat the word."""

    def __init__(self, split="train", *, words=9, render_mode=None, rewards=None):
        super().__init__(split, render_mode=render_mode, rewards=rewards)
        self.words = words

    def draw(self, rng: random.Random, split: str) -> Problem:
        word = f"{split}{rng.randrange(self.words)}"
        return Problem(prompt=f"Say {word}.", gold=word, solution=word)

    def score(self, problem: Problem, answer: str) -> Reward:
        return Reward(parts={"correct": float(answer == problem.gold)})


NotAClass = "a text"
'''


def install(folder: Path, package: str, entry_points: dict[str, str], source: str = SOURCE) -> None:
    """Lay a package and its metadata down as pip would."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENVS}]", *lines, ""]))
    (folder / f"{package}.py").write_text(source)


def python(code: str, *paths: Path) -> Any:
    """What `code` prints, as JSON, in an interpreter that treats warnings as errors."""
    old = os.environ.get("PYTHONPATH")
    search = os.pathsep.join([*map(str, paths), *([old] if old else [])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import json, sys\n{code}"],
        env={**os.environ, "PYTHONPATH": search},
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# What is there


def test_the_built_in_environments_are_entry_points() -> None:
    assert available(ENVS)["math"].value == "grpo_env_math:MathEnv"
    assert "grpo" in available(AGENTS)
    assert available("grpo_envs.nothing_of_ours") == {}


def test_names_are_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "demo_sorted", {"zoo": "demo_sorted:Parrot", "ape": "demo_sorted:Parrot"})
    monkeypatch.syspath_prepend(tmp_path)
    names = list(available(ENVS))
    assert {"ape", "math", "zoo"} <= set(names)
    assert names == sorted(names)


def test_importing_grpo_envs_registers_ids_and_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "hydra", "sympy", "datasets", "pandas", "pyarrow"]
    seen = python(
        "import grpo_envs, gymnasium\n"
        "ids = [i for i in gymnasium.registry if i.startswith('grpo_envs/')]\n"
        "print(json.dumps([ids, sorted(sys.modules)]))"
    )
    ids, modules = seen
    assert sorted(ids) == [f"grpo_envs/{name}-v0" for name in sorted(available(ENVS))]
    assert not {"grpo_env_math", "grpo_agent", *heavy} & set(modules)


def test_making_a_generated_environment_loads_no_learning_library() -> None:
    # A data worker or a grader process needs no torch: it must not pay for it.
    seen = python(
        "import grpo_envs\n"
        "env = grpo_envs.make('math')\nenv.reset(seed=1)\nenv.step('1')\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert "grpo_env_math" in seen
    assert not {"torch", "transformers", "hydra", "datasets"} & set(seen)


def test_the_configuration_is_found() -> None:
    assert (conf_dir() / "config.yaml").is_file()
    assert (conf_dir() / "env" / "math.yaml").is_file()


# Making


def test_make_gives_the_environment_itself() -> None:
    env = grpo_envs.make("math", split="eval", level=2)
    made = gymnasium.make("grpo_envs/math-v0", split="eval", level=2)
    assert isinstance(env, grpo_envs.TextEnv)
    assert env.split == "eval"
    assert type(made.unwrapped) is type(env)
    assert made.reset(seed=3) == env.reset(seed=3)
    assert made.spec is not None
    assert made.spec.max_episode_steps is None  # else the last step is terminated and truncated


def test_a_spec_travels_as_json() -> None:
    made = gymnasium.make("grpo_envs/math-v0", level=4, rewards={"format": 0.5})
    assert made.spec is not None
    for text in (made.spec.to_json(), gymnasium.spec("grpo_envs/math-v0").to_json()):
        assert json.loads(text)["vector_entry_point"] == "grpo_envs.env.vector_entry:math"
    again = gymnasium.make(EnvSpec.from_json(made.spec.to_json()))
    assert again.reset(seed=5) == made.reset(seed=5)
    assert again.unwrapped.weights == {"correct": 1.0, "format": 0.5}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        pytest.param(
            "maths",
            {},
            r"^no env 'maths'\. Allowed: .*math.*\. Did you mean 'math'\?$",
            id="unknown name",
        ),
        pytest.param("qqqqq", {}, r"^no env 'qqqqq'\. Allowed: [\w, ]*math[\w, ]*\.$", id="far"),
        pytest.param(
            "math",
            {"lvl": 2},
            r"^no env\.lvl\. Allowed: env\.split, env\.level, .*\. Did you mean 'level'\?$",
            id="unknown keyword",
        ),
        pytest.param("math", {"splitt": "eval"}, r"Did you mean 'split'\?$", id="nearly a keyword"),
    ],
)
def test_a_typo_is_one_line_with_the_nearest(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnknownName, match=message):
        grpo_envs.make(name, **arguments)


def test_the_allowed_keywords_leave_out_what_the_configuration_has_not() -> None:
    with pytest.raises(UnknownName) as caught:
        grpo_envs.make("math", bogus=1)
    assert "env.render_mode" not in str(caught.value)
    assert grpo_envs.make("math", render_mode="ansi").render_mode == "ansi"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(grpo_envs.make, "math"), id="make"),
        pytest.param(partial(gymnasium.make_vec, "grpo_envs/math-v0", 2), id="make_vec"),
    ],
)
def test_a_renamed_keyword_is_answered_with_its_present_name(make: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(policy={"units": True})
    assert str(caught.value) == "env.policy is now env.grading. Write env.grading=..."


def test_a_renamed_keyword_that_a_subclass_lacks_is_an_unknown_one() -> None:
    with pytest.raises(UnknownName, match=r"^no env\.policy\. Allowed: env\.split, env\.answer, "):
        grpo_envs.make("gsm_symbolic", policy={})


def test_old_and_present_names_of_keywords() -> None:
    class Outer:
        """Passes keywords on to what it wraps."""

        renamed: ClassVar[dict[str, str]] = {"old": "new", "kept": "other"}

        def __init__(self, kept: int = 0, **others: object) -> None:
            """Take them."""

    with pytest.raises(UnknownName, match=r"^env\.old is now env\.new\. Write env\.new=\.\.\.$"):
        check_keywords(Outer, {"old": 1}, "env.")
    check_keywords(Outer, {"kept": 1, "new": 2, "whatever": 3}, "env.")  # `kept` is taken again


def test_an_unknown_agent_is_one_line() -> None:
    with pytest.raises(UnknownName, match=r"^no agent 'grpoo'\. .* Did you mean 'grpo'\?$"):
        load(AGENTS, "grpoo")


def test_a_constructor_that_takes_anything_is_not_second_guessed() -> None:
    def anything(**keywords: object) -> None:
        """Takes every keyword, like an environment that wraps another."""

    check_keywords(anything, {"whatever": 1}, "env.")


class Annotated:
    """Keywords of every kind that is read, and of some that are not."""

    def __init__(
        self,
        size: int,
        *,
        share: float = 0.5,
        name: str | None = None,
        deep: bool = False,
        mode: Literal["fast", "slow"] = "fast",
        either: Optional[int] = None,  # noqa: UP045
        many: list[int] | None = None,
        anything: Any = None,
    ) -> None:
        """Take them."""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({}, "missing: env.size=...", id="missing"),
        pytest.param({"size": 1.5}, "env.size=1.5. Allowed: a whole number.", id="int"),
        pytest.param({"size": True}, "env.size=True. Allowed: a whole number.", id="no int"),
        pytest.param({"size": 1, "share": "x"}, "env.share=x. Allowed: a number.", id="float"),
        pytest.param({"size": 1, "name": 3}, "env.name=3. Allowed: text or null.", id="str"),
        pytest.param({"size": 1, "deep": 1}, "env.deep=1. Allowed: true or false.", id="bool"),
        pytest.param(
            {"size": 1, "either": "a"}, "env.either=a. Allowed: a whole number or null.", id="old"
        ),
        pytest.param(
            {"size": 1, "mode": "fsat"},
            "env.mode=fsat. Allowed: fast, slow. Did you mean 'fast'?",
            id="one of some",
        ),
    ],
)
def test_a_constructors_signature_is_its_schema(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_values(Annotated, given, "env.")
    assert str(caught.value) == said


def test_values_that_a_signature_allows_are_taken() -> None:
    given = {"size": 1, "share": 2, "name": None, "deep": True, "mode": "slow"}
    check_values(Annotated, {**given, "many": ["not", "read"], "anything": object()}, "env.")


def test_what_an_environment_says_of_a_value_comes_before_its_type() -> None:
    with pytest.raises(ConfigError, match=r"^env\.level=two\. Allowed: 1, 2, 3, 4, 5\.$"):
        grpo_envs.make("math", level="two")


# Third-party packages


def test_a_package_with_one_entry_point_works_everywhere(tmp_path: Path) -> None:
    install(tmp_path, "demo_parrot", {"parrot": "demo_parrot:Parrot"})
    seen = python(
        "import grpo_envs, gymnasium\n"
        "loaded_early = 'demo_parrot' in sys.modules\n"
        "env = grpo_envs.make('parrot', split='eval', words=5)\n"
        "made = gymnasium.make('grpo_envs/parrot-v0', split='eval', words=5)\n"
        "vector = gymnasium.make_vec('grpo_envs/parrot-v0', num_envs=4, group_size=2,\n"
        "    vectorization_mode='vector_entry_point', split='eval', words=5)\n"
        "groups = vector.reset(seed=[3, 4])[0]\n"
        "json.dump([loaded_early, env.reset(seed=3)[0], made.reset(seed=3)[0], groups,\n"
        "    env.problem(4).prompt], sys.stdout)",
        tmp_path,
    )
    loaded_early, prompt, made, groups, other = seen
    assert not loaded_early
    assert prompt.startswith("Say eval")
    assert made == prompt
    assert groups == [prompt, prompt, other, other]


def test_a_name_that_two_packages_claim_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "demo_one", {"twice": "demo_one:Parrot"})
    install(tmp_path, "demo_two", {"twice": "demo_two:Parrot"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError) as caught:
        load(ENVS, "twice")
    assert str(caught.value) == (
        "grpo_envs.envs: several packages claim 'twice': demo_one:Parrot, demo_two:Parrot."
    )
    assert "demo_one" not in sys.modules


def test_a_package_that_claims_a_built_in_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "demo_thief", {"math": "demo_thief:Parrot"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"claim 'math': demo_thief:Parrot, grpo_env_math:"):
        grpo_envs.make("math")


def test_a_package_that_was_renamed_is_no_rival_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The old distribution's metadata is still there, and names the same class.
    install(tmp_path, "demo_same", {"same": "demo_same:Parrot"})
    install(tmp_path, "demo_same_old", {"same": "demo_same:Parrot"})
    monkeypatch.syspath_prepend(tmp_path)
    assert load(ENVS, "same").__name__ == "Parrot"


@pytest.mark.parametrize(
    ("package", "value", "source", "cause"),
    [
        pytest.param(
            "demo_raises",
            "demo_raises:Parrot",
            "raise OSError('no licence file')",
            "OSError: no licence file",
            id="its import raises",
        ),
        pytest.param(
            "demo_needs",
            "demo_needs:Parrot",
            "import a_package_that_nobody_has",
            "ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
            id="it needs what is not there",
        ),
        pytest.param(
            "demo_lacks",
            "demo_lacks:Parot",
            SOURCE,
            "AttributeError: ",
            id="it has no such class",
        ),
        pytest.param(
            "demo_gone",
            "demo_gone_too:Parrot",
            SOURCE,
            "ModuleNotFoundError: No module named 'demo_gone_too'",
            id="it is not there",
        ),
    ],
)
def test_a_broken_package_is_named_with_its_cause(
    package: str,
    value: str,
    source: str,
    cause: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(tmp_path, package, {"broken": value}, source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError) as caught:
        load(ENVS, "broken")
    message = str(caught.value)
    assert message.startswith(f"grpo_envs.envs: 'broken' ({value}) cannot be loaded: {cause}")
    assert "\n" not in message


def test_a_broken_package_does_not_break_the_others(tmp_path: Path) -> None:
    install(tmp_path, "demo_bad", {"broken": "demo_bad:Parrot"}, "raise OSError('bad')")
    prompt = python(
        "import grpo_envs\nprint(json.dumps(grpo_envs.make('math').reset(seed=1)[0]))", tmp_path
    )
    assert prompt == grpo_envs.make("math").reset(seed=1)[0]


def test_an_odd_name_does_not_break_the_others(tmp_path: Path) -> None:
    install(tmp_path, "demo_odd", {"two words": "demo_odd:Parrot"})
    prompt = python(
        "import warnings\nwarnings.simplefilter('default')\n"
        "import grpo_envs\nprint(json.dumps(grpo_envs.make('math').reset(seed=1)[0]))",
        tmp_path,
    )
    assert prompt.startswith("What is")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("gymnasium.envs.toy_text.taxi:TaxiEnv", id="another Gymnasium environment"),
        pytest.param(
            "demo_other:NotAClass",
            id="no class at all",
        ),
    ],
)
def test_what_is_no_text_environment_is_refused(value: str, tmp_path: Path) -> None:
    install(tmp_path, "demo_other", {"other": value})
    message = python(
        "import grpo_envs\n"
        "try:\n    grpo_envs.make('other')\n"
        "except grpo_envs.env.plugins.PluginError as error:\n    print(json.dumps(str(error)))",
        tmp_path,
    )
    assert message.startswith("grpo_envs.envs: 'other' is ")
    assert message.endswith(" not a TextEnv.")


def test_a_vector_entry_point_of_no_environment_is_absent() -> None:
    from grpo_envs.env import vector_entry

    assert callable(vector_entry.math)
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = vector_entry.nothing_of_ours
