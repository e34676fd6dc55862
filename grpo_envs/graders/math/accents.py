r"""Names with accents and indices: `\vec{v}_0`, `\dot{x}`, `\overline{x}_n`."""

from collections.abc import Mapping

from grpo_envs.graders.math.grammar import Parser, Start
from grpo_envs.graders.math.leaves import defined, subscript
from grpo_envs.graders.math.nodes import Node
from grpo_envs.graders.math.tokens import Token

_SAME = {
    **{"overline": "bar", "widehat": "hat", "widetilde": "tilde", "overrightarrow": "vec"},
    **{"boldsymbol": "mathbf", "bm": "mathbf", "bf": "mathbf", "dddot": "dot dot dot"},
    **{"ddot": "dot dot"},
}
_DOTLESS = {"imath": "i", "jmath": "j"}
_NUMBER_SETS = frozenset("RQZNC")
_ACCENTS = (
    *("vec", "hat", "bar", "tilde", "dot", "breve", "check", "acute", "grave", "mathring"),
    *("mathbf", "mathcal", "mathfrak", "mathscr", "underline", "overleftrightarrow", *_SAME),
)


def _accented(parser: Parser, accent: str) -> Node:
    letter = subscript(parser)
    name = f"{_SAME.get(accent, accent)} {_DOTLESS.get(letter, letter)}"
    if parser.skip("_"):
        name += "_" + subscript(parser)
    while parser.skip("'"):
        name += "'"
    return ("var", name)


def _blackboard(parser: Parser, _: str) -> Node:
    name = subscript(parser)
    if name in _NUMBER_SETS:
        return ("const", name)
    return defined(parser, f"mathbb {name}") or ("var", f"mathbb {name}")


ACCENTS: Mapping[Token, Start] = {
    **{("cmd", name): _blackboard for name in ("mathbb", "Bbb")},
    **{("cmd", name): lambda _, name: ("const", name) for name in _NUMBER_SETS},
    **{("cmd", long): lambda _, name: ("const", name[0]) for long in ("Reals", "Complex")},
    ("cmd", "Pr"): lambda parser, name: defined(parser, name) or ("var", name),
    **{("cmd", name): _accented for name in _ACCENTS},
}
