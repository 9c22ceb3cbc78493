"""What data parallelism is made of, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxtal.errors import UserError
from voxtal.parallel.data_parallel import DataParallel, Launch, data_parallel, launch_of
from voxtal.parallel.layers import _GlobalBatchNorm, globalize
from voxtal.parallel.torch_distributed import rendezvous_of_step


def ranks_of(size: int) -> list[DataParallel]:
    """Each of ``size`` ranks, which cannot talk to each other."""
    found = []
    for rank in range(size):
        parallel = DataParallel()
        parallel.rank, parallel.size = rank, size
        found.append(parallel)
    return found


@given(size=st.integers(1, 9), extra=st.integers(0, 40))
def test_shares_make_up_the_batch(size: int, extra: int) -> None:
    """A row would be trained on twice, or never, or its weight would depend on the number of ranks."""
    total = size + extra
    shares = [parallel.split(total) for parallel in ranks_of(size)]
    assert [row for share in shares for row in share.of(list(range(total)))] == list(range(total))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    values = torch.randn(total, dtype=torch.float64)
    mean = sum(share.of(values).mean() * share.weight for share in shares)
    assert mean == pytest.approx(float(values.mean()), abs=1e-12)


@given(size=st.integers(2, 9), extra=st.integers(0, 60))
def test_noise_is_that_of_the_whole_batch(size: int, extra: int) -> None:
    """Ranks would add the same noise to different rows, and their streams would part after the first draw."""
    total = size + extra

    def drawn(parallel: DataParallel) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        share = parallel.split(total)
        noise = share.randn(3, device="cpu"), share.randn(3, device="cpu")
        return torch.stack(noise, 1), torch.randn(1)

    (whole, after), parts = drawn(DataParallel()), [drawn(parallel) for parallel in ranks_of(size)]
    assert all(torch.equal(stream, after) for _, stream in parts)
    assert torch.equal(torch.cat([noise for noise, _ in parts]), whole)
    assert len(whole.unique()) == whole.numel()
    assert abs(float(whole.mean())) < 5 / whole.numel() ** 0.5


@given(size=st.integers(2, 40), total=st.integers(500, 3000))
def test_noise_of_a_large_batch_too(size: int, total: int) -> None:
    """Blocks of large batches are larger: ranks that disagree on them would add the noise of other rows."""

    def drawn(parallel: DataParallel) -> torch.Tensor:
        torch.manual_seed(1)
        return parallel.split(total).randn(3, device="cpu")

    whole = drawn(DataParallel())
    assert torch.equal(torch.cat([drawn(parallel) for parallel in ranks_of(size)]), whole)
    assert len(whole.unique(dim=0)) == total


def test_dropout_is_that_of_the_whole_batch() -> None:
    """Two ranks would drop other pixels than one process, and a resumed run would not repeat its losses."""

    def masked(parallel: DataParallel) -> torch.Tensor:
        network = torch.nn.Sequential(torch.nn.Dropout(0.3))
        globalize(network, parallel)
        torch.manual_seed(4)
        share = parallel.split(10)
        return network(torch.ones(share.last - share.first, 6))

    whole = masked(DataParallel())
    assert torch.equal(torch.cat([masked(parallel) for parallel in ranks_of(4)]), whole)
    assert whole.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert 0.5 < float((whole > 0).float().mean()) < 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, torch.channels_last_3d])
def test_batch_norm_is_torchs(layout: torch.memory_format, dtype: torch.dtype) -> None:
    """Values, gradients or running statistics of published networks would depend on the number of ranks."""
    dimensions = 3 if layout is torch.channels_last_3d else 2
    x = (torch.randn(6, 4, *[5] * dimensions) + 3).to(dtype, memory_format=layout)
    ours = _GlobalBatchNorm(4)
    theirs: torch.nn.Module = {2: torch.nn.BatchNorm2d, 3: torch.nn.BatchNorm3d}[dimensions](4)
    ours.parallel = DataParallel()
    ours.parallel.split(6)
    for layer in (ours, theirs):
        layer.zero_grad()
        torch.nn.init.uniform_(layer.weight, generator=torch.Generator().manual_seed(0))
        given = x.clone().requires_grad_()
        layer.result = layer(given)
        layer.result.pow(3).sum().backward()
        layer.grad_of_input = given.grad
    coarse = {} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    torch.testing.assert_close(ours.result, theirs.result, **(coarse or {"atol": 1e-5, "rtol": 1e-5}))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.grad_of_input, theirs.grad_of_input, **(coarse or {"atol": 1e-5, "rtol": 1e-4}))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, **(coarse or {"atol": 1e-4, "rtol": 1e-4}))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 1),
        lambda x: x[:, :1],
        lambda x: x[..., ::2],
        lambda x: x[:1, :1].expand(2, 3, -1, -1),
        lambda x: x.sum().expand(2, 3, 4, 5),
        lambda x: x[1, 2, 3, 4],
        lambda x: x[:0],
    ],
)
@pytest.mark.parametrize("compression", ["none", "fp16"])
def test_gradients_keep_their_places(layout: Callable[[torch.Tensor], torch.Tensor], compression: str) -> None:
    """One summed in another order than it is read in, or with its neighbours' numbers, moves the wrong weights."""
    gradients = [
        layout(torch.randint(-9, 9, (2, 3, 4, 5)).float()),
        torch.ones(7),
        torch.randint(-9, 9, (3, 2)).float().T,
    ]
    parameters = [torch.nn.Parameter(torch.zeros(gradient.shape)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    parallel = DataParallel()
    parallel.size, parallel.compression = 2, compression
    parallel._sum_flat = lambda flat: flat.mul_(2)  # type: ignore[assignment, method-assign, return-value]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    parallel.prepare([], [optimizer])
    optimizer.step()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.equal(parameter.detach(), -2 * gradient)


def test_batch_that_is_too_small_says_so() -> None:
    """A rank without a row would divide by zero."""
    with pytest.raises(UserError, match="at most 3 ranks"):
        ranks_of(4)[0].split(3)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch("", 0, 1, 0)),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, Launch("", 0, 1, 0)),  # the batch script itself
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "PMI_SIZE": "4", "PMI_RANK": "3"}
            | {"SLURM_STEP_NUM_NODES": "2"},
            Launch("srun", 3, 4, 1),
        ),
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_NODES": "1"},
            Launch("srun", 3, 4, 3, one_node=True),
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
            | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            Launch("mpirun", 1, 2, 1, one_node=True),
        ),
        (
            {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"},
            Launch("horovodrun", 3, 4, 1),
        ),
        (
            {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "3", "HOROVOD_LOCAL_SIZE": "4"},
            Launch("horovodrun", 3, 4, 3, one_node=True),
        ),
        (
            {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "SLURM_PROCID": "1"}
            | {"SLURM_STEP_NUM_TASKS": "2"},
            Launch("mpirun", 5, 8, 1),
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x", "RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}
            | {"SLURM_STEP_NUM_TASKS": "2"},
            Launch("torchrun", 2, 4, 0),
        ),
    ],
)
def test_launchers_are_told_apart(environment: Mapping[str, str], expected: Launch) -> None:
    """Ranks would train alone, each writing the same files, or would wait for ranks that do not exist."""
    assert launch_of(environment) == expected


def test_ranks_of_one_step_meet_at_one_place() -> None:
    """Two steps of a job, or two jobs on a node, would meet at the same port."""
    step = {"SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0"}
    here = rendezvous_of_step(step)
    assert here["MASTER_ADDR"] == "n1"
    assert here == rendezvous_of_step(step)
    assert here["MASTER_PORT"] != rendezvous_of_step(step | {"SLURM_STEP_ID": "1"})["MASTER_PORT"]
    assert here["MASTER_PORT"] != rendezvous_of_step(step | {"SLURM_JOB_ID": "13"})["MASTER_PORT"]


def test_unknown_strategy_is_refused() -> None:
    """A typo would train in another way than the user believes."""
    with pytest.raises(UserError, match="auto, none, ddp, horovod"):
        data_parallel("hvd")
