"""Sums over the ranks of a node, in memory that they share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from voxtal.parallel.launch import local_environment
from voxtal.parallel.node_sums import NodeSums, join_node

if not hasattr(os, "memfd_create"):
    pytest.skip("only Linux has such memory", allow_module_level=True)

T = TypeVar("T")


def on_ranks(size: int, work: Callable[[int, list[socket.socket]], T]) -> list[T | BaseException]:
    """What ``work(rank, peers)`` returns or raises in ``size`` threads that are joined like ranks of a node."""
    ends = [socket.socketpair() for _ in range(size - 1)]
    peers = [[first for first, _ in ends], *([other] for _, other in ends)]
    for connections in peers:
        for connection in connections:
            connection.settimeout(20)
    found: list[T | BaseException] = [AssertionError("it hangs")] * size

    def call(rank: int) -> None:
        try:
            found[rank] = work(rank, peers[rank])
        except BaseException as error:
            found[rank] = error
        finally:
            for connection in peers[rank]:
                connection.close()

    threads = [threading.Thread(target=call, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 5),
    lengths=st.lists(st.lists(st.integers(0, 2000), min_size=1, max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16]),
)
def test_sums_are_sums(size: int, lengths: list[list[int]], dtype: torch.dtype) -> None:
    """A part summed twice, never, or overwritten by a faster rank's next one would be a wrong gradient; so would one
    that is left in memory that had to grow."""
    terms = [[[torch.randint(-50, 50, (n,)).float() for n in parts] for parts in lengths] for _ in range(size)]

    def summed(rank: int, peers: list[socket.socket]) -> list[Tensor]:
        node = NodeSums(rank, size, peers)
        return [torch.cat(node.sum(parts, dtype)) for parts in terms[rank]]

    found = on_ranks(size, summed)
    for of_rank in found:
        assert isinstance(of_rank, list), of_rank
        for position, result in enumerate(of_rank):
            assert result.dtype == dtype
            assert torch.equal(result, torch.stack([torch.cat(own[position]) for own in terms]).sum(0).to(dtype))


@pytest.mark.parametrize("root", [0, 2])
def test_messages_reach_all_ranks(root: int) -> None:
    """Ranks would start from other weights than rank 0 read, or take a part of them for the whole."""
    longer_than_a_socket_holds = "x" * 3_000_000

    def told(rank: int, peers: list[socket.socket]) -> list[object]:
        node = NodeSums(rank, 4, peers)
        first = node.bcast((rank, longer_than_a_socket_holds), root)
        (between,) = node.sum([torch.ones(1)], torch.float32)
        return [first, float(between), node.bcast(None if rank == root else "of another rank", root)]

    assert on_ranks(4, told) == [[(root, longer_than_a_socket_holds), 4.0, None]] * 4


def test_all_ranks_get_the_same_bits() -> None:
    """Weights of ranks that round differently drift apart, unseen."""
    terms = torch.randn(5, 1000)

    def summed(rank: int, peers: list[socket.socket]) -> Tensor:
        return NodeSums(rank, 5, peers).sum([terms[rank]], torch.float32)[0]

    first, *others = on_ranks(5, summed)
    assert isinstance(first, Tensor)
    assert all(isinstance(other, Tensor) and torch.equal(first, other) for other in others)
    assert torch.allclose(first, terms.sum(0), atol=1e-5)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_rank_that_is_gone_is_noticed(gone: int) -> None:
    """The others would wait for it, half an hour."""

    def summed(rank: int, peers: list[socket.socket]) -> None:
        node = NodeSums(rank, 3, peers)
        node.sum([torch.ones(10)], torch.float32)
        if rank != gone:
            node.sum([torch.ones(10)], torch.float32)

    found = on_ranks(3, summed)
    assert found[gone] is None
    assert all(isinstance(error, OSError) for rank, error in enumerate(found) if rank != gone)
    if gone:
        assert f"rank {gone} of its node" in str(found[0])


RANKS = """
import os, sys, torch
from voxtal.parallel import node_sums
node = sys.argv[1][int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK")))]
node_sums._node_of_process = lambda: None if node == "-" else node
from voxtal.parallel.data_parallel import data_parallel
ranks = data_parallel("auto")
for length in (10, 1_500_001, 10):
    values = torch.arange(length, dtype=torch.float32) % 97 + ranks.rank
    expected = sum(torch.arange(length) % 97 + rank for rank in range(ranks.size))
    assert torch.equal(torch.cat(list(ranks.sum([values[:4], values[4:]], torch.float32))), expected.float())
    assert ranks.bcast(ranks.rank, root=1) == 1
ranks.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "mpirun"])
@pytest.mark.parametrize("nodes", ["0000", "0011", "0101", "0122", "00-0"])
def test_ranks_of_several_nodes(nodes: str, launcher: str) -> None:
    """The sum of one node would be taken for that of all. Ranks need not be numbered node by node, nor all of them have
    memory that can be shared: without it all use Gloo, or Horovod."""
    ranks = str(len(nodes))
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", ranks, "--no-python"]
    if launcher == "mpirun":
        pytest.importorskip("horovod", reason="no Horovod: hpc/install/horovod.sh")
        start = ["mpirun", "-n", ranks]
    done = subprocess.run(
        [*start, sys.executable, "-c", RANKS, nodes],
        env=local_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_other_users_are_not_let_in() -> None:
    """Whoever joins sees the memory, and could change the weights."""
    stranger = textwrap.dedent(
        """
        import os, socket, sys
        os.setuid(65534)
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(bytes.fromhex(sys.argv[1]))
        try:
            peer.sendall((1).to_bytes(8, sys.byteorder))
            assert peer.recv(1) == b"", "let in"
        except ConnectionError:
            pass  # before or after it had said what it wants
        """
    )
    values: list[object] = [None, None]
    both = threading.Barrier(2)
    strangers: list[subprocess.CompletedProcess[str]] = []

    def gathered(rank: int, value: object) -> list[object]:
        both.wait(20)
        values[rank] = value
        both.wait(20)
        result = list(values)
        if rank == 1 and isinstance(result[0], bytes):  # an address: the stranger is there first
            command = [sys.executable, "-c", stranger, result[0].hex()]
            strangers.append(subprocess.run(command, capture_output=True, text=True, timeout=30))
        return result

    def joined(rank: int, _peers: list[socket.socket]) -> float:
        found = join_node(rank, lambda value: gathered(rank, value), 20)
        assert found is not None
        _, peers = found
        (result,) = NodeSums(rank, 2, peers).sum([torch.ones(1)], torch.float32)
        for peer in peers:
            peer.close()
        return float(result)

    assert on_ranks(2, joined) == [2.0, 2.0]
    assert strangers[0].returncode == 0, strangers[0].stderr
