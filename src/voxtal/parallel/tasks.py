"""Independent tasks, shared out to the ranks as they become free."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from typing import TypeVar

from voxtal.errors import Interrupted, UserError
from voxtal.interrupts import deferred_stop
from voxtal.parallel.communicator import Communicator, agree, report_crash

T = TypeVar("T")


def shown(
    progress: Callable[[str, int], AbstractContextManager[Callable[..., None]]] | None,
    what: str,
    total: int,
    communicator: Communicator,
) -> AbstractContextManager[Callable[..., None]]:
    """``progress``, where there is any and something to do, on rank 0; silence on the others."""
    if progress is None or not total or communicator.rank > 0:
        return nullcontext(lambda *_: None)
    return progress(what, total)


def advancing(advance: Callable[..., None], sizes: Iterable[int]) -> Callable[[int], None]:
    """``done`` for tasks that each count as so many: advances by those of the next ones."""
    left = iter(sizes)
    return lambda tasks: advance(sum(islice(left, tasks)))


def results(
    communicator: Communicator, tasks: int, work: Callable[[int], T], done: Callable[[int], None] | None = None
) -> list[T]:
    """:func:`gathered`, but on every rank."""
    found = _shared_out(communicator, tasks, work, done, lambda own: communicator.bcast(communicator.gather(own)))
    assert found is not None
    return found


def gathered(
    communicator: Communicator, tasks: int, work: Callable[[int], T], done: Callable[[int], None] | None = None
) -> list[T] | None:
    """What ``work`` returns for every task, in the order of the tasks; on rank 0, None on the others. Collective.

    When one fails the others stop after theirs, and all ranks raise its error.

    Parameters
    ----------
    work
        From the number of a task, below ``tasks``, to its result, which must be picklable.
    done
        Called on rank 0, as far as that knows, with how many more tasks are done.
    """
    return _shared_out(communicator, tasks, work, done, communicator.gather)


def _shared_out(
    communicator: Communicator,
    tasks: int,
    work: Callable[[int], T],
    done: Callable[[int], None] | None,
    collect: Callable[[dict[int, T]], list[dict[int, T]] | None],
) -> list[T] | None:
    """:func:`gathered`, by ``collect``: from a rank's results to those of each rank, None where they are not wanted."""
    own: dict[int, T] = {}
    shown = 0
    error: Exception | Interrupted | None = None
    with deferred_stop() as stop:  # a rank that leaves between two calls that all make would leave the others waiting
        try:
            with closing(communicator.share(tasks)) as share:
                for task in share:
                    if signal := stop():
                        raise Interrupted(signal)
                    with stop.heeded():
                        own[task] = work(task)
                    if done and communicator.rank == 0:  # they are handed out in order: those before are nearly done
                        done(task + 1 - shown)
                        shown = task + 1
        except (Exception, Interrupted) as failure:
            if communicator.size > 1 and not isinstance(failure, (UserError, Interrupted)):
                report_crash(communicator)
            error = failure
        agree(communicator, error)
        if done and communicator.rank == 0:
            done(tasks - shown)
        parts = collect(own)
    stop.send_again()
    if parts is None:
        return None
    found = {task: result for part in parts for task, result in part.items()}
    return [found[task] for task in range(tasks)]
