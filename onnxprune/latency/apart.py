"""A call in an interpreter of its own: what it measures shares no threads with what this process did before."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from onnxprune.errors import PruneError

Given = ParamSpec("Given")
Found = TypeVar("Found")
PROGRAM = "from onnxprune.latency.apart import serve; serve()"


def call(function: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found:
    """What a function of this package returns when another interpreter calls it.

    Raises:
        PruneError: what the function raised, or the interpreter did not survive the call.
    """
    request = pickle.dumps((function, args, kwargs))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=request, capture_output=True, env=environment, check=False
    )
    try:
        found, error = pickle.loads(done.stdout)
    except (pickle.UnpicklingError, EOFError) as lost:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise PruneError(f"The measuring process ended early, with code {done.returncode}: {last[0][:200]}") from lost
    if error is not None:
        raise error
    answer: Found = found
    return answer


def serve() -> None:
    """Answer one call: read it from the standard input, and write what it returns, or raises, to the output."""
    with os.fdopen(os.dup(1), "wb") as reply:
        os.dup2(2, 1)  # what native code prints is no answer
        function, args, kwargs = pickle.load(sys.stdin.buffer)
        found = failed = None
        try:
            found = function(*args, **kwargs)
        except PruneError as error:
            failed = error
        pickle.dump((found, failed), reply)
