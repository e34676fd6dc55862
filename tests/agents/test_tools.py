"""Tools on the model's side: calls in each form, malformed ones, results, and what is refused."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_envs.env.calls import read_calls, write_call
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Call, Completion
from grpo_policy.chat import Chat
from grpo_policy.models import TINY
from grpo_policy.rollout import Rollout
from grpo_policy.room import Room
from grpo_policy.samplers import Decoding
from grpo_policy.tools.forms import FORMS, Form
from grpo_policy.tools.readers import typed
from grpo_policy.tools.use import ToolUse
from tests.support.scripted import Scripted
from tests.support.tool_templates import CALLS, ORDER, answer_of, chat_of, row_of, templates

TOOLS = [ORDER.schema]
BY_NAME = {form.name: form for form in FORMS}
BUNDLED = (TINY / "chat_template.jinja").read_text(encoding="utf-8")
PAGE = (Path(__file__).parents[2] / "docs" / "tool_templates.md").read_text(encoding="utf-8")
WITHOUT_TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHOWS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}" + WITHOUT_TOOLS


def canonical(form: Form, answer: str) -> str:
    return ToolUse(None, form).canonical(answer, TOOLS)


# --- what a model writes, and what the environment is given

TEA = Call(name="order", arguments={"article": "tea", "code": "075", "count": 2})
WRITTEN = {
    "JSON in <tool_call>": '<tool_call>\n{"name": "order", "arguments": '
    '{"article": "tea", "code": "075", "count": 2}}\n</tool_call>',
    "XML: <function=...>": "<tool_call>\n<function=order>\n<parameter=article>\ntea\n</parameter>\n"
    "<parameter=code>\n075\n</parameter>\n<parameter=count>\n2\n</parameter>\n</function>\n"
    "</tool_call>",
    "XML: <arg_key>": "<tool_call>order\n<arg_key>article</arg_key>\n<arg_value>tea</arg_value>\n"
    "<arg_key>code</arg_key>\n<arg_value>075</arg_value>\n<arg_key>count</arg_key>\n"
    "<arg_value>2</arg_value>\n</tool_call>",
    "XML: <invoke name=...>": '<x:function_calls>\n<x:invoke name="order">\n'
    '<x:parameter name="article">tea</x:parameter>\n<x:parameter name="code">075</x:parameter>\n'
    '<x:parameter name="count">2</x:parameter>\n</x:invoke>\n</x:function_calls>',
    "<|tool_call>call:": '<|tool_call>call:order{article:<|"|>tea<|"|>,code:<|"|>075<|"|>,count:2}'
    "<tool_call|>",
    "to=functions.": "<|channel|>commentary to=functions.order <|constrain|>json<|message|>"
    '{"article": "tea", "code": "075", "count": 2}',
    "Python in <|tool_call_start|>": "<|tool_call_start|>"
    "[order(article='tea', code=\"075\", count=2)]<|tool_call_end|>",
    "<｜tool▁call▁begin｜>": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
    '<｜tool▁sep｜>order\n```json\n{"article": "tea", "code": "075", "count": 2}\n```'
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "[TOOL_CALLS]": '[TOOL_CALLS][{"name": "order", "arguments": '
    '{"article": "tea", "code": "075", "count": 2}, "id": "abcdefghi"}]',
    "bare JSON": '{"name": "order", "parameters": {"article": "tea", "code": "075", "count": 2}}',
}
OTHERWISE = {
    "XML: <function=...>": "<function=order><parameter=article>tea</parameter>"
    "<parameter=code>075</parameter><parameter=count>2</parameter></function>",
    "XML: <arg_key>": "<tool_call>order<arg_key>article</arg_key><arg_value>tea</arg_value>"
    "<arg_key>code</arg_key><arg_value>075</arg_value><arg_key>count</arg_key>"
    "<arg_value>2</arg_value></tool_call>",
    "to=functions.": " to=functions.order<|channel|>commentary json<|message|>"
    '{"article": "tea", "code": "075", "count": 2}<|call|>',
    "<｜tool▁call▁begin｜>": "<｜tool▁call▁begin｜>order<｜tool▁sep｜>"
    '{"article": "tea", "code": "075", "count": 2}<｜tool▁call▁end｜>',
    "[TOOL_CALLS]": '[TOOL_CALLS]order[ARGS]{"article": "tea", "code": "075", "count": 2}',
    "bare JSON": '<|python_tag|>{"name": "order", "arguments": '
    '{"article": "tea", "code": "075", "count": 2}}',
}
CASES = [*WRITTEN.items(), *OTHERWISE.items()]


def test_there_is_an_example_of_each_form() -> None:
    assert {*WRITTEN} == {*BY_NAME}


@pytest.mark.parametrize(("name", "text"), CASES)
def test_a_call_reaches_the_environment_in_its_one_writing(name: str, text: str) -> None:
    said, calls = read_calls(canonical(BY_NAME[name], f"<think>hm</think>\n{text}"))
    assert calls == [TEA]
    assert said.replace("<|call|>", "").strip() == "<think>hm</think>"


@pytest.mark.parametrize(("name", "text"), CASES)
def test_several_calls_keep_their_order_and_the_text_between_them(name: str, text: str) -> None:
    other = text.replace("tea", "milk")
    joint = {"bare JSON": "; ", "to=functions.": "<|call|>"}.get(name, "\n")
    _, calls = read_calls(canonical(BY_NAME[name], text + joint + other))
    assert [call.arguments.get("article") for call in calls] == ["tea", "milk"]


@pytest.mark.parametrize(("name", "text"), CASES)
@pytest.mark.parametrize("share", [0.55, 0.8])
def test_a_call_that_breaks_off_is_answered_with_an_error(
    name: str, text: str, share: float
) -> None:
    begun = text[: int(len(text) * share)]
    _, calls = read_calls(canonical(BY_NAME[name], f"I order.\n{begun}"))
    assert [bool(call.error) for call in calls] == [True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("XML: <function=...>", "<tool_call><function=order>tea</function></tool_call>"),
        ("XML: <function=...>", "<tool_call>order tea</tool_call>"),
        ("XML: <function=...>", "<function=order><parameter=article>tea</function>"),
        ("XML: <arg_key>", "<tool_call>order tea</tool_call>"),
        ("XML: <invoke name=...>", "<invoke name=order></invoke>"),
        ("<|tool_call>call:", "<|tool_call>order{}<tool_call|>"),
        ("<|tool_call>call:", '<|tool_call>call:order{article:<|"|>tea}<tool_call|>'),
        ("to=functions.", " to=functions.order<|channel|>commentary json<|message|>tea"),
        ("Python in <|tool_call_start|>", "<|tool_call_start|>[order('tea')]<|tool_call_end|>"),
        ("Python in <|tool_call_start|>", "<|tool_call_start|>[order(x=y)]<|tool_call_end|>"),
        ("Python in <|tool_call_start|>", "<|tool_call_start|>[order(**{})]<|tool_call_end|>"),
        ("Python in <|tool_call_start|>", "<|tool_call_start|>[" + "(" * 9999),
        ("<｜tool▁call▁begin｜>", "<｜tool▁call▁begin｜>order<｜tool▁call▁end｜>"),
        ("[TOOL_CALLS]", "[TOOL_CALLS] order tea"),
        ("bare JSON", '{"name": "order", "parameters": {"count": NaN}}'),
        ("bare JSON", '{"name": "order", "parameters": "tea"}'),
        ("bare JSON", '<|python_tag|>order.call(article="tea")'),
        ("bare JSON", '{"name": ' + "[" * 99_999),
    ],
)
def test_what_is_no_call_is_an_error_and_no_answer(name: str, text: str) -> None:
    (call,) = read_calls(canonical(BY_NAME[name], text))[1]
    assert call.error


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize(
    "text",
    [
        *("", "It is 12.", "<answer>7</answer>", '{"total": 7}', "a < b, {c}, [d], call: e"),
        '<tool_call>{"name": "order", "arguments": {}}</tool_call>',
    ],
)
def test_what_is_no_call_of_the_form_stays_as_it_is(form: Form, text: str) -> None:
    """The one writing among them: a player at the keyboard may use it with every model."""
    assert canonical(form, text) == text


@pytest.mark.parametrize(("name", "text"), WRITTEN.items())
@pytest.mark.parametrize("end", ["</think> It is 12.", ""], ids=["ended", "never ended"])
def test_a_thought_calls_nothing(name: str, text: str, end: str) -> None:
    thought = f"<think>I could write\n{text}\n{end}"
    assert canonical(BY_NAME[name], thought) == thought


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("7", {"type": "integer"}, 7),
        ("7", {"type": "string"}, "7"),
        ("7.5", {"type": "integer"}, "7.5"),
        ("true", {"type": "integer"}, "true"),
        ("True", {"type": "boolean"}, True),
        ("None", {"type": ["string", "null"]}, None),
        ("7", {"type": ["string", "null"]}, "7"),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("{", {"type": "object"}, "{"),
        ("7", {}, 7),
        ("7", True, 7),
        ("tea", {}, "tea"),
        ("NaN", {"type": "number"}, "NaN"),
        ("9" * 9999, {"type": "integer"}, "9" * 9999),
        ("[" * 99_999, {"type": "array"}, "[" * 99_999),
    ],
)
def test_an_argument_written_as_text_has_the_type_of_its_schema(
    text: str, schema: Mapping[str, Any], value: object
) -> None:
    read = typed(text, schema)
    assert (type(read), read) == (type(value), value)


# --- templates


@pytest.mark.parametrize(("name", "file"), templates().items())
def test_a_template_shows_tools_or_the_system_prompt_does(name: str, file: Any) -> None:
    """Every template that TRL ships; the page of templates tells the same, see below."""
    text = file.read_text(encoding="utf-8")
    chat = chat_of(text)
    shown = chat.text(chat.render("(the question)", "(the system)", tools=TOOLS))
    for each in ("(the question)", "(the system)", "order", "Order an article.", "article"):
        assert each in shown, each
    row = row_of(text)
    assert not row.refused
    assert "(result)" in row.results
    if row.written and row.shown == "the template":
        assert {*row.lost} <= {"an apostrophe"}
    assert row.line(name) in PAGE, "python tests/benchmarks/tool_templates.py prints it anew"


def test_the_bundled_template_is_what_it_was_without_tools() -> None:
    ours, plain = chat_of(BUNDLED), chat_of(WITHOUT_TOOLS)
    for system in ("", "Think.\n"):
        assert ours.render(" 7+8?\n", system) == plain.render(" 7+8?\n", system)
    assert ours.follow_up("no", ended=True) == plain.follow_up("no", ended=True)


def test_the_bundled_template_with_tools() -> None:
    chat = chat_of(BUNDLED)
    assert chat.text(chat.render("2 teas", "Buy.", tools=TOOLS)) == (
        "<|im_start|>system\nBuy.\norder(article, code, count, express, tags): Order an article."
        "<|im_end|>\n<|im_start|>user\n2 teas<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.template is not None
    call = write_call("order", CALLS["other scripts"])
    assert call in answer_of(chat.template, CALLS["other scripts"])
    alone = chat.text(chat.render("2 teas", tools=TOOLS))
    assert alone.startswith("<|im_start|>system\norder(")


def test_results_have_a_message_each_and_only_what_was_not_sampled() -> None:
    chat = chat_of(BUNDLED)
    answer = write_call("order", {}) * 2
    said = chat.follow_up("a\nb", ended=True, results=["a", "b"], answer=answer)
    framed = "\n<|im_start|>tool\na<|im_end|>\n<|im_start|>tool\nb<|im_end|>\n"
    assert chat.text(said) == framed + "<|im_start|>assistant\n"
    put_in = chat.follow_up("a\nb", ended=False, results=["a", "b"], answer=answer)
    assert chat.text(put_in) == "<|im_end|>" + chat.text(said)


def test_a_result_may_hold_what_looks_like_a_call_or_an_answer() -> None:
    chat = chat_of(BUNDLED)
    result = f"(the answer) {write_call('tool_probe', {})} (result 0)"
    ids = chat.follow_up(result, ended=True, results=[result], answer=write_call("order", {}))
    framed = f"\n<|im_start|>tool\n{result}<|im_end|>\n<|im_start|>assistant\n"
    assert chat.text(ids) == framed


def test_a_called_name_reaches_a_template_that_repeats_it() -> None:
    if "gptoss" not in (found := templates()):
        pytest.skip("TRL is not installed")
    chat = chat_of(found["gptoss"].read_text(encoding="utf-8"))
    for name, shown in (("order", "order"), ("<|end|>", "unknown"), ("", "unknown")):
        answer = f'<tool_call>{{"name": "{name}"}}</tool_call>'
        text = chat.text(chat.follow_up("7", ended=True, results=["7"], answer=answer))
        assert text.startswith(f"<|start|>functions.{shown} to=assistant")


def test_a_model_without_a_template_is_told_of_tools_in_the_prompt() -> None:
    chat = chat_of(WITHOUT_TOOLS)
    chat.tokenizer.chat_template = None
    shown = chat.text(chat.render("2 teas", "Buy.", tools=TOOLS))
    assert json.dumps(ORDER.schema["function"], ensure_ascii=False) in shown
    assert '<tool_call>{"name": "...", "arguments": {...}}</tool_call>' in shown
    assert shown.endswith("\n\n2 teas\n")
    answer = write_call("order", {})
    assert chat.text(chat.follow_up("7", ended=True, results=["7"], answer=answer)) == "\n7\n"


def test_without_tools_nothing_is_translated() -> None:
    xml = WRITTEN["XML: <function=...>"]
    chat = chat_of(SHOWS + xml)
    assert chat.canonical(xml) == xml


# --- what is refused, in one line


def refusal(chat: Chat) -> str:
    with pytest.raises(ConfigError) as caught:
        chat.render("2 teas", tools=TOOLS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_template_that_leaves_out_calls_is_refused() -> None:
    assert "leaves out calls" in refusal(chat_of(SHOWS))


def test_a_form_that_nothing_reads_is_refused() -> None:
    odd = "{{ m.content }}{% for c in m.tool_calls or [] %}CALL {{ c.function.name }}{% endfor %}"
    line = refusal(chat_of(SHOWS.replace("{{ m.content }}", odd)))
    assert "writes a call as " in line
    assert "CALL tool_probe" in line
    assert "model.chat_template=FILE" in line


def test_a_template_that_loses_results_is_refused() -> None:
    lost = BUNDLED.replace(
        "{{ message.content }}", "{{ message.content if message.role != 'tool' }}"
    )
    assert lost != BUNDLED
    assert "loses the results of tools" in refusal(chat_of(lost))


def test_a_template_that_fails_on_tools_explains_them_in_the_system_prompt() -> None:
    fails = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + WITHOUT_TOOLS
    assert row_of(fails).shown == "the system prompt"


def test_the_tokenizers_own_reading_is_the_last_resort() -> None:
    """A response template, as Transformers has it, reads a form that is not known here."""
    odd = (
        "{{ m.content }}{% for c in m.tool_calls or [] %}[[{{ c.function.name }} "
        "{{ c.function.arguments | tojson }}]]{% endfor %}"
    )
    chat = chat_of(SHOWS.replace("{{ m.content }}", odd))
    vars(chat.tokenizer)["response_template"] = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "tool_calls": {
                "open_pattern": r"\[\[(?P<name>\w+) ",
                "close_pattern": r"\]\]",
                "repeats": True,
                "content": "json",
                "transform": {
                    "type": "function",
                    "function": {"name": "{name}", "arguments": "{content}"},
                },
            },
            "content": {"close_pattern": r"<\|im_end\|>\s*|$", "content": "text"},
        },
    }
    chat.render("2 teas", tools=TOOLS)
    assert chat.tool_use.form.name == "the tokenizer's response template"
    good = chat.canonical('[[order {"article": "tea"}]]', TOOLS)
    assert read_calls(good)[1] == [Call(name="order", arguments={"article": "tea"})]
    assert read_calls(chat.canonical('[[order {"article": ]]', TOOLS))[1][0].error
    assert chat.canonical("It is 12.", TOOLS) == "It is 12."
    ids = chat.follow_up("7", ended=True, results=["7"], answer=good)
    assert "<|im_start|>tool\n7<|im_end|>" in chat.text(ids)


class Watched:
    """A tokenizer whose renderings are counted."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.rendered = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, text: str, **keywords: Any) -> Any:
        return self.tokenizer(text, **keywords)

    def apply_chat_template(self, *arguments: Any, **keywords: Any) -> Any:
        self.rendered += 1
        return self.tokenizer.apply_chat_template(*arguments, **keywords)


