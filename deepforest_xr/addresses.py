"""Object stores behind an address: S3, Google's, Azure's, or whatever else obstore opens."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from deepforest_xr.errors import ConfigError

LONGEST_PAUSE_SECONDS = 10.0
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
S3 = ("s3://", "s3a://")


def open_store(address: str, what: str, *, patience: float) -> Any:
    """Open the store behind an address.

    Parameters
    ----------
    address : str
        ``s3://bucket/prefix``, or any URL that obstore takes. S3 takes its keys and region from
        the ``AWS_*`` variables of the environment, the address of a store that is not Amazon's
        from ``AWS_ENDPOINT_URL`` or ``AWS_ENDPOINT``.
    what : str
        What the address is for; errors name it.
    patience : float
        Seconds for which a request is tried again, 60 at most.

    Raises
    ------
    ConfigError
        If the address cannot be opened.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    config = _s3_config() if address.startswith(S3) else {}
    # The time of a whole request: a GeoTIFF of a hundred megabytes goes up in one.
    client: Any = {"timeout": timedelta(minutes=5), "allow_http": config.pop("allow_http", False)}
    retry: Any = {
        "max_retries": 10,
        "retry_timeout": timedelta(seconds=min(patience, 60)),
        "backoff": {"max_backoff": timedelta(seconds=LONGEST_PAUSE_SECONDS)},
    }
    try:
        return from_url(address, retry_config=retry, client_options=client, **config)
    except (ValueError, TypeError, BaseError) as error:
        raise ConfigError(
            f"{what}={address!r} cannot be opened: {one_line(error)}. Give a folder or a URL such "
            "as s3://bucket/prefix."
        ) from error


def one_line(error: BaseException) -> str:
    """What an error says, on one line, without obstore's second half for debugging."""
    text = str(error).split("\n\nDebug source:", maxsplit=1)[0]
    return " ".join(text.split())[:200] or type(error).__name__


def _s3_config() -> dict[str, Any]:
    """Tell what obstore does not take from the environment by itself."""
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None:
        return {}
    return {"config": {"endpoint": endpoint}, "allow_http": endpoint.startswith("http://")}
