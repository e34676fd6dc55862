"""A run's model for other programs: `python -m grpo_envs.export RUN --out FOLDER`.

Writes a folder that Transformers and vLLM load: weights, configs, tokenizer, chat template and a
model card. `--merge` merges the adapters of a LoRA run into the weights. The written files are read
back and compared with the model. `--push NAME` uploads it to the Hugging Face hub.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import rich

from grpo_envs.config.schema import SAVED
from grpo_envs.errors import ConfigError, require_training
from grpo_envs.runs.card import model_card
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.newest import model_in, run_at
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.hub import push, require_pushable
from grpo_envs.runtime.terminal import exit_on_error


def export(
    run: Path, out: Path, dtype: str, *, merge: bool = False, own_code: bool = False
) -> None:
    """Write the model of a run into a folder.

    Args:
        run: The run's folder, or one of its checkpoints.
        out: A folder that does not exist, or is empty.
        dtype: Of the weights: fp32, bf16 or fp16.
        merge: Add adapters into the weights; otherwise the adapters are written alone.
        own_code: Whether Python code from the model's folder may run.

    Raises:
        ConfigError: there is no run or no checkpoint, `out` is not empty, or the written model
            would differ from the trained one.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {shown(out)}: not empty. Allowed: a new or an empty folder.")
    checkpoint = _checkpoint_of(run)
    saved = _meta(checkpoint).get("dtype", dtype)
    if saved not in ("fp32", dtype):
        raise ConfigError(
            f"--dtype {dtype}: the checkpoint's weights are {saved} (trainer.save_dtype). "
            f"Allowed: {saved}."
        )
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by an export that was killed
    temporary.mkdir(parents=True)
    try:
        _write(checkpoint, temporary, dtype, merge=merge, own_code=own_code)
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checkpoint_of(run: Path) -> Path:
    """Return the checkpoint itself, or the last one of a run."""
    checkpoint = model_in(run).resolve()
    if not (checkpoint / "trainer.json").is_file():
        raise ConfigError(f"{shown(run)}: no run, and no checkpoint of one.")
    return checkpoint


def _meta(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / "trainer.json").read_text(encoding="utf-8")))


def _write(checkpoint: Path, out: Path, dtype: str, *, merge: bool, own_code: bool) -> None:
    require_training("an export")
    from grpo_envs.config.model import ModelConfig
    from grpo_policy import exporting  # torch and transformers: not for --help, nor a mistake
    from grpo_policy.models import load_policy
    from grpo_policy.saving import base_of

    base, cfg = base_of(checkpoint), ModelConfig(trust_remote_code=own_code)
    if base and merge:
        policy = exporting.merge(load_policy(base, cfg), checkpoint)
    else:
        policy = load_policy(str(checkpoint), cfg, adapters=True)
    exporting.export(policy, out, dtype, own_code=own_code)
    run = checkpoint.parents[1]
    name = str(RunFolder(run).about.get("model") or base or "A model")
    card = model_card(run, _meta(checkpoint)["step"], base=name, adapters=bool(base) and not merge)
    (out / "README.md").write_text(card, encoding="utf-8")


@exit_on_error()
def main() -> None:
    """Read the options; exit 2 on a mistake in them."""
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.export", description=f"{first} {more}"
    )
    parser.add_argument("run", type=Path, help="a run, a checkpoint, or runs (the newest)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--dtype", choices=SAVED, default="fp32", help="dtype of the weights (%(default)s)"
    )
    parser.add_argument(
        "--merge", action="store_true", help="merge adapters (LoRA) into the weights"
    )
    own_code = "run the Python code that the model brings along"
    parser.add_argument("--trust-remote-code", action="store_true", help=own_code)
    parser.add_argument("--push", metavar="NAME", help="upload it to the hub, too: OWNER/NAME")
    options = parser.parse_args()
    run = run_at(options.run)
    if options.push:
        _require_whole(run, merge=options.merge)
        require_pushable(options.push)
    own = options.trust_remote_code
    export(run, options.out, options.dtype, merge=options.merge, own_code=own)
    rich.get_console().print(shown(options.out.resolve()), soft_wrap=True, highlight=False)
    if options.push:
        rich.get_console().print(push(options.out, options.push), soft_wrap=True)


def _require_whole(run: Path, *, merge: bool) -> None:
    """Refuse to push adapters whose model is a folder that only this machine has."""
    file = _checkpoint_of(run) / "adapter_config.json"
    if merge or not file.is_file():
        return
    base = Path(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    if base.is_dir():
        raise ConfigError(f"--push: adapters of {base}, which others do not have. Add --merge.")


if __name__ == "__main__":
    main()
