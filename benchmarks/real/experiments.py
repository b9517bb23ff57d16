"""Which pixels train and which test: planned from the sites, nothing is computed.

A1  one tile, squares dealt to training, validation and test
A2  one tile, left 60 % of the columns train, right 40 % test
B   train on the other tiles of the group, test on the whole of one
C1  train on the other patches of the group, test on the whole of one
C2  one patch, left 60 % of the columns train, right 40 % test
"""

from dataclasses import dataclass

from benchmarks.real.sites import SEASONAL

LEAST_SHARED = 2
"""Classes that patches share before one can test what another taught."""

TITLES = {
    "A1": "A1: one tile, dealt squares",
    "A2": "A2: one tile, left 60 % against right 40 %",
    "B": "B: leave one tile out",
    "C1": "C1: leave one patch out",
    "C2": "C2: one patch, left 60 % against right 40 %",
}


@dataclass(frozen=True)
class Experiment:
    """One table row's data; a method makes it a result."""

    family: str
    train: tuple[str, ...]
    """Sites; equal to ``(test,)`` where one site is split."""

    test: str
    dataset: str
    """``S2``, ``S2+S1`` (one radar picture), ``S1TsS2_12`` or ``S2x6`` (six medians)."""

    bands: tuple[str, ...]

    @property
    def name(self):
        return f"{self.family}-{self.test}-{self.dataset}"

    @property
    def has_radar(self):
        return "S1" in self.dataset

    @property
    def is_within(self):
        """Whether training and test pixels are of one site."""
        return self.train == (self.test,)


def plan(sites):
    """Every experiment that these sites allow, and lines on the sites left out."""
    tiles = [s for s in sites if not s.is_series]
    series = [s for s in sites if s.is_series]
    experiments, notes = [], []
    for family, members in (("A1", tiles), ("A2", tiles), ("C2", series)):
        for site in members:
            if len(site.classes) < LEAST_SHARED:
                continue
            experiments += _of(family, (site,), site)
    for family, members in (("B", tiles), ("C1", series)):
        for test in members:
            train = [s for s in members if _shares(s, test)]
            if not train:
                notes.append(_why(test, members))
                continue
            experiments += _of(family, tuple(train), test)
    return experiments, notes


def _shares(site, test):
    both = set(site.classes) & set(test.classes)
    return site.group == test.group and site.name != test.name and len(both) >= LEAST_SHARED


def _of(family, train, test):
    bands = tuple(b for b in test.bands if all(b in s.bands for s in train))
    datasets = ["S2"]
    if all(s.has_radar for s in (*train, test)):
        datasets.append("S1TsS2_12" if test.is_series else "S2+S1")
    if all(s.seasons is not None for s in (*train, test)):
        datasets.append(SEASONAL)
    names = tuple(s.name for s in train)
    return [Experiment(family, names, test.name, d, bands) for d in datasets]


def _why(test, members):
    names = ", ".join(str(c) for c in test.classes)
    others = [s for s in members if s.group == test.group and s.name != test.name]
    most = max((len(set(s.classes) & set(test.classes)) for s in others), default=0)
    return (
        f"{test.name} ({test.group}) is left out: its labels hold the classes {names} only, and "
        f"it shares at most {most} with another site of its folder (two are needed)."
    )
