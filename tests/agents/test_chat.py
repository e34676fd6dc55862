"""Chat templates of every kind: what the model is shown, and what is refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

import grpo_envs
from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import ModelConfig
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.graders.format import well_formed
from grpo_envs.runtime.timing import Timer
from grpo_policy.chat import Chat
from grpo_policy.exporting import export
from grpo_policy.loading import remarks
from grpo_policy.models import TINY, load_chat, load_policy
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.template import Template
from tests.support.scripted import Scripted

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ONLY_USER = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
)
DROPS = CHATML.replace("in messages", "in messages if message.role != 'system'")
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} <|im_end|>"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
THINKS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
SWITCH = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled model without its weights."""
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    return tmp_path


def chat_of(folder: Path, template: str, **variables: object) -> Chat:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return load_chat(str(folder), ModelConfig(chat_template_kwargs=variables))


def refused(folder: Path, template: str, **variables: object) -> str:
    with pytest.raises(ConfigError) as caught:
        chat_of(folder, template, **variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the system message


@pytest.mark.parametrize("template", [ONLY_USER + CHATML, DROPS], ids=["refused", "dropped"])
def test_a_system_message_that_a_template_does_not_take_stands_before_the_question(
    folder: Path, template: str
) -> None:
    chat = chat_of(folder, template)
    shown = "<|im_start|>user\nBe brief.\n\n7+8?<|im_end|>\n<|im_start|>assistant\n"
    assert chat.text(chat.render("7+8?", "Be brief.")) == shown
    assert chat.text(chat.render("7+8?")) == shown.replace("Be brief.\n\n", "")
    assert chat.remarks() == [
        "this template takes no system message: it is put before the user's text."
    ]


def test_a_system_message_that_the_question_repeats_is_not_lost(folder: Path) -> None:
    chat = chat_of(folder, DROPS)
    assert chat.text(chat.render("Be brief. 7+8?", "Be brief.")).count("Be brief.") == 2


def test_a_template_may_need_a_system_message(folder: Path) -> None:
    chat = chat_of(folder, "{{ messages[0].content + '!' + messages[1].content }}<|im_end|>")
    assert chat.text(chat.render("7+8?", "Be brief.")) == "Be brief.!7+8?<|im_end|>"
    with pytest.raises(ConfigError, match="chat template fails: UndefinedError"):
        chat.render("7+8?")


@pytest.mark.parametrize("fails", [False, True])
def test_a_template_may_take_a_text_as_a_list_of_parts_alone(folder: Path, fails: bool) -> None:
    """As those of models that see: LLaVA's, SmolVLM's."""
    text = "{{ p.text + '' }}" if fails else "{% if p.type == 'text' %}{{ p.text }}{% endif %}"
    parts = f"{{% for p in message['content'] %}}{text}{{% endfor %}}"
    template = CHATML.replace("{{ message.content }}", parts)
    chat, plain = chat_of(folder, template), load_chat(str(TINY))
    assert chat.render(" 7+8? ", "Think.") == plain.render(" 7+8? ", "Think.")
    assert chat.follow_up("no", ended=True) == plain.follow_up("no", ended=True)


# --- what cannot be used


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('No chat\nmodel') }}", "fails: TemplateError: No chat. Give"),
        ("{% for m in messages %}", "fails: TemplateSyntaxError: "),
        ("{{ messages[0].a.b }}", "fails: UndefinedError: "),
        ("{{ messages[0].content + none }}", "fails: TypeError: "),
        ("Hello!", "leaves out a text of user. Give another: model.chat_template=FILE."),
    ],
    ids=["raises", "syntax", "undefined", "type", "a constant"],
)
def test_a_template_that_fails_or_loses_the_question_is_one_line(
    folder: Path, template: str, said: str
) -> None:
    assert said in refused(folder, template)


def test_variables_reach_the_template_and_unknown_ones_are_refused(folder: Path) -> None:
    plain = chat_of(folder, SWITCH)
    silent = chat_of(folder, SWITCH, enable_thinking=False)
    shown = plain.text(plain.render("7+8?"))
    assert silent.text(silent.render("7+8?")) == shown + "<think></think>"
    assert silent.text(silent.follow_up("no", ended=True)).endswith("<think></think>")
    assert refused(folder, SWITCH, enable_thinkin=False) == (
        "model.chat_template_kwargs.enable_thinkin: the chat template has no variable of that "
        "name. Did you mean 'enable_thinking'?"
    )


def test_variables_without_a_template_are_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="the model has no chat template"):
        load_chat(str(folder), ModelConfig(chat_template_kwargs={"enable_thinking": True}))


