"""``voxelize --verify``: is a published data set, byte for byte, what was published?"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from voxtal.data.layouts import layout_of
from voxtal.data.schema import INDEX_NAME, UNREADABLE, Settings, shard_path
from voxtal.data.shards import summarize_shard
from voxtal.data.voxelize import index_arrays, published_checksums, write_index
from voxtal.errors import UserError
from voxtal.parallel.communicator import Communicator, on_root
from voxtal.parallel.tasks import gathered
from voxtal.runs import sha256_of


def damaged_files(folder: Path, settings: Settings, communicator: Communicator) -> dict[str, str]:
    """Name of every file of the data set in ``folder`` that is not as it was published -> what is wrong.

    Collective. Checksums of the files find a single flipped bit, also in what HDF5 would read past; the index, which
    holds them, is made again from the shards and compared.

    Raises
    ------
    UserError
        There is no index, so there is nothing to compare with.
    """
    checksums = on_root(communicator, lambda: _checksums(folder))

    def check(shard: int) -> str:
        path = shard_path(folder, shard)
        if not path.is_file():
            return "missing"
        return "" if sha256_of(path) == checksums[shard] else "other bytes than the index says"

    checked = gathered(communicator, len(checksums), check)

    def conclude() -> dict[str, str]:
        found = {shard_path(folder, shard).name: what for shard, what in enumerate(checked or []) if what}
        found |= dict.fromkeys(_surplus(folder, len(checksums)), "not in the index")
        if not found and not _index_is_whole(folder, len(checksums), settings):
            found[INDEX_NAME] = "not the index of these shards"
        return found

    return on_root(communicator, conclude)


def _checksums(folder: Path) -> list[str]:
    path = folder / INDEX_NAME
    if not path.is_file():
        raise UserError(f"No voxels in {folder} ({INDEX_NAME} is missing): run voxelize, to its end, before --verify.")
    try:
        return published_checksums(path)
    except UNREADABLE as error:
        raise UserError(f"{path} is damaged ({error}). Run voxelize again: it makes the index anew.") from None


def _surplus(folder: Path, shards: int) -> list[str]:
    expected = {shard_path(folder, shard) for shard in range(shards)}
    return sorted(path.name for path in set(folder.glob("shard-*.h5")) - expected)


def _index_is_whole(folder: Path, shards: int, settings: Settings) -> bool:
    layout = layout_of(settings)
    summaries = [summarize_shard(shard_path(folder, shard), layout) for shard in range(shards)]
    with TemporaryDirectory() as scratch:
        again = Path(scratch) / INDEX_NAME
        write_index(again, index_arrays(summaries), settings)
        return again.read_bytes() == (folder / INDEX_NAME).read_bytes()
