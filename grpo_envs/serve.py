"""Serve an environment by the OpenEnv protocol: `python -m grpo_envs.serve env=math`."""

import argparse
import signal
import sys
from contextlib import closing
from types import FrameType
from typing import NoReturn

from grpo_envs.config.composition import compose_run
from grpo_envs.env import plugins
from grpo_envs.errors import require, require_extra
from grpo_envs.runtime.terminal import exit_on_error

_PORTS = 2**16
_DAY_S = 86_400


@exit_on_error("Ctrl-C: ended.")
def main() -> None:
    """Serve until Ctrl-C (exit 130) or SIGTERM (exit 0); exit 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.serve", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for a run, e.g. env=math env.level=2")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0: all machines (%(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen at; 0: a free one (%(default)s)"
    )
    parser.add_argument(
        "--sessions", type=int, default=256, help="most sessions at the same time (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds that a grading may take (%(default)g)"
    )
    options = parser.parse_intermixed_args()
    require(0 <= options.port < _PORTS, "--port", options.port, f"0 to {_PORTS - 1}")
    require(options.sessions > 0, "--sessions", options.sessions, "1 or more")
    require(0 < options.timeout <= _DAY_S, "--timeout", options.timeout, f"above 0, up to {_DAY_S}")
    _serve(options)


def _serve(options: argparse.Namespace) -> None:
    cfg = compose_run(options.overrides)
    name = cfg.env["name"]
    signal.signal(signal.SIGTERM, _end)
    with closing(plugins.make(name, **cfg.env_keywords)) as env:
        require_extra("openenv", "serving", ["openenv"])
        # Imported here: they take seconds, and a mistake is reported before.
        from grpo_envs.interop import openenv, served

        with closing(openenv.listen(options.host, options.port)) as at:
            host, port = at.getsockname()[:2]
            at_once = f"{options.sessions} sessions; Ctrl-C ends it."
            line = f"env={name} at http://{host}:{port}, {at_once}"
            server = openenv.Server(
                served.Served(name, env, options.timeout),
                options.sessions,
                ready=lambda: print(line, flush=True),
            )
            server.run(sockets=[at])


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
