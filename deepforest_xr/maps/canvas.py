"""What every picture is drawn on.

Figures have their own Agg canvas, never pyplot's: no window, no global state, safe in any
thread. Places are in inches from the lower left corner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepforest_xr.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100


def require_matplotlib() -> None:
    """Raise MissingExtraError, naming the extra, where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401  only whether it is there
    except ImportError as error:
        raise MissingExtraError(
            'pictures need matplotlib, which is not installed: pip install "deepforest-xr[viz]"'
        ) from error


def new_figure(width: float, height: float) -> Figure:
    """Give an empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def relative(
    box: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float]:
    """Left, bottom, width, height in inches as shares of a figure."""
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def write_text(figure: Figure, x: float, y: float, text: str, *, size: float, weight: str) -> None:
    """Write at inches from the lower left corner; `$` is a dollar, not mathematics."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, size=size, weight=weight, va="top", parse_math=False)
