"""One run, from its composed configuration to its result; a launcher calls it for each job."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from grpo_envs.config import composition, schema
from grpo_envs.config.convert import convert
from grpo_envs.config.place import AUTO
from grpo_envs.env import TextEnv
from grpo_envs.errors import ConfigError, GrpoEnvsError, require_training
from grpo_envs.runs import provenance
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runs.folder import RunFolder, require_alike
from grpo_envs.runtime import threads
from grpo_envs.runtime.files import shown, write_atomically
from grpo_envs.runtime.memory import in_one_line
from grpo_envs.runtime.processes import Processes, connect
from grpo_envs.runtime.terminal import named_lines
from grpo_envs.training.agent import term_log_of
from grpo_envs.training.environments import make_envs

if TYPE_CHECKING:
    from grpo_envs.training.trainer import Trainer

log = logging.getLogger(__name__)
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"

composition.register()  # here: worker processes of a launcher import only this module of ours


class Terminated(KeyboardInterrupt):
    """SIGTERM came, and the run is saved."""


class JobFailed(GrpoEnvsError):
    """A job of a sweep ended early. It has plain values, because launchers pickle it."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(folder, why)
        self.folder, self.why = folder, why


@dataclass(frozen=True, slots=True)
class Plan:
    """The work to do in a run's folder."""

    run: schema.RunConfig
    """The configuration; `resume` is None or the folder."""
    folder: RunFolder
    result: Mapping[str, float] | None
    """The result of a run that is already done; else None."""


def run(cfg: DictConfig) -> float | None:
    """Train; return `trainer.sweep_metric`, or None if nothing was evaluated.

    Raises:
        GrpoEnvsError: one line that says what to change.
        KeyboardInterrupt: the run was stopped by Ctrl-C and saved; `Terminated`: by SIGTERM.
    """
    require_training("a run")
    hydra = HydraConfig.get()
    run = convert(cfg, hydra.runtime.choices, list(hydra.overrides.task))
    folder = RunFolder(Path(hydra.runtime.output_dir))
    return _run(run, folder, connect(run.trainer.device))


def follow(overrides: list[str]) -> None:
    """Run as a process other than the first, which decides what to do.

    Raises:
        GrpoEnvsError: as in `run`.
    """
    run = composition.compose_run(overrides)
    _run(run, None, connect(run.trainer.device))


def _run(run: schema.RunConfig, folder: RunFolder | None, processes: Processes) -> float | None:
    with ExitStack() as lock, in_one_line():

        def plan() -> Plan:
            assert folder is not None  # the first process has a folder
            lock.enter_context(folder.locked())
            return _plan(run, folder)

        agreed = processes.by_first(plan)
        if agreed.result is not None:
            log.info("already done: %s", shown(agreed.folder.path))
            return agreed.result.get(run.trainer.sweep_metric)
        return _train(agreed.run, agreed.folder, processes)


def _plan(run: schema.RunConfig, folder: RunFolder) -> Plan:
    asked, run = run.resume, replace(run, resume=None)
    if asked not in (None, AUTO) and Path(str(asked)).resolve() != folder.path.resolve():
        log.info("resume=%s: its newest run is %s", asked, shown(folder.path))
    result = folder.result if asked in (None, AUTO) else None
    if asked is None:
        folder.require_same(run.identity())
    if result is not None and (asked is None or folder.is_of(run.identity())):
        return Plan(run, folder, result)
    checkpoints = Checkpoints(folder.path)
    if checkpoints.newest_whole() is None:
        if asked is not None:
            _require_restartable(run, folder, asked)
        _begin_anew(folder, asked)
        return Plan(run, folder, None)
    step = checkpoints.require(run.decisive())
    if asked is None and not in_sweep():
        path = shown(folder.path)
        raise ConfigError(f"{path} holds an interrupted run. Add resume={path} to continue it.")
    checkpoints.point_last_to(checkpoints.after(step))
    return Plan(replace(run, resume=str(folder.path)), folder, None)


def _require_restartable(run: schema.RunConfig, folder: RunFolder, asked: str) -> None:
    """Refuse to resume a folder without a run, or a run with another configuration."""
    before, checkpoints = folder.config, Checkpoints(folder.path)
    if before is not None:
        free = run.identity().keys() - run.decisive().keys()
        decisive = {key: value for key, value in before.items() if key not in free}
        require_alike(folder.path, decisive, run.decisive())
    elif asked != AUTO and not folder.begun:
        checkpoints.require(run.decisive())  # raises: there is none


def _begin_anew(folder: RunFolder, asked: str | None) -> None:
    """Keep broken checkpoints under other names; log one line about them."""
    kept = Checkpoints(folder.path).set_aside()
    if kept:
        where = shown(folder.path / "checkpoints")
        message = f"no checkpoint is whole; the run starts anew. Kept in {where}: {', '.join(kept)}"
        log.warning("%s: %s", shown(folder.path), message)
    elif asked not in (None, AUTO):
        log.warning("%s: no checkpoint yet; the run starts anew.", shown(folder.path))


