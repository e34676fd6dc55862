"""What becomes of each architecture of Transformers: the table of docs/models.md.

    python tests/benchmarks/architectures.py [NAME ...]

Each is a tiny model with random weights, saved to a folder and loaded as a user's would be. It is
"equal" where greedy sampling in padded groups gives the tokens of Transformers' `generate`; then it
takes a step of GRPO, is saved, and loaded again. Or it is refused, in the line that a user reads.
"""

import contextlib
import io
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig
from grpo_envs.errors import GrpoEnvsError
from grpo_envs.types import Group, Reward
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import sample

_MOST_WEIGHTS = 20_000_000
_PROMPTS = ((5, 6, 7, 8, 9, 10, 11), (45, 12, 3))
_COPIES = 2
_DECODING = Decoding(temperature=0.0, max_new_tokens=8)
_SHAPE: dict[str, Any] = {
    "vocab_size": 545,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 0,
    "eos_token_id": 540,
    "pad_token_id": 538,
}
"""What every configuration is given."""
_WHERE_KNOWN: dict[str, Any] = {
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "intermediate_size_mlp": 128,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_d_ssm": 128,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
    "state_size": 16,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "sliding_window": 8,
    "rotary_dim": 8,
    "embedding_size": 64,
    "word_embed_proj_dim": 64,
}
"""What a configuration is given where it has a key of the name."""
_HYBRID = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
_SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {**_HYBRID, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {**_HYBRID, "layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "layer_types": None},
    "llama4_text": {"moe_layers": [1, 3]},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "n_groups": 1, "chunk_size": 16},
    "recurrent_gemma": {"attention_window_size": 8, "lru_width": 64, "layer_types": None},
    "zamba2": {
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "mamba_headdim": 16,
        "chunk_size": 16,
        "num_mem_blocks": 1,
        "layer_types": None,
        "layers_block_type": ["mamba", "hybrid"] * 2,
    },
    "falcon": {"alibi": True, "head_dim": None},
    "gpt_neo": {
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "num_hidden_layers": None,
        "num_attention_heads": None,
        "layer_types": None,
    },
}
"""What some want besides, or want to be left out (None)."""
_TEXT: dict[str, Any] = {
    **_SHAPE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "head_dim": 8,
}
_LINEAR: dict[str, Any] = {
    **_TEXT,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_QWEN_EYE: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "patch_size": 4,
}
_EYE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
_LLAMA4_EYE: dict[str, Any] = {
    **_EYE,
    "intermediate_size": 64,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "vision_output_dim": 32,
}
_MULTIMODAL: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": _TEXT, "vision_config": _EYE, "mm_tokens_per_image": 4},
    "gemma4": {"text_config": _TEXT},
    "internvl": {
        "text_config": {**_TEXT, "model_type": "qwen2"},
        "vision_config": {
            **_EYE,
            "model_type": "internvl_vision",
            "image_size": [16, 16],
            "patch_size": [4, 4],
        },
    },
    "llama4": {
        "text_config": {
            **_TEXT,
            "num_local_experts": 4,
            "intermediate_size_mlp": 48,
            "moe_layers": [1],
        },
        "vision_config": _LLAMA4_EYE,
    },
    "llava": {
        "text_config": {**_TEXT, "model_type": "llama"},
        "vision_config": {**_EYE, "model_type": "clip_vision_model"},
    },
    "mistral3": {
        "text_config": {**_TEXT, "model_type": "mistral"},
        "vision_config": {**_EYE, "model_type": "pixtral", "head_dim": 16},
    },
    "paligemma": {"text_config": {**_TEXT, "model_type": "gemma2"}, "vision_config": _EYE},
    "qwen3_5": {"text_config": _LINEAR, "vision_config": _QWEN_EYE},
    "qwen3_5_moe": {"text_config": {**_LINEAR, **_EXPERTS}, "vision_config": _QWEN_EYE},
    "qwen3_vl": {
        "text_config": _TEXT,
        "vision_config": {**_QWEN_EYE, "deepstack_visual_indexes": [0]},
    },
}
"""Models that also see, saved as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a model."""

    name: str
    class_name: str = ""
    verdict: str
    """`equal to generate, trains, checkpoint loads`, or `refused: ...`."""


def main() -> None:
    """Print the table; exit 1 where a model ends in neither of the two ways."""
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    names = sys.argv[1:] or sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *_MULTIMODAL})
    wrong = False
    print("| `model_type` | class | outcome |\n|---|---|---|")
    for outcome in (outcome for name in names for outcome in _tried(name)):
        print(f"| {outcome.name} | {outcome.class_name} | {outcome.verdict} |", flush=True)
        wrong = wrong or outcome.verdict.startswith("WRONG")
    sys.exit(wrong)


def _tried(name: str) -> Iterator[Outcome]:
    """Try an architecture; yield nothing where it cannot be made small without its own care."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            model = _tiny(name)
        except Exception:  # noqa: BLE001  of somebody's configuration: it is not in the table
            return
        if model is None:
            return
        try:
            verdict = _verdict(model)
        except GrpoEnvsError as error:
            verdict = f"refused: {_reason(str(error))}"
        except Exception as error:  # noqa: BLE001  what a user would see as a traceback
            verdict = f"WRONG: {type(error).__name__}: {error}".splitlines()[0]
    yield Outcome(name=name, class_name=type(model).__name__, verdict=verdict)


def _reason(line: str) -> str:
    """Return what a refusal says after the name of the model's class, its cause in brackets."""
    said = line.partition("model.path=")[2].partition(": ")[2].replace("|", "/")
    return said.partition(" ")[2].removesuffix(" Choose another model.")


