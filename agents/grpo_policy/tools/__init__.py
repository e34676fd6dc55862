"""Tools on the model's side: showing tools, reading calls in the model's form, adding results."""