def run_in_sweep(cfg: DictConfig) -> float | None:
    """Do as `run`; if the job fails, write the reason into its folder.

    Raises:
        JobFailed: on any error; the log has the traceback.
    """
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    folder.try_again()
    with named_lines(_name(folder)) if _beside_others() else nullcontext():
        return _run_or_fail(cfg, folder)


def _run_or_fail(cfg: DictConfig, folder: RunFolder) -> float | None:
    try:
        _require_sweep_metric(cfg)
        return run(cfg)
    except GrpoEnvsError as error:
        why = str(error)
        log.error("failed: %s", why)  # noqa: TRY400 - a mistake, in one line
    except Exception as error:  # logged at the end of the sweep; other jobs continue
        why = f"{type(error).__name__}: {error}"
        log.exception("failed")
    folder.fail(why, list(HydraConfig.get().overrides.task))
    raise JobFailed(folder.path, why)


def _beside_others() -> bool:
    """Return whether concurrent jobs of the sweep share the terminal."""
    return str(HydraConfig.get().launcher._target_).endswith(".JoblibLauncher")


def _name(folder: RunFolder) -> str:
    """Return a name of this job: its overrides that not all jobs have."""
    sweep = folder.path.parent / "multirun.yaml"
    same = set(OmegaConf.load(sweep).hydra.overrides.task) if sweep.is_file() else set()
    own = [each for each in HydraConfig.get().overrides.task if each not in same]
    return " ".join(own) or folder.path.name


def in_sweep() -> bool:
    """Return whether this is a job of a sweep."""
    return HydraConfig.get().mode is RunMode.MULTIRUN


def _train(run: schema.RunConfig, folder: RunFolder, processes: Processes) -> float | None:
    with ExitStack() as opened:  # closed however the run ends
        envs = processes.each(lambda: opened.enter_context(closing(make_envs(run, processes))))
        from grpo_envs.training.build import (
            build,  # torch and transformers: not for --help, nor for a mistake
        )

        trainer = processes.each(lambda: build(run, folder.path, envs, processes))
        opened.enter_context(closing(trainer.evaluation))
        processes.by_first(lambda: _claim(run, folder, envs.train.env, trainer))
        try:
            metrics = trainer.run()
        finally:
            if processes.first:
                folder.end()
        if not processes.first:
            return None
        if trainer.stop.asked:
            again = _again(run, folder)
            log.warning("stopped after step %d, saved. To continue:\n  %s", trainer.done, again)
            raise Terminated if trainer.stop.terminated else KeyboardInterrupt  # ends a sweep, too
        folder.finish(trainer.done, metrics, trainer.stopped)
    if trainer.stopped:
        log.info("ended after step %d of %d: %s.", trainer.done, run.trainer.steps, trainer.stopped)
    log.info("checkpoint: %s", shown(folder.path / "checkpoints" / "last"))
    if "report" in run.logger.names:
        log.info("report: %s", shown(folder.path / "report.html"))
    return metrics.get(run.trainer.sweep_metric)


def _claim(run: schema.RunConfig, folder: RunFolder, env: TextEnv, trainer: Trainer) -> None:
    from grpo_policy.models import resolve  # as above

    chosen = HydraConfig.get().runtime.choices.items()
    before = folder.about.get("sessions", []) if run.resume else []
    about = {
        "choices": {k: v for k, v in chosen if isinstance(v, str) and not k.startswith("hydra/")},
        "model": resolve(run.model, trainer.policy.device).name,
        "weights": env.weights,
        "own": [*env.own_parts],
        "formulas": terms.formulas if (terms := term_log_of(trainer.agent)) else {},
        "versions": provenance.versions(),
        **asdict(run.run),
        "sessions": [
            *before,
            provenance.session(trainer.policy.device.type, threads.computing()),
        ],
    }
    folder.claim(run.identity(), list(HydraConfig.get().overrides.task), about)
    write_atomically(folder.path / provenance.PACKAGES, provenance.packages())


def _again(run: schema.RunConfig, folder: RunFolder) -> str:
    """Return the command that continues this run."""
    if not run.trainer.save_optimizer:
        return "(nothing does: trainer.save_optimizer=false)"
    if in_sweep():
        return "(the same command: a sweep skips what is done and resumes what was cut off)"
    overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
    path = shown(folder.path)
    return shlex.join(["python", "-m", "grpo_envs.run", *overrides, f"resume={path}"])


def _require_sweep_metric(cfg: DictConfig) -> None:
    """Refuse a sweeper that needs results of evaluations if there are none."""
    sweeper = HydraConfig.get().sweeper._target_
    evaluates = cfg.trainer.eval_problems or not cfg.trainer.sweep_metric.startswith("eval/")
    if sweeper != _BASIC_SWEEPER and not evaluates:
        raise ConfigError(
            f"trainer.sweep_metric={cfg.trainer.sweep_metric} with trainer.eval_problems=0: "
            "nothing is evaluated. Allowed: a metric of the training steps, such as reward/mean."
        )
