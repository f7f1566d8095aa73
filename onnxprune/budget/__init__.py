"""Where to cut and how much: ranking, allocation, loss curves and the final choice."""
