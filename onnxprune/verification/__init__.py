"""Whether the surgery is right and the providers agree, and what the cut cost."""
