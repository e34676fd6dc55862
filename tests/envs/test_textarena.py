"""Games of TextArena: a stand-in for the package, and the package itself where it is installed."""

import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import grpo_envs
from grpo_env_gym import arena as module
from grpo_env_gym.arena_game import TextArenaGame
from grpo_envs.env.conformance import check_promises
from grpo_envs.errors import ConfigError
from grpo_envs.types import Turn

HERE = find_spec("textarena") is not None
needs_package = pytest.mark.skipif(not HERE, reason="textarena is not installed (extra textarena)")
NLTK = "Resource words not found.\n\n  >>> import nltk\n  >>> nltk.download('words')\n"


class Doors:
    """Which of three doors? Drawn by the global generator, as TextArena's games do."""

    def reset(self, num_players: int, seed: int | None) -> None:
        assert num_players == 1
        print("what a game prints")
        random.seed(seed)
        self.door, self.size = random.randrange(3), random.randrange(100)
        self.said = f"There are three doors; number {self.size}."
        self.rewards: dict[int, float] | None = None
        self.state = SimpleNamespace(game_info={0: {}})

    def get_observation(self) -> tuple[int, str]:
        return 0, self.said

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        self.said = f"A draught: {random.random():.3f}."
        if action == f"[{self.door}]":
            self.rewards = {0: 1.0}
            self.state.game_info[0]["reason"] = "You found it."
        return self.rewards is not None, {}

    def close(self) -> tuple[Any, Any]:
        return self.rewards, {}


class Dice(Doors):
    """Throws with a pause in between, in which another thread may throw."""

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        thrown = []
        for _ in range(4):
            thrown.append(random.randrange(1000))
            time.sleep(0.002)
        self.said = str(thrown)
        return False, {}


class Early(Doors):
    """Draws its puzzle before it is seeded, as RushHour does."""

    def __init__(self) -> None:
        self.puzzle = random.randrange(10**6)

    def reset(self, num_players: int, seed: int | None) -> None:
        super().reset(num_players, seed)
        self.said = f"Puzzle {self.puzzle}."


class Swapped(Doors):
    """A wrong move ends it; the reason is passed as the reward, as four games do."""

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        self.rewards = {0: "Use `[k]`."}  # type: ignore[dict-item]
        self.state.game_info[0] |= {"reason": "Invalid Move: 0.0", "invalid_move": action != "[k]"}
        return True, {}


class Words(Doors):
    def reset(self, num_players: int, seed: int | None) -> None:
        raise LookupError(NLTK)


class Both(Doors):
    def reset(self, num_players: int, seed: int | None) -> None:
        raise AssertionError("The number of players has to be 2, received 1.")


