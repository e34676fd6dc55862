"""Each constraint by a table of texts that satisfy it and near misses; hostile texts for all."""

import json
import time
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_envs.errors import ConfigError
from grpo_envs.graders.format import CONSTRAINTS, constraint_from, constraints_from
from tests.support.format_cases import CASES

EVERY = pytest.mark.parametrize(
    ("name", "options", "right", "wrong"),
    CASES,
    ids=[f"{name}-{number}" for number, (name, *_) in enumerate(CASES)],
)
HOSTILE = {
    "nothing": "",
    "NUL": "\0",
    "lone surrogates": "\ud83d a \udc00",
    "surrogate in JSON": '{"name":"\\ud800","age":5}',
    "a megabyte": "a " * 500_000,
    "words": "a b " * 12_400,
    "brackets": "[" * 49_000,
    "objects": '{"a":' * 9_000,
    "numbers in JSON": f"[{','.join(['1'] * 20_000)}]",
    "huge number": "9" * 49_000,
    "quotations": "> " * 24_000,
    "nested list": "- " * 24_000,
    "list": "- a\n" * 12_000,
    "headings": "# A\nb\n" * 8_000,
    "asterisks": "*a " * 16_000,
    "fences": "```\n" * 12_000,
    "table": "|" + "a|" * 12_000 + "\n|" + "-|" * 12_000,
    "open tags": "<a>" * 16_000,
    "titles": "<<a" * 16_000,
    "explicit keys": "? " * 24_000,
    "YAML object": "!!python/object/apply:os.system [x]",
    "marks": "e" + "\u0301" * 49_000,
    "folds wide": "\u0130\u00df" * 24_000,
    "line ends": "\u2028\x1c\x85a\r" * 10_000,
    "encoding": "<?xml version='1.0' encoding='utf-16'?><a/>",
    "catastrophic": "a" * 40_000 + "!",
    "billion laughs": "<!DOCTYPE r ["
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "ha"}">' for n in range(10))
    + "]><r><a>&a9;</a></r>",
    "billion aliases": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
}


