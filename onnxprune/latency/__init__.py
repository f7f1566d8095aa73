"""How long a model takes: measured against others in turns, and predicted for widths that nobody has cut yet."""
