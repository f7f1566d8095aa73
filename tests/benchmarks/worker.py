"""One job after another in a process of its own, which may crash or hang without costing the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import onnxprune

Job = TypeVar("Job")


class Failure(str):
    """Why there is no result, in a line."""


def line(error: BaseException) -> Failure:
    """An error in a line."""
    name = "" if isinstance(error, onnxprune.PruneError) else f"{type(error).__name__}: "
    return Failure(name + " ".join(str(error).split())[:300])


class Worker:
    """A process that does one task, replaced when it dies or takes too long.

    Args:
        task: a function of a module, called with each job.
        timeout: seconds for one job.
    """

    def __init__(self, task: Callable[[Any], Any], timeout: float) -> None:
        self.task, self.timeout = task, timeout
        self.context = multiprocessing.get_context("spawn")
        self.start()

    def start(self) -> None:
        """Begin a process."""
        self.pipe, other = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(self.task, other), daemon=True)
        self.process.start()
        other.close()

    def ask(self, job: Any) -> Any:
        """The task's result, or a `Failure`."""
        self.pipe.send(job)
        try:
            if self.pipe.poll(self.timeout):
                return self.pipe.recv()
            failure = Failure(f"took more than {self.timeout:g} s")
        except (EOFError, ConnectionError):
            self.process.join(10)
            failure = Failure(f"the process died (exit code {self.process.exitcode})")
        self.close()
        self.start()
        return failure

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(task: Callable[[Any], Any], pipe: Connection) -> None:
    while True:
        job = pipe.recv()
        try:
            pipe.send(task(job))
        except Exception as error:
            pipe.send(line(error))


def progress(jobs: Sequence[Job], name: Callable[[Job], str]) -> Iterator[Job]:
    """Give jobs one by one and show on stderr how far it is."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=len(jobs))
        for job in jobs:
            shown.update(task, description=name(job))
            yield job
            shown.advance(task)
