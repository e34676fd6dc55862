"""Constraints with texts that satisfy them and near misses that do not."""

from typing import Any

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z]", "examples": ["Eve"]},
        "age": {"type": "integer", "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "tree": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/tree"}}, {"const": 1}]}
    },
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
    (
        "starts_with",
        {"phrase": "Dear"},
        ["Dear Fox", " Dear, x", "Dear"],
        ["Dearest", "dear x", "x Dear"],
    ),
    (
        "ends_with",
        {"phrase": "the end"},
        ["at the end", "the end \n"],
        ["the end.", "bathe end", "The end"],
    ),
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
        [
            TABLE + "\n| 5 | 6 |",
            TABLE.replace("4", " "),
            TABLE.replace("|---|---|\n", ""),
            TABLE.replace("b", "c"),
        ],
    ),
    (
        "bullets",
        {"least": 2, "most": 2},
        ["- a\n- b", "* a\n* b"],
        ["- a", "- a\n- ", "-a\n-b", "1. a\n2. b"],
    ),
    ("numbered", {"least": 2, "most": 2}, ["1. a\n2. b"], ["1. a", "- a\n- b", "1 a\n2 b"]),
    (
        "code_block",
        {"language": "python"},
        ["x\n```python\ny\n```"],
        ["```\ny\n```", "```python\n```", "`python`", "```python\ny\n```\n```python\ny\n```"],
    ),
    (
        "highlights",
        {"least": 1, "most": 1},
        ["a *b c* d", "**b**"],
        ["* b *", "*a* *b*", "a", "- a"],
    ),
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
        [
            '{"name": "eve", "age": 3}',
            '{"name": "Eve"}',
            '{"name": "E", "age": -1}',
            '{"name": "E", "age": 1, "x": 1}',
            '{"name": "E", "age": true}',
        ],
    ),
    ("json_schema", {"schema": TREE}, ["1", "[1, [1]]"], ["2", "[1, [2]]"]),
    (
        "json_schema",
        {"schema": {"uniqueItems": True}},
        ["[1, true]"],
        ["[1, 1.0]", '[{"a":1},{"a":1}]'],
    ),
]
