"""What is known of single tasks of reasoning-gym: docs/reasoning_gym.md tells how it was found."""

REFUSED: dict[str, str] = {}
"""Tasks that break a promise of ours which nothing of ours can mend, and why."""
NEIGHBOURS = frozenset({"intermediate_integration", "rubiks_cube", "simple_integration"})
"""Tasks where a right answer with a digit before or after it may be right as well (any constant of
integration; U1 is U), so that check_env must not try those as wrong ones."""
