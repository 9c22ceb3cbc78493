"""The ways to run calculations, by their names in the configuration."""

from __future__ import annotations

from voxtal.runs import Run
from voxtal.workflows.jobs import Backend


def backend_of(run: Run) -> Backend:
    """The backend that a run is configured for.

    Raises
    ------
    UserError
        What the backend needs is not here.
    """
    relax = run.config.relax
    if relax.backend == "slurm-array":
        from voxtal.workflows.slurm_array import SlurmArray

        return SlurmArray(run.root, relax.array_tasks, relax.cores, relax.site)
    if relax.backend == "fireworks":
        from voxtal.workflows.launchpad import FireWorks

        return FireWorks(relax.launchpad)
    from voxtal.workflows.local import Local

    return Local(relax.workers, relax.cores)
