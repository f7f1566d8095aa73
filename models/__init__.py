"""Trained models that ship with the checkout, and how to fetch larger ones."""
