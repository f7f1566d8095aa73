"""The index algebra: which indices of which tensors stand for the same thing, and what they cost."""
