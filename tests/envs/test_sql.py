"""env=sql: clear answers, a database that cannot be changed, queries that cannot hold it up."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest

import grpo_envs
from grpo_env_sql import SqlEnv
from grpo_env_sql.database import Database
from grpo_env_sql.env import SHOWN, Gold
from grpo_env_sql.questions import LEVELS
from grpo_env_sql.tables import THEMES, fill
from grpo_envs import Problem, Turn, write_call
from grpo_envs.errors import ConfigError
from grpo_envs.seeding import rng_for

EVERY_LEVEL = pytest.mark.parametrize("level", LEVELS)


@pytest.fixture
def pets() -> Iterator[Database]:
    rows = [(f"n{i:02}", "cat" if i % 3 else "dog", i) for i in range(40)]
    with closing(Database({"pets": (("name", "kind", "age"), rows)})) as database:
        yield database


def ask(env: SqlEnv, problem: Problem, sql: str) -> str:
    call = write_call("query", {"sql": sql})
    (reply,) = env.reply_batch([problem], [[Turn(action=call)]])
    assert reply.reward.valid, reply.reward.error
    assert not reply.done
    return reply.observation


# Questions


@EVERY_LEVEL
def test_every_level_keeps_every_promise(level: int) -> None:
    grpo_envs.check_env(SqlEnv(level=level), problems=10)


@EVERY_LEVEL
def test_the_demonstration_earns_the_maximum_and_closes_its_database(level: int) -> None:
    env = SqlEnv(level=level)
    for seed in range(40):
        problem = env.problem(seed)
        turns: list[Turn] = []
        for _ in range(2):
            action = env.demonstrate(problem, turns)
            (reply,) = env.reply_batch([problem], [[*turns, Turn(action=action)]])
            turns.append(Turn(action=action, observation=reply.observation))
        assert reply.reward.total == pytest.approx(env.reward_range[1])
        assert turns[1].action == problem.solution


@pytest.mark.parametrize(
    ("level", "number"), [(level, i) for level in LEVELS for i in range(len(LEVELS[level]))]
)
def test_a_question_is_answered_by_counting_in_python(level: int, number: int) -> None:
    """Each query against a count over the rows in plain Python, on five databases."""
    checked = 0
    for seed in range(5):
        theme, rng = THEMES[seed], rng_for("question", level, number, seed)
        question = LEVELS[level][number](theme, rng)
        with closing(fill(theme, seed)) as database:
            found = database.rows(question.sql, 50)
            things = database.rows(f"SELECT * FROM {theme.table}", 99)
            people = database.rows(f"SELECT * FROM {theme.people}", 99)
        expected = by_hand(question.text, things, dict(people))
        assert sorted(str(row[0]) for row in found) == sorted(map(str, expected)), question
        checked += bool(found)
    assert checked


def by_hand(text: str, things: list[Any], place: dict[str, str]) -> list[Any]:  # noqa: C901
    """The answers, from the words of the question and the rows."""
    words = text.replace("?", "").replace(".", "").replace(",", "").split()
    kinds = {kind for theme in THEMES for kind in theme.kinds}
    places = {each for theme in THEMES for each in theme.places}
    asked_kinds = kinds & {*words[3:]}
    rows = [r for r in things if not asked_kinds or r[1] in asked_kinds]
    if "whose" in words and (where := places & {*words}):
        rows = [r for r in rows if place[r[3]] in where]
    numbers = [int(word) for word in words if word.isdigit()]
    if "above the mean" in text:
        column = {True: 1, False: 3}.get(any(t.kind == words[-1] for t in THEMES))
        alike = (lambda r: None) if words[-1] == "all" else (lambda r: r[column])

        def mean(r: Any) -> float:
            own = [x[2] for x in things if alike(x) == alike(r)]
            return float(sum(own) / len(own))

        return [sum(r[2] > mean(r) for r in things)]
    if "at least" in text:
        column = 1 if "different" in text else 3
        sizes = [sum(x[column] == value for x in things) for value in {r[column] for r in things}]
        return [sum(size >= numbers[0] for size in sizes)]
    if "none of the" in text:
        return [sum(not any(r[3] == name for r in rows) for name in place)]
    if "second largest" in text or "third largest" in text:
        wanted = 2 if "second" in text else 3
        return [r[0] for r in rows if 1 + sum(x[2] > r[2] for x in rows) == wanted]
    if "follow each other" in text:
        ordered = sorted(r[2] for r in rows)
        return [max((b - a for a, b in pairwise(ordered)), default=None)]
    if text.startswith("Which") and "separated by commas" not in text:
        columns: dict[str, Callable[[Any], Any]] = {
            **{t.kind: lambda r: r[1] for t in THEMES},
            **{t.person: lambda r: r[3] for t in THEMES},
            **{t.place: lambda r: place[r[3]] for t in THEMES},
        }
        values = [columns[words[1]](row) for row in things]
        most = max(map(values.count, values))
        return [value for value in {*values} if values.count(value) == most]
    if text.startswith("Which"):
        return [r[0] for r in rows]
    if "above" in words:
        rows = [r for r in rows if r[2] > numbers[0]]
    if "below" in words:
        rows = [r for r in rows if r[2] < numbers[0]]
    if text.startswith("How many"):
        return [len(rows)]
    how: dict[str, Callable[[Any], Any]] = {"largest": max, "smallest": min, "total": sum}
    return [how[words[3]]([r[2] for r in rows])] if rows else [None]


def test_the_query_is_hidden_and_the_rows_are_not_shown() -> None:
    env = SqlEnv(level=3)
    prompt, about = env.reset(seed=0)
    problem = env.problem(0)
    assert isinstance(problem.gold, Gold)
    assert "SELECT" not in prompt + repr(about["meta"]) + env.system_prompt
    assert about["tools"][0]["function"]["parameters"]["required"] == ["sql"]


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("7", "7", True),
        ("7", " +7.", False),
        ("7", "07", True),
        ("1200", "1,200", True),
        ("7", "7 8", False),
        ("7", "7, 8", False),
        ("Toda", "toda", True),
        ("Toda", "'Toda'", True),
        ("Noda, Toda", "Toda,Noda", True),
        ("Noda, Toda", "Noda", False),
        ("Noda, Toda", "Noda, Toda, Toda", False),
        ("Toda", "", False),
    ],
)
def test_what_an_answer_is_compared_with(gold: str, text: str, right: bool) -> None:
    problem = Problem(prompt="", gold=Gold(gold, ""), solution="")
    reward = SqlEnv().score(problem, f"<answer>{text}</answer>")
    assert reward.parts["correct"] == right


# The tool


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("SELECT count(*) FROM pets WHERE kind='dog'", "14"),
        ("SELECT name, age FROM pets WHERE age < 2 ORDER BY 2 DESC", "n01 | 1\nn00 | 0"),
        ("SELECT NULL, 1.5", "NULL | 1.5"),
        ("SELECT 1 WHERE 0", "no rows"),
        ("SELECT age FROM pets", "\n".join(map(str, range(SHOWN))) + "\n..."),
        ("SELECT agee FROM pets", "error: no such column: agee"),
        ("SELEC 1", 'error: near "SELEC": syntax error'),
        ("", "error: that is no query"),
    ],
)
def test_what_a_query_shows(sql: str, result: str, pets: Database) -> None:
    class Pets(SqlEnv):
        def session(self, problem: Problem) -> Iterator[Database]:
            yield pets

    env = Pets()
    assert ask(env, env.problem(0), sql) == result


LONG = "a" * 200
COPIES = f"WITH RECURSIVE c(x) AS (VALUES ('{LONG}') UNION ALL SELECT x FROM c)"
FORBIDDEN = [
    *("DROP TABLE pets", "DELETE FROM pets", "INSERT INTO pets VALUES (1, 2, 3)"),
    *("UPDATE pets SET age = 0", "CREATE TABLE x(y)", "CREATE TEMP TABLE x(y)"),
    *("ATTACH ':memory:' AS x", "ATTACH '/tmp/x.db' AS x", "VACUUM INTO '/tmp/x.db'"),
    *(
        "PRAGMA query_only = 0",
        "PRAGMA table_info(pets)",
        "SELECT * FROM pragma_table_info('pets')",
    ),
    *(
        "SELECT load_extension('x')",
        "SELECT random()",
        "SELECT randomblob(8)",
        "BEGIN",
        "SAVEPOINT x",
    ),
    *("SELECT date('now')", "SELECT CURRENT_TIMESTAMP", "SELECT readfile('/etc/passwd')"),
    *("SELECT 1; DROP TABLE pets", "SELECT writefile('/tmp/x', 'x')", "ANALYZE", "VACUUM"),
]
ENDLESS = [
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c",
    f"{COPIES} SELECT 1 FROM c ORDER BY x",
    "SELECT count(*) FROM pets a, pets b, pets c, pets d, pets e",
    "SELECT group_concat(a.name) FROM pets a, pets b, pets c, pets d",
    "SELECT 1 FROM pets a, pets b, pets c, pets d ORDER BY a.age + b.age + c.age",
    "SELECT sum(a.age) OVER (ORDER BY a.age + b.age) FROM pets a, pets b, pets c",
    f"SELECT count(instr('{LONG}', a.name)) FROM pets a, pets b, pets c, pets d",
]
TOO_LARGE = [
    *("SELECT zeroblob(1000000000)", "SELECT printf('%1000000000d', 1)"),
    *("SELECT format('%.*c', 2000000000, 'x')", f"SELECT replace('{LONG}', 'a', '{LONG}')"),
    *(f"SELECT '{'x' * 600}'", "SELECT " + "x" * 9000, "SELECT " + "+".join("1" * 900)),
    *("SELECT " + "(" * 300 + "1" + ")" * 300, "SELECT min(" + "age," * 100 + "age) FROM pets"),
    *("SELECT 'a\x00b'", "SELECT '\ud83d'", "SELECT ?", "SELECT :a"),
]
QUICK = [
    *(f"SELECT '{LONG}' LIKE '{'%a' * 45}b'", f"SELECT '{LONG}' GLOB '{'*a' * 45}b'"),
    "SELECT 1 FROM " + ", ".join(f"pets a{i}" for i in range(60)),
    "EXPLAIN SELECT 1",
    "SELECT * FROM sqlite_master",
    "SELECT round(1.5, 2000000000), pow(1e300, 1e300), 1/0, cast(x'ff' AS text)",
]


@pytest.mark.parametrize("sql", [*FORBIDDEN, *ENDLESS, *TOO_LARGE], ids=lambda s: ascii(s[:40]))
def test_a_hostile_query_is_an_error_and_changes_nothing(sql: str, pets: Database) -> None:
    begin = time.process_time()
    with pytest.raises(ValueError, match=r".") as caught:
        pets.rows(sql, 21)
    assert time.process_time() - begin < 1
    assert ("takes too long" in str(caught.value)) == (sql in ENDLESS)
    assert pets.rows("SELECT count(*), sum(age) FROM pets", 5) == [(40, 780)]


@pytest.mark.parametrize("sql", QUICK, ids=lambda s: ascii(s[:40]))
def test_an_odd_query_ends_at_once(sql: str, pets: Database) -> None:
    begin = time.process_time()
    pets.rows(sql, 21)
    assert time.process_time() - begin < 1


def test_a_step_that_lasts_is_ended_by_the_clock(
    pets: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_env_sql.database._MOST", 10**9)
    monkeypatch.setattr("grpo_env_sql.database._MOST_S", 0.05)
    with pytest.raises(ValueError, match="takes too long"):
        pets.rows(ENDLESS[0], 1)


def test_what_is_allowed_is_known_to_this_sqlite(pets: Database) -> None:
    with closing(sqlite3.connect(":memory:")) as plain:
        known = {row[0] for row in plain.execute("SELECT name FROM pragma_function_list")}
    assert {"count", "substr", "lag", "group_concat", "round"} <= known
    assert pets.rows("SELECT substr(name, 1, 1), round(age / 3.0, 1) FROM pets LIMIT 1", 1)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 4}, "env.level=4. Allowed: 1, 2, 3."),
        ({"turns": 0}, "env.turns=0. Allowed: 1 to 100."),
        ({"levl": 1}, "no env.levl. Allowed: env.split, env.level, env.turns, env.tool_limits, "),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("sql", **arguments)
    assert str(caught.value).startswith(message)
