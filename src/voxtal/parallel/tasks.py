"""Independent tasks, shared out to the ranks as they become free."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from voxtal.errors import Interrupted, UserError
from voxtal.parallel.communicator import Communicator, agree, report_crash

T = TypeVar("T")


def results(communicator: Communicator, tasks: int, work: Callable[[int], T], done: Any = None) -> list[T]:
    """What ``work`` returns for every task, in the order of the tasks, on every rank. Collective.

    When one fails the others stop after theirs, and all ranks raise its error.

    Parameters
    ----------
    work
        From the number of a task, below ``tasks``, to its result, which must be picklable.
    done
        Called on rank 0, as far as that knows, with how many more tasks are done.
    """
    own: dict[int, T] = {}
    shown = 0
    error: Exception | Interrupted | None = None
    try:
        with closing(communicator.share(tasks)) as share:
            for task in share:
                own[task] = work(task)
                if done and communicator.rank == 0:  # tasks are handed out in order: those before are done, or nearly
                    done(task + 1 - shown)
                    shown = task + 1
    except (Exception, Interrupted) as failure:
        if communicator.size > 1 and not isinstance(failure, (UserError, Interrupted)):
            report_crash(communicator)
        error = failure
    agree(communicator, error)
    if done and communicator.rank == 0:
        done(tasks - shown)
    gathered = communicator.bcast(communicator.gather(own))
    found = {task: result for part in gathered for task, result in part.items()}
    return [found[task] for task in range(tasks)]