def _tiny(name: str) -> PreTrainedModel | None:
    """Return a small model of the architecture, None where its sizes have other names."""
    if name in _MULTIMODAL:
        return multimodal(name)
    usual = AutoConfig.for_model(name)
    known = {key: value for key, value in _WHERE_KNOWN.items() if hasattr(usual, key)}
    kinds = list(dict.fromkeys(getattr(usual, "layer_types", None) or ()))
    layers = {"layer_types": (kinds * 4)[:4]} if len(kinds) > 1 else {}
    heads = {"num_key_value_heads": 4} if hasattr(usual, "kv_lora_rank") else {}  # as in MLA
    keys = {**_SHAPE, **known, **layers, **heads, **_SPECIAL.get(name, {})}
    config = AutoConfig.for_model(name, **{k: v for k, v in keys.items() if v is not None})
    torch.manual_seed(0)
    with torch.device("meta"):
        weights = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if weights > _MOST_WEIGHTS:
        return None
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def multimodal(name: str) -> PreTrainedModel:
    """Return a small model that also sees, of the class that its folders name."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **_MULTIMODAL[name])
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config).eval()
    return model


def _verdict(model: PreTrainedModel) -> str:
    with tempfile.TemporaryDirectory() as folder:
        if model.generation_config is not None:
            model.generation_config.eos_token_id = 540
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
        policy = load_policy(folder)
        ways = [_equal(policy), _trains(policy)]
        policy.model.save_pretrained(Path(folder) / "after")
        policy.tokenizer.save_pretrained(Path(folder) / "after")
        ways.append(_loads(policy, Path(folder) / "after"))
        if model.config.get_text_config() is not model.config:
            ways.append(_keeps(type(model), Path(folder)))
    wrong = [word for word, good in ways if not good]
    return f"WRONG: not {', '.join(wrong)}" if wrong else ", ".join(word for word, _ in ways)


@torch.no_grad()
def _equal(policy: Policy) -> tuple[str, bool]:
    """Compare tokens with those of `generate`, one prompt at a time, without any end token."""
    stray = policy.caching.whole  # a window that only the cache of `generate` knows
    policy.eos_ids, ends = (), policy.eos_ids
    found = sample(policy, _PROMPTS, [0] * (len(_PROMPTS) * _COPIES), _DECODING)
    policy.eos_ids = ends
    same = True
    for number, prompt in enumerate(_PROMPTS):
        ids = torch.tensor([prompt])
        settings = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None}
        settings["use_cache"] = not stray
        out = policy.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        expected = tuple(out[0, len(prompt) :].tolist())
        group = found[number * _COPIES : (number + 1) * _COPIES]
        same = same and all(completion.token_ids == expected for completion in group)
    return f"equal to generate{' without a cache' if stray else ''}", same


def _trains(policy: Policy) -> tuple[str, bool]:
    """Take a step on sampled answers, of which the first of each group is right."""
    before = [p.detach().clone() for p in policy.trained_parameters()]
    how = Decoding(temperature=1.0, max_new_tokens=8)
    found = sample(policy, _PROMPTS, range(len(_PROMPTS) * _COPIES), how)
    rewards = tuple(Reward(parts={"correct": float(n == 0)}) for n in range(_COPIES))
    groups = [
        Group(
            key=number,
            prompt="",
            prompt_ids=prompt,
            completions=tuple(found[number * _COPIES : (number + 1) * _COPIES]),
            rewards=rewards,
        )
        for number, prompt in enumerate(_PROMPTS)
    ]
    agent = GrpoAgent(policy, GrpoConfig(group_size=_COPIES, lr=1e-3), Accelerator(cpu=True), how)
    agent.update(groups)
    moved = any(
        not torch.equal(p, old) for p, old in zip(policy.trained_parameters(), before, strict=True)
    )
    return "trains", moved and policy.finite()


@torch.no_grad()
def _loads(policy: Policy, folder: Path) -> tuple[str, bool]:
    """Load what was saved after the step; it gives the same logits."""
    ids = torch.tensor([_PROMPTS[0]])
    mine = policy.model(input_ids=ids).logits
    loaded = load_policy(str(folder)).model(input_ids=ids).logits
    return "checkpoint loads", torch.allclose(mine, loaded, rtol=1e-4, atol=1e-5)


def _keeps(model_class: type[PreTrainedModel], folder: Path) -> tuple[str, bool]:
    """Load the whole model from what was saved; what is no text model is what it was."""
    load: Any = model_class.from_pretrained  # the hints know no output_loading_info
    options: dict[str, Any] = {"output_loading_info": True, "dtype": torch.float32}
    before = load(folder, **options)[0].state_dict()
    whole, about = load(folder / "after", **options)
    text = {id(weight) for weight in whole.get_decoder().parameters()}
    text |= {id(whole.get_output_embeddings().weight), id(whole.get_input_embeddings().weight)}
    beside = [name for name, weight in whole.named_parameters() if id(weight) not in text]
    same = all(torch.equal(whole.state_dict()[name], before[name]) for name in beside)
    return "the rest is kept", same and not any(about.values())


if __name__ == "__main__":
    main()