def test_a_template_can_be_a_file(folder: Path) -> None:
    file = folder / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    policy = load_policy(str(TINY), ModelConfig(chat_template=str(file)))
    assert policy.chat.text(policy.render("7+8?", "Think.")) == "Think.<|im_end|>7+8?<|im_end|>"
    assert policy.tokenizer.chat_template == file.read_text()  # a checkpoint keeps it


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no/such.jinja", "model.chat_template=no/such.jinja: No such file or directory. Allowed"),
        (str(TINY), "Is a directory. Allowed: a file with a Jinja template."),
        ("{% for m in messages %}\n{{ m }}{% endfor %}", "{% for m in messages %}: No such file"),
    ],
)
def test_what_is_no_file_is_one_line(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_chat(str(TINY), ModelConfig(chat_template=given))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.chat_template_kwargs={messages: 1}", "model.chat_template_kwargs.messages: the"),
        ("trainer.eval_sampling={topp: 0.5}", "Did you mean 'top_p'?"),
        ("trainer.eval_sampling={top_k: 0.5}", "eval_sampling.top_k=0.5. Allowed: a whole number"),
        ("sampler.top_p=0", "sampler.top_p=0.0. Allowed: above 0, up to 1 (off)."),
        ("sampler.min_p=1", "sampler.min_p=1.0. Allowed: 0 (off) or more, below 1."),
        ("sampler.repetition_penalty=nan", "Allowed: above 0 (1 is off)."),
        ("sampler.stop=['']", "sampler.stop=['']. Allowed: texts that are not empty."),
        ("sampler.thinking_budget=-1", "sampler.thinking_budget=-1. Allowed: 0 or more, or null."),
    ],
)
def test_keys_are_checked(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run([override])
    assert said in str(caught.value)


def test_mappings_take_keys_without_a_plus() -> None:
    cfg = compose_run(
        ["model.chat_template_kwargs.enable_thinking=false", "trainer.eval_sampling={top_p: 0.9}"]
    )
    assert cfg.model.chat_template_kwargs == {"enable_thinking": False}
    assert cfg.trainer.eval_sampling == {"top_p": 0.9}


# --- ends


def test_the_templates_end_token_ends_an_answer_too(folder: Path) -> None:
    """A base model under ChatML: its own end token is written by nobody."""
    plain = load_chat(str(folder))
    for file in ("tokenizer_config.json", "generation_config.json"):
        values = json.loads((folder / file).read_text())
        values |= {"eos_token": "<|endoftext|>", "eos_token_id": 538}
        (folder / file).write_text(json.dumps(values))
    chat = load_chat(str(folder))
    assert [chat.text((i,)) for i in chat.eos_ids] == ["<|endoftext|>", "<|im_end|>"]
    assert plain.remarks() == []
    assert chat.remarks() == [
        "this template ends turns with <|im_end|>, the model's end token is <|endoftext|>: an "
        "answer ends at either."
    ]


def test_an_end_that_is_no_token_is_a_stop_string_to_be(folder: Path) -> None:
    chat = chat_of(folder, CHATML.replace("<|im_end|>", "###"))
    assert [chat.text((i,)) for i in chat.eos_ids] == ["<|im_end|>"]
    assert chat.remarks() == [
        "this template ends turns with ###, which is no token of the model: an answer ends at "
        """<|im_end|> alone, else give sampler.stop='["###"]'."""
    ]


def test_a_blank_before_the_end_token_does_not_end_the_talk(folder: Path) -> None:
    """Llama 2 writes one."""
    chat = chat_of(folder, LLAMA_2)
    assert chat.text(chat.follow_up("no", ended=True)) == "[INST] no [/INST]"
    assert chat.text(chat.follow_up("no", ended=False)) == " <|im_end|>[INST] no [/INST]"


def test_a_prompt_has_one_bos_and_no_eos(folder: Path) -> None:
    """Llama-2 style tokenizers may append an end token to all that they are given."""
    chat = load_chat(str(folder))
    bos, eos = (chat.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    chat.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        special_tokens=[("<|im_start|>", bos), ("<|im_end|>", eos)],
    )
    assert chat.tokenizer("7")["input_ids"][-1] == eos
    with_template = chat.render("7+8?")
    assert [i for i in with_template if i == bos] == [bos, bos]  # user and assistant
    assert chat.text(with_template).endswith("assistant\n")
    chat.tokenizer.chat_template = None
    chat = Chat(chat.tokenizer, chat.eos_ids)
    assert chat.text(chat.render("7+8?", "Think.")) == "<|im_start|>Think.\n\n7+8?\n"


# --- answers


def test_tags_that_are_special_tokens_stay_in_an_answer(folder: Path) -> None:
    """Only end tokens and padding are no part of it."""
    tokenizer = load_chat(str(folder)).tokenizer
    tags = ["<think>", "</think>", "<answer>", "</answer>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tags})
    tokenizer.save_pretrained(folder)
    chat = load_chat(str(folder))
    text = "<think>7+8=15</think><answer>15</answer>"
    ids = chat.tokenizer(f"{text}<|im_end|><|endoftext|><|im_start|>")["input_ids"]
    assert set(tags) <= set(chat.tokenizer.all_special_tokens)
    assert chat.decode(tuple(ids)) == f"{text}<|im_start|>"


def test_graders_see_a_thought_that_the_template_has_opened(folder: Path) -> None:
    """As of DeepSeek-R1: the tag stands in the prompt, the answer closes it."""
    chat = chat_of(folder, THINKS)
    env = grpo_envs.make("math", rewards={})
    problem = env.problem(3)
    answer = problem.solution.removeprefix("<think>")
    assert well_formed(problem.solution)
    assert not well_formed(answer)
    sampler = Scripted(chat, lambda *_: answer)
    rollout = Rollout(GroupVectorEnv(env, 2, 2), chat, sampler, Decoding(max_new_tokens=99), seed=0)
    (group,) = rollout([3], Timer())
    for completion, reward in zip(group.completions, group.rewards, strict=True):
        assert completion.text == f"<think>\n{answer}"
        assert chat.decode(completion.token_ids) == answer
        assert reward.parts == {"correct": 1.0, "format": 1.0}


def test_a_conversation_has_the_opened_thought_of_each_turn(folder: Path) -> None:
    chat = chat_of(folder, THINKS)
    call = grpo_envs.write_call("calculator", {"expression": "40+2"})
    said = [f"40+2</think>{call}", "</think><answer>42</answer>"]
    sampler = Scripted(chat, lambda context, _: said[context.count("assistant\n<think>") - 1])
    env = GroupVectorEnv(grpo_envs.make("calculator"), 1, 1)
    (group,) = Rollout(env, chat, sampler, Decoding(max_new_tokens=99), seed=0)([3], Timer())
    (completion,) = group.completions
    assert [turn.action for turn in completion.turns] == [f"<think>\n{text}" for text in said]
    assert completion.text.startswith("<think>\n40+2</think>")


# --- where the model comes from


OWN_CODE = """
from transformers import Qwen3Config, Qwen3ForCausalLM

class MyConfig(Qwen3Config):
    model_type = "my_model"

class MyModel(Qwen3ForCausalLM):
    config_class = MyConfig
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with Python code of its own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "own"
    shutil.copytree(TINY, folder)
    (folder / "my_code.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "my_code.MyConfig",
        "AutoModelForCausalLM": "my_code.MyModel",
    }
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "my_model"}))
    return folder


def test_a_models_own_code_is_run_where_that_is_asked_for(own: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(str(own))
    assert str(caught.value) == (
        f"model.path={own}: the model has Python code of its own. Read that code, and set "
        "model.trust_remote_code=true (export: --trust-remote-code) to run it; or choose "
        "another model."
    )
    trusted = load_policy(str(own), ModelConfig(trust_remote_code=True))
    assert type(trusted.model).__name__ == "MyModel"
    export(trusted, own.parent / "exported", "fp32", own_code=True)
    again = load_policy(str(own.parent / "exported"), ModelConfig(trust_remote_code=True))
    assert type(again.model).__name__ == "MyModel"


def test_code_that_fails_is_one_line(own: Path) -> None:
    (own / "my_code.py").write_text("raise RuntimeError('not\\nhere')")
    with pytest.raises(ConfigError) as caught:
        load_policy(str(own), ModelConfig(trust_remote_code=True))
    assert str(caught.value).startswith(f"model.path={own}: RuntimeError: not. Give ")


def test_code_that_transformers_can_do_without_is_left_out_with_a_word(own: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"model_type": "qwen3"}))
    policy = load_policy(str(own))
    assert remarks(policy, ModelConfig()) == [
        "its own Python code is not run: this is Qwen3ForCausalLM of Transformers."
    ]


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (ModelConfig(revision="v1"), f"model.revision=v1 of {TINY}. Allowed: with a hub id."),
        (ModelConfig(attention="flash_attention_2"), "model.attention=flash_attention_2: "),
        (ModelConfig(attention="flex_attention"), "Allowed: eager, sdpa, flash_attention_2, "),
        (ModelConfig(attention="spda"), "Did you mean 'sdpa'?"),
    ],
)
def test_what_cannot_be_had_is_one_line(cfg: ModelConfig, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(str(TINY), cfg)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attention_is_the_one_that_is_asked_for(tiny: Policy) -> None:
    policy = load_policy(str(TINY), ModelConfig(attention="eager"))
    assert policy.model.config._attn_implementation == "eager"
    assert tiny.model.config._attn_implementation == "sdpa"


def test_a_template_is_asked_about_each_kind_of_message(folder: Path) -> None:
    """A conversation that loses a reply is refused, though a prompt is fine."""
    chat = chat_of(folder, CHATML.replace("in messages", "in messages[:2]"))
    assert isinstance(chat.template, Template)
    assert chat.render("7+8?", "Think.")
    with pytest.raises(ConfigError, match="leaves out a text of user, assistant, user"):
        chat.follow_up("no", ended=True)
