"""Pruning by onnxsim, in an interpreter that has it: ``peer.py MODEL OUT FEED.npz ...``.

Each line of the input is a JSON object with ``sparsity``, ``heads`` (whether attention heads go too) and ``final``; OUT
is written for it, and ``done`` is the answer. Only the final one uses all data: how much goes does not depend on it.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np
import onnx

FEW = 4  # rows for what is not final


def main(arguments: list[str]) -> None:
    """Simplify once, then prune and write for each line."""
    source, out, *feeds = arguments
    tool = importlib.import_module("onnxsim")
    data: list[dict[str, Any]] = [dict(np.load(path)) for path in feeds]
    dense, _ = tool.simplify(onnx.load(source))
    for line in sys.stdin:
        onnx.save(pruned(dense, json.loads(line), data), out)
        print("done", flush=True)


def pruned(dense: Any, wish: dict[str, Any], data: list[dict[str, Any]]) -> Any:
    """Cut channels, and heads, by weights and activations; at last, refit by ridge regression."""
    pruning, finetune = (importlib.import_module(name) for name in ("onnxsim.pruning", "onnxsim.finetune"))
    given = data if wish["final"] else [few(feed) for feed in data[:1]]
    sparsity = float(wish["sparsity"])
    small = pruning.apply_structured_wanda_pruning(dense, calibration_data=given, sparsity=sparsity)
    if wish["heads"]:
        small = pruning.apply_attention_head_wanda_pruning(small, calibration_data=given, sparsity=sparsity)
    return finetune.apply_pruning_finetune(dense, small, calibration_data=given) if wish["final"] else small


def few(feed: dict[str, Any]) -> dict[str, Any]:
    """Some rows, if all arrays have as many rows."""
    alike = len({len(array) for array in feed.values()}) == 1
    return {name: array[:FEW] for name, array in feed.items()} if alike else feed


if __name__ == "__main__":
    main(sys.argv[1:])
