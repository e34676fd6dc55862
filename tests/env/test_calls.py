"""Tool calls as text: what is written is read back, what is not a call says why."""

import pytest

from grpo_envs.env.calls import read_calls, write_call
from grpo_envs.types import Call


@pytest.mark.parametrize("arguments", [{}, {"x": 1.5, "é": ["</b>", None]}, {"deep": {"a": [{}]}}])
def test_what_is_written_is_read_back(arguments: dict[str, object]) -> None:
    action = f"first {write_call('f', arguments)}{write_call('g', {})} then"

    assert read_calls(action) == (
        "first  then",
        [Call(name="f", arguments=arguments), Call(name="g")],
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("price(tea)", "not JSON"),
        ("[1]", 'a call is {"name"'),
        ('{"arguments": {}}', 'a call is {"name"'),
        ('{"name": "price", "arguments": "tea"}', "arguments is not an object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_call_says_why(body: str, why: str) -> None:
    text, calls = read_calls(f"<tool_call>{body}</tool_call>")

    assert text == ""
    assert [why in call.error for call in calls] == [True]
    assert calls[0].arguments == {}
