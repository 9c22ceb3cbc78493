"""Sums over the ranks of a node, in memory that they share.

Gloo hands a sum from thread to thread, and on cores that are busy training each may wait for the scheduler: as long as
a whole step of a small network (benchmarks/all_reduce.py, docs/results.md).
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_POLLED_SECONDS = 5e-4
"""A core that falls asleep while a process waits takes a tenth of a millisecond to wake up."""
_READY = b"."
_RANK = struct.Struct("=q")
_LENGTH = struct.Struct("=q")
_CREDENTIALS = struct.Struct("=3i")
"""Of a connected process: its number, its user and group."""
_FIRST = "the first rank of its node"


@dataclass(frozen=True)
class _Views:
    """Of the shared memory, for parts of one layout.

    Attributes
    ----------
    own
        Where this rank puts its parts.
    stripes
        The stretch of every rank's place that this rank sums, into the first.
    total, sums
        All of the sums (n,), and each in the shape of its part.
    """

    own: list[Tensor]
    stripes: list[Tensor]
    total: Tensor
    sums: list[Tensor]


class NodeSums:
    """The ranks of a node, each joined to the first of them, which gives them the memory. All methods are collective.

    Parameters
    ----------
    rank, size
        Of this process among those of its node.
    peers
        Of the first rank: connections to the others, rising; of another: the one to the first.
    between_nodes
        Adds to a vector, in place, those of the other nodes' first ranks; called by the first rank. None: one node.

    Raises
    ------
    OSError
        A rank is gone, or was not heard of for the timeout of its connection.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        peers: Sequence[socket.socket],
        between_nodes: Callable[[Tensor], object] | None = None,
    ) -> None:
        self.rank, self.size, self._peers, self._between_nodes = rank, size, peers, between_nodes
        self._memory, self._turn = self._room_for(1), 0
        self._views: dict[Any, _Views] = {}

    def sum(self, parts: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Sum over all ranks of each of ``parts`` on the CPU.

        Returns
        -------
        list of Tensor
            Each in the shape of its part, the same on all ranks to the last bit. They lie in the shared memory: others
            may read what is written into it, and the next sum but one is written over it.
        """
        self._turn = 1 - self._turn  # the other places may still be read by a slower rank
        views = self._views_of(parts, dtype)
        torch._foreach_copy_(views.own, list(parts))
        self._wait_for_all()
        for other in views.stripes[1:]:  # each rank sums a part
            views.stripes[0] += other
        self._wait_for_all()
        if self._between_nodes:
            if self.rank == 0:
                self._between_nodes(views.total)
            self._wait_for_all()
        return views.sums

    def bcast(self, value: Any, root: int = 0) -> Any:
        """``value`` of rank ``root`` on every rank; it is pickled. Not between nodes."""
        if self.rank == 0:
            message = _message_from(self._peers[root - 1], f"rank {root} of its node") if root else pickle.dumps(value)
            for peer in self._peers:
                peer.sendall(_LENGTH.pack(len(message)) + message)
            return pickle.loads(message)
        if self.rank == root:
            message = pickle.dumps(value)
            self._peers[0].sendall(_LENGTH.pack(len(message)) + message)
        return pickle.loads(_message_from(self._peers[0], _FIRST))

    def close(self) -> None:
        for peer in self._peers:
            peer.close()

    def _views_of(self, parts: Sequence[Tensor], dtype: torch.dtype) -> _Views:
        """They are kept: to make one takes as long as to sum a small layer, and networks have few layouts."""
        layout = (self._turn, dtype, *[(part.shape, part.stride()) for part in parts])
        if layout not in self._views:
            n = sum(part.numel() for part in parts)
            if n * dtype.itemsize > self._memory.shape[-1]:
                self._views.clear()
                self._memory = self._room_for(n * dtype.itemsize)
            places = self._memory[self._turn, :, : n * dtype.itemsize].view(dtype)
            first, last = (n * rank // self.size for rank in (self.rank, self.rank + 1))
            self._views[layout] = _Views(
                own=views_like(parts, places[self.rank]),
                stripes=[place[first:last] for place in places],
                total=places[0],
                sums=views_like(parts, places[0]),
            )
        return self._views[layout]

    def _room_for(self, n_bytes: int) -> Tensor:
        """Two places for each rank (2, size, at least n_bytes)."""
        room = -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        return _shared_memory(self.rank, self._peers, 2 * self.size * room).view(2, self.size, room)

    def _wait_for_all(self) -> None:
        if self.rank == 0:
            for number, peer in enumerate(self._peers, start=1):
                _received(peer, len(_READY), f"rank {number} of its node")
        for peer in self._peers:
            peer.sendall(_READY)
        if self.rank:
            _received(self._peers[0], len(_READY), _FIRST)


def views_like(parts: Sequence[Tensor], flat: Tensor) -> list[Tensor]:
    """Of ``flat`` (n,), one after the other, each in the shape of its part and if possible its order in memory."""
    views, begin = [], flat.storage_offset()
    for part in parts:
        views.append(flat.as_strided(part.shape, _strides_of_block(part.shape, part.stride()), begin))
        begin += part.numel()
    return views


@lru_cache(maxsize=1024)
def _strides_of_block(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """``strides`` where they take every place of a block once, in whatever order of axes; else those of C."""
    expected = 1
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length != 1 and stride != expected:
            return torch.empty(shape, device="meta").stride()
        expected *= length
    return strides


def join_node(
    rank: int, gathered: Callable[[object], list[Any]], patience: float
) -> tuple[list[list[int]], list[socket.socket]] | None:
    """Connect the ranks of each node. Collective.

    Parameters
    ----------
    gathered
        Gives every rank what all ranks called it with, in their order.
    patience
        Seconds without an answer after which a rank counts as lost.

    Returns
    -------
    The ranks of each node, rising; and the ``peers`` of this one, as :class:`NodeSums` wants them. None where a rank's
    system has no such memory.
    """
    nodes = gathered(_node_of_process())
    if None in nodes:
        return None
    nodes_ranks = [[other for other, at in enumerate(nodes) if at == node] for node in dict.fromkeys(nodes)]
    first, *others = next(ranks for ranks in nodes_ranks if rank in ranks)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(patience)
        if rank == first:
            listener.bind("")  # Linux finds a name, which is no file that could be left behind
            listener.listen(len(others))
        address = gathered(listener.getsockname())[first]
        if rank == first:
            return nodes_ranks, _accepted(listener, others)
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(patience)
        peer.connect(address)
        peer.sendall(_RANK.pack(rank))
        return nodes_ranks, [peer]


def _node_of_process() -> str | None:
    """The same for processes that can share memory: of one boot and one network namespace. None but on Linux."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/net')}"
    except OSError:  # a container without /proc
        return None


def _accepted(listener: socket.socket, ranks: list[int]) -> list[socket.socket]:
    """Connections to ``ranks``, in their order."""
    found: dict[int, socket.socket] = {}
    while len(found) < len(ranks):
        peer, _ = listener.accept()
        _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user != os.getuid():  # the memory is not for others
            peer.close()
            continue
        peer.settimeout(listener.gettimeout())
        (rank,) = _RANK.unpack(_received(peer, _RANK.size, "a rank that joined its node"))
        found[rank] = peer
    return [found[rank] for rank in ranks]


def _shared_memory(rank: int, peers: Sequence[socket.socket], n_bytes: int) -> Tensor:
    """Bytes (n_bytes,) that all ranks of the node see; gone with the last of them, however it ends."""
    if rank == 0:
        handle = os.memfd_create("voxtal")
        os.ftruncate(handle, n_bytes)
        for peer in peers:
            socket.send_fds(peer, [_READY], [handle])
    else:
        _, handles, _, _ = socket.recv_fds(peers[0], len(_READY), 1)
        if not handles:
            raise ConnectionError(f"{_FIRST} closed its connection")
        handle = handles[0]
    try:
        return torch.frombuffer(mmap.mmap(handle, n_bytes), dtype=torch.uint8)
    finally:
        os.close(handle)


def _message_from(peer: socket.socket, who: str) -> bytes:
    (length,) = _LENGTH.unpack(_received(peer, _LENGTH.size, who))
    return _received(peer, length, who)


def _received(peer: socket.socket, n_bytes: int, who: str) -> bytes:
    message = bytearray()
    end = time.perf_counter() + _POLLED_SECONDS
    while len(message) < n_bytes:
        missing = n_bytes - len(message)
        try:
            part = os.read(peer.fileno(), missing) if time.perf_counter() < end else peer.recv(missing)
        except BlockingIOError:  # of the read; recv waits
            os.sched_yield()
            continue
        if not part:
            raise ConnectionError(f"{who} closed its connection")
        message += part
    return bytes(message)
