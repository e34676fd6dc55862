"""Keywords that an environment needs and that have no default."""

from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest

_served = ExitStack()


def needed(name: str) -> dict[str, Any]:
    """Return what the environment of this name must be given."""
    if name == "textarena":
        pytest.importorskip("textarena", reason='pip install -e ".[textarena]"')
    if name == "gym":
        return {"id": "tests.support.text_games:text_games/Reverse-v0"}
    return {"url": _url(), "turns": 1} if name == "openenv" else {}


@cache
def _url() -> str:
    """Return the address of a server that stays until the process ends."""
    from tests.support.openenv_games import words  # here: most tests need no server
    from tests.support.openenv_stand_in import serving

    return _served.enter_context(serving(words()))
