"""The command line: options in, a verb called, its result shown. Only this package prints or exits."""

from onnxprune.cli import bench, changing, compare, listing, looking, report, sensitivity
from onnxprune.cli.group import main

__all__ = ["bench", "changing", "compare", "listing", "looking", "main", "report", "sensitivity"]
