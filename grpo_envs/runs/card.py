"""The model card of a run: the model, the environment, the evaluation and the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.rows import read_jsonl

_CARD = """\
---
{head}
---

# {title}

{base} trained with GRPO by grpo-envs on the environment
`{env}`, step {step}.

{how}

## Evaluation

{table}

## Training

```bash
{command}
```

| key | value |
|---|---|
{keys}

## Versions

{versions}
"""
_USE = """\
```python
from {library} import {auto}
from transformers import AutoTokenizer

model = {auto}.from_pretrained(PATH, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(PATH)
```"""
_KEYS = ("env.", "agent.name", "agent.lr", "agent.group_size", "agent.loss.beta", "model.lora.")
_MORE = ("trainer.steps", "trainer.prompts_per_step", "sampler.temperature", "seed")


def model_card(run: Path, step: int, *, base: str, adapters: bool) -> str:
    """Return a README.md for the hub.

    Args:
        run: The run's folder.
        step: Step of the checkpoint.
        base: The model that was trained.
        adapters: Whether the card is for adapters without their base model.
    """
    folder = RunFolder(run)
    config, about = folder.config or {}, folder.about
    env = str(config.get("env.name", "a task"))
    library = "peft" if adapters else "transformers"
    head = {
        **({} if Path(base).is_absolute() or " " in base else {"base_model": base}),
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["grpo", "reinforcement-learning", "grpo-envs"],
    }
    auto = "AutoPeftModelForCausalLM" if adapters else "AutoModelForCausalLM"
    chosen = {key: value for key, value in config.items() if key.startswith(_KEYS) or key in _MORE}
    command = ["python", "-m", "grpo_envs.run", *folder.overrides]
    return _CARD.format(
        head="\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items()),
        title=f"{Path(base).name} on {env}",
        base=base,
        env=env,
        step=step,
        how=_USE.format(library=library, auto=auto),
        table=_table(run, step),
        command=shlex.join(command),
        keys="\n".join(f"| `{key}` | `{json.dumps(value)}` |" for key, value in chosen.items()),
        versions=", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()) or "unknown",
    )


def _table(run: Path, step: int) -> str:
    """Return a table of the run's evaluations before training and at the checkpoint."""
    file = run / "eval.jsonl"
    rows = read_jsonl(file) if file.is_file() else []
    first = next((row for row in rows if row["step"] == 0), None)
    last = next((row for row in rows if row["step"] == step), None)
    if last is None:
        return "The run has no evaluation of this checkpoint."
    names = [name for name in last if name.startswith("eval/") and not name.endswith("ci95")]
    lines = ["| held-out | before | now |", "|---|---|---|"]
    return "\n".join([*lines, *(_row(name, (first or {}, last)) for name in names)])


def _row(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [f"{row[name]:.3f}" if name in row else "-" for row in rows]
    return f"| {name.removeprefix('eval/')} | {' | '.join(cells)} |"
