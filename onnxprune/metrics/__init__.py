"""How good outputs are: metrics, their registry and the evidence that they give."""
