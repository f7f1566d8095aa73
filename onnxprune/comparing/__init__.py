"""Two exports of one network side by side: what they agree on, layer by layer, and where they first part."""
