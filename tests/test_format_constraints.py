"""Each constraint by a table of texts that satisfy it and near misses; hostile texts for them all."""

import json
import time
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_envs.errors import ConfigError
from grpo_envs.graders.format import CONSTRAINTS, constraint_from, constraints_from

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z]"},
        "age": {"type": "integer", "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {"tree": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/tree"}}, {"const": 1}]}},
    "$ref": "#/$defs/tree",
}
TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
# name, options, texts that satisfy it, texts that do not
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("words", {"least": 2, "most": 3}, ["a b", "it's - ok, (yes)"], ["a", "a b c d", "- a -"]),
    ("letters", {"least": 3, "most": 3}, ["a 1 bc!", "äöü"], ["ab1", "abcd"]),
    ("items", {"least": 2, "most": 2}, ["a, b", "a b,c"], ["a b", "a,", "a,b,c", "a,,b"]),
    (
        "frequency",
        {"word": "fox", "least": 2, "most": 2},
        ["fox, Fox!"],
        ["fox foxes", "fox", "fox fox fox"],
    ),
    (
        "sum",
        {"total": 10, "least": 2, "most": 3},
        ["4 6", "1, 2, 7"],
        ["10", "4 5", "4+6", "-1 11", "0 10", "2 2 2 4", "4 6 apples", "4.0 6"],
    ),
    ("characters", {"least": 3, "most": 4}, ["abc", " a bc "], ["ab", "abcde"]),
    (
        "sentences",
        {"least": 2, "most": 2},
        ["I am. You are", 'It is 3.5 m. "Really?"'],
        ["I am 3.5", "A. B. C."],
    ),
    ("paragraphs", {"least": 2, "most": 2}, ["a\nb\n\n \nc"], ["a\nb", "a\n\nb\n\nc"]),
    ("lines", {"least": 2, "most": 2}, ["a\n\nb\n"], ["a", "a\nb\nc"]),
    ("letter_frequency", {"letter": "q", "least": 2, "most": 2}, ["Q quiet"], ["q", "qqq"]),
    ("capital_words", {"least": 1, "most": 1}, ["a FOX", "x 'A1'"], ["a Fox", "A FOX", "1 2"]),
    ("sentence_words", {"least": 2, "most": 3}, ["A b. C d e."], ["A b. C.", "A b. C d e f."]),
    ("length", {"least": 2, "most": 3}, ["a b", "a b c"], ["a", "a b c d"]),
    ("contains", {"phrases": ["a fox", "sea"]}, ["seas, a fox"], ["a  fox sea", "A fox, sea"]),
    ("avoids", {"words": ["fox"]}, ["foxes", "a sea"], ["Fox!", "a fox"]),
    ("without", {"characters": "e,"}, ["a b"], ["E", "a, b", "!"]),
    ("distinct", {"least": 2}, ["a b"], ["a", "a A", "a b a"]),
    ("case", {"case": "upper"}, ["A 1!"], ["Aa", "1"]),
    ("case", {"case": "lower"}, ["a 1!"], ["aA", "1"]),
    ("case", {"case": "title"}, ["The Fox", "3 Foxes"], ["The fox", "THE FOX", "3"]),
    ("case", {"case": "sentence"}, ["A fox. It is."], ["A fox. it is.", "a fox"]),
    ("script", {"script": "greek"}, ["ήλιος 3!"], ["ήλιοs", "3", "sun"]),
    ("script", {"script": "latin"}, ["sun é"], ["sun я"]),
    ("script", {"script": "japanese"}, ["光 パン ー"], ["光 빛"]),
    ("one_of", {"options": ["yes", "no"]}, [" yes\n"], ["Yes", "yes no", "yes."]),
    ("quoted", {}, ['"a b"'], ['"a', 'a "b"', '"a" "b"', '""', '"."']),
    ("starts_with", {"phrase": "Dear"}, ["Dear Fox", " Dear, x", "Dear"], ["Dearest", "dear x", "x Dear"]),
    ("ends_with", {"phrase": "the end"}, ["at the end", "the end \n"], ["the end.", "bathe end", "The end"]),
    ("sequence", {"words": ["a", "b"]}, ["a, B"], ["b a", "a b c", "a"]),
    ("sequence", {"words": ["a", "b"], "reverse": True}, ["b a"], ["a b"]),
    ("alphabetical", {"words": ["sea", "fox", "cup"]}, ["cup fox sea"], ["cup sea fox", "cup fox"]),
    (
        "sections",
        {"headings": ["A", "B"]},
        ["# A\nx\n## B\ny", "A\n===\nx\n\n# B\ny"],
        ["# B\nx\n# A\ny", "# A\n# B\ny", "# A\nx", "#A\nx\n#B\ny", "# A\nx\n# B\ny\n# C\nz"],
    ),
    (
        "table",
        {"columns": ["a", "b"], "least": 2, "most": 2},
        [TABLE],
        [TABLE + "\n| 5 | 6 |", TABLE.replace("4", " "), TABLE.replace("|---|---|\n", ""), TABLE.replace("b", "c")],
    ),
    ("bullets", {"least": 2, "most": 2}, ["- a\n- b", "* a\n* b"], ["- a", "- a\n- ", "-a\n-b", "1. a\n2. b"]),
    ("numbered", {"least": 2, "most": 2}, ["1. a\n2. b"], ["1. a", "- a\n- b", "1 a\n2 b"]),
    (
        "code_block",
        {"language": "python"},
        ["x\n```python\ny\n```"],
        ["```\ny\n```", "```python\n```", "`python`", "```python\ny\n```\n```python\ny\n```"],
    ),
    ("highlights", {"least": 1, "most": 1}, ["a *b c* d", "**b**"], ["* b *", "*a* *b*", "a", "- a"]),
    ("placeholders", {"least": 1, "most": 1}, ["Dear [name]"], ["[]", "[a] [b]", "[a"]),
    ("title", {}, ["<<A fox>>\nIt is."], ["<<A fox>>", "<<>> x", "<A fox> x"]),
    ("postscript", {}, ["a\n\nP.S. b"], ["P.S. b", "a P.S. b", "a\n\nP.S.", "a\n\nP.S. b\n\nc"]),
    ("parts", {"least": 2, "most": 2}, ["a\n***\nb"], ["a *** b", "a\n***\n", "a\n***\nb\n***\nc"]),
    (
        "tags",
        {"tags": ["think", "answer"]},
        ["<think>a</think> <answer>b</answer>"],
        [
            "<answer>b</answer><think>a</think>",
            "<think>a</think><answer>b</answer>.",
            "<think>a</think><answer> </answer>",
            "<think>a</think><answer>b</answer><answer>b</answer>",
            "<think>a<answer>b</answer></think>",
            "<think>a</think><answer>b",
        ],
    ),
    ("regex", {"pattern": "(a+)+b"}, ["aab", " ab\n"], ["aaa", "aabb", "xab"]),
    (
        "xml",
        {"root": "r", "elements": ["a"]},
        ["<r><a/></r>", "<r><b><a>x</a></b></r>"],
        ["<r/>", "<a><r/></a>", "<r><a></r>", "<r><a/></r>x", "<!DOCTYPE r><r><a/></r>"],
    ),
    (
        "yaml",
        {"keys": ["a", "b"]},
        ["a: 1\nb: [x]", "{a: 1, b: 2}"],
        ["a: 1", "- a\n- b", "a: 1\nb: *x", "a: 1\na: 2\nb: 3", "a: [1\nb: 2", "a: 1\n---\nb: 2"],
    ),
    ("yaml", {}, ["- a", "a: 1"], ["a", "{a: 1", "a: 1\n---\nb: 2"]),
    ("json", {}, ['{"a": 1}'], ["[1]", "{'a': 1}", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": 1}.']),
    ("json", {"type": "array"}, ["[1]"], ['{"a": 1}', "[1,]"]),
    ("json", {"type": "any"}, ["3", "null"], ["yes"]),
    ("json_keys", {"keys": ["a"]}, ['{"a": null}'], ['{"b": 1}', '{"a": 1, "b": 2}', '["a"]']),
    (
        "json_schema",
        {"schema": PERSON},
        ['{"name": "Eve", "age": 3}', '{"age": 3.0, "name": "E"}'],
        ['{"name": "eve", "age": 3}', '{"name": "Eve"}', '{"name": "E", "age": -1}']
        + ['{"name": "E", "age": 1, "x": 1}', '{"name": "E", "age": true}'],
    ),
    ("json_schema", {"schema": TREE}, ["1", "[1, [1]]"], ["2", "[1, [2]]"]),
    ("json_schema", {"schema": {"uniqueItems": True}}, ["[1, true]"], ["[1, 1.0]", '[{"a":1},{"a":1}]']),
]  # fmt: skip
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
        assert value == constraint.check(text)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_has_a_value(text: str) -> None:
    for name, options, _, _ in CASES:
        assert 0 <= constraint_from({"name": name, **options}).check(text) <= 1


@pytest.mark.parametrize("keyword", ["pattern", "patternProperties"])
def test_a_catastrophic_pattern_takes_linear_time(keyword: str) -> None:
    """Python's own engine would take 2^40 steps."""
    evil = "^(a+)+$"
    below: dict[str, Any] = {evil: {"type": "null"}} if keyword == "patternProperties" else {}
    schema = {"patternProperties": below} if below else {"items": {"pattern": evil}}
    text = "a" * 40_000 + "!"
    start = time.process_time()
    assert constraint_from({"name": "regex", "pattern": evil}).check(text) == 0
    bad = json.dumps({text: 1} if below else [text])
    assert constraint_from({"name": "json_schema", "schema": schema}).check(bad) == float(bool(below))
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
        ({"name": "words", "leats": 1}, "no option of words 'leats'. Allowed: least, most. *'least'?"),
        ({"name": "starts_with"}, "starts_with needs the option 'phrase'. Allowed: phrase."),
        ({"name": "words"}, "words.least=None. Allowed: least or most is needed."),
        ({"name": "words", "least": "3"}, "words.least=3. Allowed: a whole number, 0 to 50000."),
        ({"name": "words", "least": 5, "most": 3}, "words.least=5. Allowed: at most words.most=3."),
        ({"name": "case", "case": "uper"}, "case.case=uper. Allowed: *Did you mean 'upper'?"),
        ({"name": "contains", "phrases": "fox"}, "contains.phrases='fox'. Allowed: a list*"),
        ({"name": "regex", "pattern": "(a"}, "regex.pattern='(a' is no pattern of RE2: *"),
        ({"name": "regex", "pattern": r"(a)\1"}, "regex.pattern=* is no pattern of RE2: *"),
        ({"name": "regex", "pattern": "a+", "example": "b"}, "regex.example='b'. Allowed: *"),
        ({"name": "json_schema", "schema": {"type": "objct"}}, "json_schema.schema is no JSON Schema*"),
        ({"name": "json_schema", "schema": {"$ref": "https://x.org/s"}}, "*$ref=https://x.org/s. Allowed*"),
        ({"name": "json_schema", "schema": {"$ref": "#"}}, "*cannot be followed: its references never*"),
        ({"name": "json_schema", "schema": {"$ref": "#/$defs/a"}}, "*cannot be followed: *"),
        ({"name": "json_schema", "schema": {"pattern": "(?=a)"}}, "*pattern='(?=a)' is no pattern*"),
        ({"name": "tags", "tags": ["a b"]}, "tags.tags='a b'. Allowed: names."),
        ("words", "constraint='words'. Allowed: {name: ..., <option>: ...}."),
    ],
)  # fmt: skip
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