GAMES = {
    "Doors-v0": Doors,
    "Dice-v0": Dice,
    "Early-v0": Early,
    "Swapped-v0": Swapped,
    "Bandit-v0": Doors,
    "Mastermind-v0-hard": Doors,
    "Words-v0": Words,
    "Both-v0": Both,
}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of that name with the games above."""
    registration: Any = ModuleType("textarena.envs.registration")
    registration.ENV_REGISTRY = {**GAMES, "Doors-v0-raw": Doors}
    package: Any = ModuleType("textarena")
    package.make = lambda name: GAMES[name]()
    for name, found in (
        ("textarena", package),
        ("textarena.envs", ModuleType("textarena.envs")),
        ("textarena.envs.registration", registration),
    ):
        monkeypatch.setitem(sys.modules, name, found)
    module.games.cache_clear()
    yield
    module.games.cache_clear()


@pytest.mark.usefixtures("stand_in")
def test_every_promise_is_kept() -> None:
    env = grpo_envs.make("textarena", game="Doors-v0", turns=3)
    assert [c.evidence for c in check_promises(env, 10) if c.evidence] == []


@pytest.mark.usefixtures("stand_in")
def test_a_game_pays_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    env = grpo_envs.make("textarena", game="Doors-v0", turns=4)
    problem = env.problem(0)
    assert problem.prompt.startswith("There are three doors")
    turns: list[Turn] = []
    replies = []
    for door in range(3):
        turns.append(Turn(action=f"<think>try</think>[{door}]"))
        replies.append(env.respond(problem, turns))
        turns[-1] = Turn(action=turns[-1].action, observation=replies[-1].observation)
        if replies[-1].done:
            break
    assert replies[-1].observation == "You found it."
    assert [reply.reward.total for reply in replies] == [0.0] * (len(replies) - 1) + [1.0]
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("stand_in")
def test_a_puzzle_that_is_drawn_before_it_is_seeded_belongs_to_its_seed() -> None:
    env, other = (grpo_envs.make("textarena", game="Early-v0") for _ in range(2))
    prompts = [env.problem(seed).prompt for seed in range(6)]
    assert len({*prompts}) == 6
    assert [other.problem(seed).prompt for seed in (5, 4, 3, 2, 1, 0)] == prompts[::-1]


@pytest.mark.usefixtures("stand_in")
def test_a_wrong_move_whose_reward_is_its_reason_pays_the_least() -> None:
    env = grpo_envs.make("textarena", game="Swapped-v0", return_range=[-1, 1])
    problem = env.problem(0)
    (wrong,) = env.reply_batch([problem], [[Turn(action="cup 2")]])
    assert (wrong.reward.valid, wrong.reward.total, wrong.done) == (True, 0.0, True)
    assert wrong.observation == "Use `[k]`."
    (right,) = env.reply_batch([problem], [[Turn(action="[k]")]])
    assert not right.reward.valid  # a text that is no reward is a fault of the game


@pytest.mark.usefixtures("stand_in")
def test_the_global_generator_is_left_as_it_was() -> None:
    """And what others draw in between changes no game."""
    env = grpo_envs.make("textarena", game="Doors-v0", turns=3)
    random.seed(5)
    wanted = [random.random() for _ in range(3)]
    random.seed(5)
    drawn = [random.random()]
    problem = env.problem(1)
    drawn.append(random.random())
    first = env.respond(problem, [Turn(action="[9]")])
    drawn.append(random.random())
    assert drawn == wanted
    random.seed(6)
    assert env.respond(problem, [Turn(action="[9]")]) == first
    assert first.reward.valid


@pytest.mark.usefixtures("stand_in")
def test_games_in_threads_have_generators_of_their_own() -> None:
    def thrown(seed: int) -> str:
        game = TextArenaGame("Dice-v0")
        game.reset(seed=seed)
        return str([game.step("throw")[0] for _ in range(5)])

    alone = [thrown(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(thrown, range(4))] == alone


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("game", "hidden"), [("Doors-v0", False), ("Bandit-v0", True), ("Mastermind-v0-hard", True)]
)
def test_games_declare_that_their_problem_is_hidden(game: str, hidden: bool) -> None:
    assert grpo_envs.make("textarena", game=game).hidden is hidden


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"game": "Dors-v0"}, "env.game=Dors-v0. Allowed: a game of TextArena for one player"),
        ({"game": "Dors-v0"}, "Did you mean 'Doors-v0'?"),
        ({"game": "Doors-v0-raw"}, "env.game=Doors-v0-raw. Allowed: "),
        ({"game": "Words-v0"}, "Words-v0 needs the words of NLTK: python -m nltk.downloader words"),
        ({"game": "Both-v0"}, "The number of players has to be 2, received 1."),
        ({"game": "Doors-v0", "return_range": [1, 0]}, "env.return_range=[1, 0]. Allowed: "),
    ],
)
def test_a_mistake_is_one_line(keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("textarena", **keywords)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textarena", None)
    module.games.cache_clear()
    with pytest.raises(ConfigError) as caught:
        grpo_envs.make("textarena")
    assert 'It needs textarena: pip install -e ".[textarena]"' in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize("game", ["FrozenLake-v0-random", "LightsOut-v0", "Sudoku-v0-very-easy"])
def test_games_of_the_package_keep_every_promise(game: str) -> None:
    module.games.cache_clear()
    env = grpo_envs.make("textarena", game=game, turns=4)
    assert [c.evidence for c in check_promises(env, 5) if c.evidence] == []


@needs_package
@pytest.mark.slow
def test_a_lake_is_crossed_and_pays() -> None:
    """Along the first way over the board that avoids its holes."""
    module.games.cache_clear()
    env = grpo_envs.make("textarena", game="FrozenLake-v0-random", turns=12)
    problem = env.problem(0)
    rows = [line.split("|")[1:-1] for line in problem.prompt.splitlines() if line.startswith("|")]
    board = [[cell.strip() for cell in row] for row in rows]
    turns: list[Turn] = []
    for move in _way(board):
        turns.append(Turn(action=f"[{move}]"))
        reply = env.respond(problem, turns)
        turns[-1] = Turn(action=f"[{move}]", observation=reply.observation)
    assert reply.done
    assert reply.reward.total == 1.0


def _way(board: list[list[str]]) -> list[str]:
    last = len(board) - 1
    ways: dict[tuple[int, int], list[str]] = {(0, 0): []}
    for y, x in (queue := [(0, 0)]):
        moves = {"down": (y + 1, x), "right": (y, x + 1), "up": (y - 1, x), "left": (y, x - 1)}
        for move, (v, u) in moves.items():
            on_board = 0 <= v <= last and 0 <= u <= last
            if on_board and (v, u) not in ways and board[v][u] != "H":
                ways[v, u] = [*ways[y, x], move]
                queue.append((v, u))
    return ways[last, last]
