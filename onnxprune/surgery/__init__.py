"""Acting on a plan: removing, renumbering, rewiring and saving."""
