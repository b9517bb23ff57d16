"""Names and units of a network's input channels, in the order of the published chips.

Sentinel-1 comes first, month by month with both polarizations (``vv_06``, ``vh_06``,
``vv_07``, ...), then Sentinel-2. Plain names: no array and no network here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepforest_xr.errors import BandMismatchError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
POLARIZATIONS = ("vv", "vh")

S2_UNIT = "reflectance"
S1_QUANTITY = "gamma0"


def channel_names(
    months: Sequence[int] | None = None, s2_bands: Sequence[str] = S2_BANDS
) -> tuple[str, ...]:
    """List the input channels in order.

    Parameters
    ----------
    months : sequence of int, optional
        Calendar months of the Sentinel-1 series, 1 to 12; none without Sentinel-1.
    s2_bands : sequence of str
        Sentinel-2 bands.

    Returns
    -------
    tuple of str, length ``2 * len(months) + len(s2_bands)``

    Raises
    ------
    ConfigError
        If a month or a band is unknown or comes twice.
    """
    months = tuple(months or ())
    if len(set(months)) != len(months) or not set(months) <= set(range(1, 13)):
        raise ConfigError(f"months={months} are not calendar months, each once, from 1 to 12.")
    unknown = [band for band in s2_bands if band not in S2_BANDS]
    if unknown or len(set(s2_bands)) != len(s2_bands):
        raise ConfigError(
            f"bands={tuple(s2_bands)}: {unknown or 'a name comes twice'}; Sentinel-2 bands are "
            f"{', '.join(S2_BANDS)}, each at most once."
        )
    s1 = (f"{polarization}_{month:02d}" for month in months for polarization in POLARIZATIONS)
    return (*s1, *s2_bands)


def complete_names(bands: Sequence[str], months: Sequence[int] | None) -> tuple[str, ...]:
    """Prepend the Sentinel-1 channels of `months` to `bands`, or check that they are there.

    Raises
    ------
    BandMismatchError
        If `bands` holds Sentinel-1 names other than those of `months`, in order.
    ConfigError
        If a month or a band is unknown or comes twice.
    """
    s2_bands = [band for band in bands if not is_radar(band)]
    expected = channel_names(months, s2_bands)
    if len(s2_bands) < len(bands) and tuple(bands) != expected:
        raise BandMismatchError(
            f"bands do not fit months={tuple(months or ())}: {difference(expected, bands)}. Give "
            f"{', '.join(expected)}, or the Sentinel-2 bands alone."
        )
    return expected


def difference(expected: Sequence[str], given: Sequence[str]) -> str:
    """Say how two lists of channels differ: what is missing, what is there instead."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    if not missing and not unexpected:
        return f"not in this order: {', '.join(given)}"
    return f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}"


def is_radar(channel: str) -> bool:
    """Whether a channel is one of Sentinel-1."""
    return channel.startswith(POLARIZATIONS)


def unit(channel: str, *, quantity: str = S1_QUANTITY) -> str:
    """Physical unit of a channel before standardisation; `quantity` is gamma0 or sigma0."""
    return f"{quantity} dB" if is_radar(channel) else S2_UNIT
