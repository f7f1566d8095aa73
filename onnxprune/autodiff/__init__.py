"""Gradients of a model, for the criteria that ask for them."""
