"""Accuracy without training: statistics, exact refits and the gates in front of them."""
