"""Pairs of exports of one network, made where the frameworks are installed, to try `onnxprune compare` on."""
