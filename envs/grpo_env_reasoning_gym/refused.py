"""Known faults of single tasks of reasoning-gym; docs/reasoning_gym.md says how they were found."""

REFUSED: dict[str, str] = {
    "coin_flip": "its grader pays for any beginning of the number, and 0 begins nine of ten",
    "game_of_life_halting": "its grader pays for any answer",
    "gsm_symbolic": "its grader takes the first number of any text, which pays for some copied "
    "questions (env=gsm_symbolic has the same questions)",
    "propositional_logic": "its grader pays for a premise that is copied from the question",
    "puzzle24": "its grader pays for other numbers than those of the question",
    "sokoban": "its grader finds moves in any text, and those in the question solve some",
}
"""Tasks that cannot be used because they break a promise of environments, and why."""
NEIGHBOURS = frozenset(
    {
        *("advanced_geometry", "decimal_arithmetic", "number_format", "pool_matrix"),
        *("intermediate_integration", "rubiks_cube", "simple_integration"),
        *("fraction_simplification", "knights_knaves", "quantum_lock", "time_intervals"),
        *("power_function", "tower_of_hanoi"),
    }
)
"""Tasks for which a right answer with an added digit may be right as well, so check_env must not
use it as a wrong answer. Their graders round, accept several right answers (any constant of
integration; U1 is U), or ignore words that are not part of an answer."""