def test_a_template_is_rendered_once_for_a_prompt_and_once_for_a_reply() -> None:
    plain = chat_of(BUNDLED)
    watched: Any = Watched(plain.tokenizer)
    chat = Chat(watched, plain.eos_ids)

    def rendered() -> list[int]:
        counts = []
        for result in ("7", "8"):  # another text each time: nothing of it is kept
            begun = watched.rendered
            assert result in chat.text(chat.render(result, "Buy.", tools=TOOLS))
            counts.append(watched.rendered)
            call = write_call("order", {"article": result})
            assert result in chat.text(
                chat.follow_up(result, ended=True, results=[result], answer=call)
            )
            counts.append(watched.rendered)
            assert result in chat.text(chat.follow_up(result, ended=True))
            counts.append(watched.rendered)
        return [b - a for a, b in pairwise([begun, *counts[3:]])]

    assert rendered() == [1, 1, 1]


def test_names_that_a_policy_makes_up_are_not_kept_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("grpo_policy.tools.use._MOST_FRAMES", 3)
    use = chat_of(BUNDLED).tool_use
    texts = {use.reply(["7"], [name]) for name in "abcdefgh"}
    assert len(texts) == 1
    assert len(use._frames) <= 3


def test_tools_of_later_problems_are_tried_before_a_run_begins() -> None:
    """The first problem of this mixture has no tools, a later one has."""
    of = {"math": 5, "calculator": 1}
    env = grpo_envs.make("mixture", of=of)
    assert env.uses_tools
    assert not env.problem(0).tools
    Room(env, chat_of(BUNDLED)).check()
    Room(env, chat_of(WITHOUT_TOOLS)).check()
    with pytest.raises(ConfigError, match=r"leaves out calls.*model\.chat_template=FILE"):
        Room(env, chat_of(SHOWS)).check()
    single = grpo_envs.make("mixture", of={"math": 5, "calculator": {"weight": 1, "turns": 1}})
    assert single.max_turns == 1
    with pytest.raises(ConfigError, match="leaves out calls"):
        Room(single, chat_of(SHOWS)).check()
    plain = grpo_envs.make("mixture", of={"math": 1})
    assert not plain.uses_tools
    Room(plain, chat_of(SHOWS)).check()


