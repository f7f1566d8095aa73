"""The command line: options in, a verb called, its result shown. Only this package prints or exits."""

from onnxprune.cli import changing, listing, looking
from onnxprune.cli.group import main

__all__ = ["changing", "listing", "looking", "main"]
