"""Tools on the model's side: showing them, reading calls in the model's own form, results."""
