"""All checks that need a CUDA device, in one command: ``python -m tests.cuda [MODEL …] [--json FILE]``.

For each model: removed equals zeroed on the CPU and on CUDA; the dense and the pruned model give the same outputs on
both; the share of the multiply-accumulates that really ran on CUDA; and the latency of both, inputs and outputs bound
to the device. The exit code is 0 if everything is equal, 1 if not, and 4 if there is no such provider.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxprune
from onnxprune.errors import ProviderError, PruneError
from onnxprune.latency.bench import bench
from onnxprune.report.results import Verified, environment

MODELS = [
    Path(__file__).parents[1] / "models" / "fmnist" / f"{name}.onnx"
    for name in ("vgg_bn", "resnet_bn", "mobilenet_bn", "vit", "lstm")
]
HEADER = ("model", "removed≡zeroed", "dense: CPU≡", "pruned: CPU≡", "MACs there", "dense ms", "pruned ms", "speed-up")


def checked(model: Path, provider: str, seconds: float = 5.0) -> dict[str, Any]:
    """What is found of one model.

    Raises:
        ProviderError: there is no such provider, or it runs nothing of the model.
    """
    with TemporaryDirectory() as folder:
        out = Path(folder) / "pruned.onnx"
        cut = onnxprune.prune(model, out, ratio=0.5, recover="none", providers=("cpu", provider), keep_unverified=True)
        dense, pruned = (onnxprune.verify(m, providers=[provider], optimization=["off", "all"]) for m in (model, out))
        (timed,) = bench([model, out], providers=[provider], seconds=seconds).measured
    times = [timing.median for timing in timed.timings]
    share = min(placement.share for found in (dense, pruned) for placement in found.answers.placement.values())
    return {
        "model": model.stem,
        "verified": cut.applied.verified,
        "equal": cut.applied.verified and bool(dense) and bool(pruned),
        "removed_vs_zeroed": cut.applied.error,
        "dense": _apart(dense),
        "pruned": _apart(pruned),
        "share_of_macs": share,
        "latency_ms": times,
        "details": {"dense": dense.to_json(), "pruned": pruned.to_json()},
    }


def _apart(found: Verified) -> float:
    return max(c.relative for each in found.answers.agreement.values() for c in each)


def rows(found: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table."""
    return [
        (
            each["model"] + ("" if each["equal"] else " DIFFERS"),
            f"{each['removed_vs_zeroed']:.1e}",
            f"{each['dense']:.1e}",
            f"{each['pruned']:.1e}",
            f"{each['share_of_macs']:.1%}",
            *(f"{time:.3f}" for time in each["latency_ms"]),
            f"{each['latency_ms'][0] / each['latency_ms'][1]:.2f}",
        )
        for each in found
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Check, print, and say whether all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.cuda", description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, default=MODELS)
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing, per model")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    try:
        found = [checked(model, given.provider, given.seconds) for model in given.models]
    except PruneError as error:
        hint = " Install onnxruntime-gpu, with CUDA and cuDNN beside it." if isinstance(error, ProviderError) else ""
        print(f"{error}{hint}", file=sys.stderr)
        return error.exit_code
    table = [HEADER, *rows(found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if given.json:
        document = {"provider": given.provider, "environment": environment(), "models": found}
        given.json.write_text(json.dumps(document, indent=1, default=float) + "\n", encoding="utf-8")
    return 0 if all(each["equal"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
