"""Proof that a step stays lazy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_compute() -> Iterator[None]:
    """Let no dask computation happen inside the block.

    Raises
    ------
    AssertionError
        At the first computation, with the line that asked for it in the traceback.

    Examples
    --------
    >>> import dask.array
    >>> with no_compute():
    ...     doubled = dask.array.ones(3) * 2
    """
    import dask

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError(
            "a dask array was computed where everything must stay lazy; the traceback shows "
            "by whom. Look for values, np.asarray, bool(), len or a print of the data."
        )

    with dask.config.set(scheduler=refuse):
        yield
