"""The two values of an expression with a plus-minus sign."""

from grpo_envs.graders.math.nodes import Node, kinds, walk


def signs_of(node: Node) -> list[Node]:
    """Return the two values of 1 plus-minus 2, or of a pair with this sign; else only the node.

    Two plus-minus signs may mean two or four values: then the node is unchanged.
    """
    if not kinds(node) & {"pm", "mp"} or sum(part[0] == "pm" for part in walk(node)) > 1:
        return [node]
    return [_signed(node, upper=upper) for upper in (True, False)]


def _signed(node: Node, *, upper: bool) -> Node:
    parts = tuple(_signed(p, upper=upper) if isinstance(p, tuple) else p for p in node)
    if parts[0] not in ("pm", "mp"):
        return parts
    plus = upper == (parts[0] == "pm")
    return ("add", parts[1], parts[2] if plus else ("neg", parts[2]))
