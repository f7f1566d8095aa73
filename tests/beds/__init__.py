"""Accuracy after pruning without training, on real models with real data: ``python -m tests.beds``."""