def test_turns_of_later_problems_are_tried_before_a_run_begins() -> None:
    """A template that takes single questions only, and a mixture that begins with one."""
    single = WITHOUT_TOOLS.replace(
        "{% for m in",
        "{% if messages | length > 2 %}{{ raise_exception('no') }}{% endif %}{% for m in",
    )
    env = grpo_envs.make("mixture", of={"math": 5, "guess": 1})
    assert env.turns_of(env.problem(0)) == 1
    Room(env, chat_of(WITHOUT_TOOLS)).check()
    with pytest.raises(ConfigError, match="chat template fails"):
        Room(env, chat_of(single)).check()
    Room(grpo_envs.make("math"), chat_of(single)).check()


# --- a rollout


XML = BUNDLED.replace(
    "<tool_call>{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}"
    "</tool_call>",
    "<function={{ call.function.name }}>{% for key, value in call.function.arguments.items() %}"
    "<parameter={{ key }}>{{ value }}</parameter>{% endfor %}</function>",
)
CALL = "<function=calculator><parameter=expression>6*7</parameter></function>"


def played(chat: Chat, *answers: str) -> tuple[Completion, list[str]]:
    """An episode of these answers, and the contexts in which they were given."""
    env = GroupVectorEnv(grpo_envs.make("calculator"), 1, 1)
    sampler = Scripted(chat, lambda context, _: answers[context.count("<|im_start|>assistant") - 1])
    rollout = Rollout(env, chat, sampler, Decoding(max_new_tokens=200), seed=0)
    (group,) = rollout([0], Timer())
    return group.completions[0], sampler.contexts


