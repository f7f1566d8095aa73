"""The passes that come with onnxprune, by name."""

from __future__ import annotations

from onnxprune.passes import Pass
from onnxprune_passes.remove_channels import RemoveChannels
from onnxprune_passes.zero_channels import ZeroChannels

PASSES: dict[str, type[Pass]] = {p.name: p for p in (RemoveChannels, ZeroChannels)}