@EVERY
def test_what_satisfies_it_and_what_does_not(
    name: str, options: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    constraint = constraint_from({"name": name, **options})
    assert {text: constraint.check(text) for text in right} == dict.fromkeys(right, 1.0)
    assert {text: constraint.check(text) for text in wrong} == dict.fromkeys(wrong, 0.0)


def test_every_constraint_is_in_the_table() -> None:
    assert {name for name, *_ in CASES} == {*CONSTRAINTS}
    assert len(CONSTRAINTS) >= 20


@EVERY
def test_nothing_and_its_own_instruction_satisfy_none(
    name: str, options: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    constraint = constraint_from({"name": name, **options})
    assert [constraint.check(blank) for blank in ("", " \n\t", "\u3000")] == [0, 0, 0]
    assert constraint.instruction == constraint.instruction.strip(" ,.") != ""


@EVERY
def test_hostile_texts_neither_raise_nor_hang(
    name: str, options: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    constraint = constraint_from({"name": name, **options})
    for what, text in HOSTILE.items():
        start = time.process_time()
        value = constraint.check(text)
        assert time.process_time() - start < 1, what
        assert type(value) is float
        assert 0 <= value <= 1
        if len(text) < 1000:
            assert value == constraint.check(text)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_has_a_value(text: str) -> None:
    for name, options, _, _ in CASES:
        assert 0 <= constraint_from({"name": name, **options}).check(text) <= 1


@pytest.mark.parametrize("keyword", ["pattern", "patternProperties", "unevaluatedProperties"])
def test_a_catastrophic_pattern_takes_linear_time(keyword: str) -> None:
    """Python's own engine would take 2^40 steps."""
    evil = "^(a+)+$"
    below: dict[str, Any] = {} if keyword == "pattern" else {evil: {"type": "null"}}
    schema: dict[str, Any] = {"patternProperties": below} if below else {"items": {"pattern": evil}}
    if keyword == "unevaluatedProperties":
        schema[keyword] = True
    text = "a" * 40_000 + "!"
    start = time.process_time()
    assert constraint_from({"name": "regex", "pattern": evil}).check(text) == 0
    bad = json.dumps({text: 1} if below else [text])
    assert constraint_from({"name": "json_schema", "schema": schema}).check(bad) == float(
        bool(below)
    )
    assert time.process_time() - start < 1


def test_bombs_satisfy_nothing() -> None:
    xml = constraint_from({"name": "xml"})
    assert xml.check(HOSTILE["billion laughs"]) == 0
    assert xml.check('<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><r>&a;</r>') == 0
    yaml = constraint_from({"name": "yaml"})
    assert yaml.check(HOSTILE["billion aliases"]) == 0
    assert yaml.check("a: &x [1]\nb: *x") == 0
    json_text = constraint_from({"name": "json", "type": "any"})
    assert (json_text.check("[" * 50 + "]" * 50), json_text.check("[" * 51 + "]" * 51)) == (1, 0)
    assert json_text.check('"' + "[" * 60 + '"') == 1  # within a text they are no nesting


@pytest.mark.parametrize(
    ("words", "value"), [(0, 0), (1, 0), (2, 0.25), (4, 0.75), (5, 1), (7, 1), (8, 0.75), (11, 0)]
)
def test_a_length_falls_off_by_its_slope(words: int, value: float) -> None:
    constraint = constraint_from({"name": "length", "least": 5, "most": 7, "slope": 3})
    assert constraint.check(" ".join(["a"] * words)) == value


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": "wrods", "least": 1}, "constraint name=wrods. Allowed: *Did you mean 'words'?"),
        (
            {"name": "words", "leats": 1},
            "no option of words 'leats'. Allowed: least, most. *'least'?",
        ),
        ({"name": "starts_with"}, "starts_with needs the option 'phrase'. Allowed: phrase."),
        ({"name": "words"}, "words.least=None. Allowed: least or most is needed."),
        ({"name": "words", "least": "3"}, "words.least=3. Allowed: a whole number, 0 to 50000."),
        ({"name": "words", "least": 5, "most": 3}, "words.least=5. Allowed: at most words.most=3."),
        ({"name": "case", "case": "uper"}, "case.case=uper. Allowed: *Did you mean 'upper'?"),
        ({"name": "contains", "phrases": "fox"}, "contains.phrases='fox'. Allowed: a list*"),
        ({"name": "regex", "pattern": "(a"}, "regex.pattern='(a' is not a pattern of RE2: *"),
        ({"name": "regex", "pattern": r"(a)\1"}, "regex.pattern=* is not a pattern of RE2: *"),
        ({"name": "regex", "pattern": "a+", "example": "b"}, "regex.example='b'. Allowed: *"),
        (
            {"name": "json_schema", "schema": {"type": "objct"}},
            "json_schema.schema is not a JSON Schema*",
        ),
        (
            {"name": "json_schema", "schema": {"$ref": "https://x.org/s"}},
            "*$ref=https://x.org/s. Allowed*",
        ),
        (
            {"name": "json_schema", "schema": {"$ref": "#"}},
            "*cannot be followed: its references never*",
        ),
        ({"name": "json_schema", "schema": {"$ref": "#/$defs/a"}}, "*cannot be followed: *"),
        (
            {"name": "json_schema", "schema": {"properties": {"a": {"$ref": "#/$defs/a"}}}},
            "*cannot be followed: $ref=#/$defs/a leads to nothing in it.",
        ),
        (
            {"name": "json_schema", "schema": {"x": {"pattern": "(?=a)"}, "not": {"$ref": "#/x"}}},
            "*pattern='(?=a)' is not a pattern of RE2*no lookaround*",
        ),
        (
            {"name": "json_schema", "schema": {"pattern": r"\p{Alphabetic}"}},
            "*is not a pattern of RE2: *only categories (\\p{L}) and scripts.",
        ),
        (
            {"name": "json_schema", "schema": {"pattern": "(?=a)"}},
            "*pattern='(?=a)' is not a pattern*",
        ),
        ({"name": "tags", "tags": ["a b"]}, "tags.tags='a b'. Allowed: names."),
        ({"name": "language", "language": "xx"}, "language.language=xx. Allowed: en, de, fr*"),
        ({"name": "postscript", "marker": "PS"}, "postscript.marker=PS. Allowed: P.S., P.P.S.*"),
        ({"name": "first_word", "word": "a b"}, "first_word.word='a b'. Allowed: single words."),
        (
            {"name": "first_word", "word": "a", "paragraph": 3, "paragraphs": 2},
            "first_word.paragraphs=2. Allowed: a whole number, 3 to 1000.",
        ),
        (
            {"name": "first_word", "word": "a", "paragraph": 0},
            "first_word.paragraph=0. Allowed: a whole number, 1 to 1000.",
        ),
        (
            {"name": "repeat_prompt", "prompt": "?"},
            "repeat_prompt.prompt='?'. Allowed: a text with a word.",
        ),
        (
            {"name": "avoids_phrases", "phrases": ["..."]},
            "avoids_phrases.phrases='...'. Allowed: phrases with a word.",
        ),
        ({"name": "avoids", "words": ["and/or"]}, "avoids.words='and/or'. Allowed: single words."),
        ("words", "constraint='words'. Allowed: {name: ..., <option>: ...}."),
    ],
)
def test_a_wrong_declaration_is_told_in_one_line(declared: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        constraint_from(declared)
    text = str(error.value)
    assert "\n" not in text
    pattern = message.replace("[", "[[]").replace("?", "[?]")
    assert fnmatchcase(text, pattern), text


@pytest.mark.parametrize("listed", [[], "words", None, {"name": "words"}, 3])
def test_constraints_are_a_list(listed: Any) -> None:
    with pytest.raises(ConfigError, match=r"constraints=.*a list of \{name"):
        constraints_from(listed)
