"""The machine that a latency belongs to: another one gives another."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from onnxprune.data import runtime


def processor() -> str:
    """The processor's name, as its maker gave it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    code = " ".join(found[key] for key in ("cpu family", "model", "stepping") if key in found)
    return f"{found.get('model name') or platform.processor() or platform.machine()} {code}".strip()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def accelerator(provider: str) -> str:
    """The device behind a provider other than the CPU, as far as it can be learnt."""
    if provider not in runtime.ON_CUDA:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def describe(provider: str) -> dict[str, str | int]:
    """What a latency on this provider depends on, beside the model."""
    found: dict[str, str | int] = {
        "processor": processor(),
        "cores": cores(),
        "onnxruntime": runtime.version(),
        "provider": provider,
    }
    return found if (device := accelerator(provider)) == "" else {**found, "device": device}
