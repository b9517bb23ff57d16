"""What a block does on a Dask worker: look where it is, and use all of its cores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepforest_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping


def require_resources(wanted: Mapping[str, float]) -> None:
    """Refuse a Dask worker that declares less than what is wanted.

    Outside of a worker there are no resources, and nothing is refused.

    Raises
    ------
    ModelError
        If a resource is lacking.
    """
    worker = _worker() if wanted else None
    if worker is None:
        return
    declared = worker.state.total_resources
    lacking = [f"{n}={v:g}" for n, v in wanted.items() if declared.get(n, 0) < v]
    if lacking:
        raise ModelError(
            f"a block of the map came to the worker {worker.name!r}, which lacks "
            f"{', '.join(lacking)}: Dask forgot the resources when it fused the graph. Compute "
            "with write_zarr, or set dask.config.set({'optimization.fuse.active': False})."
        )


def share_cores() -> None:
    """Let torch use all cores of a Dask worker, whose blocks wait for one another.

    Workers start with OMP_NUM_THREADS=1, as if each of their threads computed for itself.
    Elsewhere torch has all cores already, or those that the user left it.
    """
    import torch

    worker = _worker()
    if worker is not None and torch.get_num_threads() != worker.state.nthreads:
        torch.set_num_threads(worker.state.nthreads)


def _worker() -> Any:
    """Give the Dask worker whose task this is; None outside of one."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None
