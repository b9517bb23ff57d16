"""How measured values are written."""


def span(values, form):
    """Least and greatest, once if they are written alike."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