def test_a_rollout_translates_calls_and_keeps_what_was_sampled() -> None:
    chat = chat_of(XML)
    completion, contexts = played(chat, CALL, "<answer>42</answer>")
    call, answer = completion.turns
    assert call.action == write_call("calculator", {"expression": "6*7"})
    assert (call.observation, answer.action) == ("42", "<answer>42</answer>")
    assert "\ncalculator(expression): " in contexts[0]
    framed = "\n<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"
    assert contexts[1] == f"{contexts[0]}{CALL}<|im_end|>{framed}"
    ids, mask = completion.token_ids, completion.mask
    sampled = tuple(i for i, own in zip(ids, mask, strict=True) if own)
    assert chat.text(sampled) == f"{CALL}<|im_end|><answer>42</answer><|im_end|>"
    assert chat.text(ids) == f"{CALL}<|im_end|>{framed}<answer>42</answer><|im_end|>"
    heard = tuple(i for i, own in zip(ids, mask, strict=True) if not own)
    assert chat.text(heard) == framed


def test_a_malformed_call_costs_a_turn_and_is_answered_with_an_error() -> None:
    completion, contexts = played(
        chat_of(XML), "<function=calculator><parameter=expression>6*7</function>", CALL, "42"
    )
    assert len(completion.turns) == 3
    assert completion.turns[0].observation.startswith("error")
    assert f"<|im_start|>tool\n{completion.turns[0].observation}<|im_end|>" in contexts[1]


def test_a_model_without_tools_in_its_template_calls_in_the_one_writing() -> None:
    call = write_call("calculator", {"expression": "6*7"})
    completion, contexts = played(chat_of(WITHOUT_TOOLS), call, "<answer>42</answer>")
    assert completion.turns[0].action == call
    assert '{"name": "calculator"' in contexts[0]
    assert contexts[1].endswith("<|im_start|>user\n42<|im_end|>\n<|im_start|>assistant\n")
