import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from deepforest_xr.accuracy import area_adjusted
from deepforest_xr.errors import ConfigError

# Olofsson et al. 2014, section 5: change in a study area, tables 8 and 9. The sample is 640
# pixels of 30 m; the printed values are those of page 54 and 55.
OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
OLOFSSON_PIXELS = [200_000, 150_000, 3_200_000, 6_450_000]
HECTARES = 0.09


def test_area_adjusted_gives_the_published_example_to_its_printed_digits():
    estimate = area_adjusted(OLOFSSON, OLOFSSON_PIXELS)
    assert round(estimate.overall_accuracy, 2) == 0.95
    assert round(estimate.overall_accuracy_ci95, 2) == 0.02
    assert estimate.users_accuracy.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert estimate.users_accuracy_ci95.round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert estimate.producers_accuracy.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]
    hectares = estimate.area * HECTARES
    assert hectares.round().tolist() == [21_158, 11_686, 285_770, 581_386]
    assert (estimate.area_ci95 * HECTARES).round().tolist() == [6_158, 3_756, 15_510, 16_282]
    assert round(estimate.area[0]) == 235_086
    np.testing.assert_array_equal(
        estimate.proportion.round(4),
        [
            [0.0176, 0, 0.0013, 0.0011],
            [0, 0.0110, 0.0016, 0.0024],
            [0.0019, 0, 0.2967, 0.0213],
            [0.0040, 0.0020, 0.0179, 0.6212],
        ],
    )
    assert estimate.area.sum() == pytest.approx(sum(OLOFSSON_PIXELS))
    assert estimate.mapped_area.tolist() == OLOFSSON_PIXELS


def test_producers_intervals_are_printed_but_for_two_that_the_papers_equation_denies():
    # Printed are 0.21, 0.23, 0.03 and 0.01; equation 7 gives 0.25 for the second and 0.02 for
    # the fourth, here as in the R package mapaccuracy and by unit_estimates below.
    estimate = area_adjusted(OLOFSSON, OLOFSSON_PIXELS)
    assert estimate.producers_accuracy_ci95.round(2).tolist() == [0.21, 0.25, 0.03, 0.02]


def unit_estimates(counts, area):
    """Cochran's stratified mean and combined ratio, unit by unit, never by a matrix.

    Sampling Techniques 1977, equations 5.3, 5.13 and 6.48; Stehman 2014.
    """
    area = np.asarray(area, dtype=float)
    weight = area / area.sum()
    strata = [np.repeat(np.arange(len(row)), row) for row in counts]

    def mean(value):
        return sum(
            w * value(h, units).mean()
            for h, (w, units) in enumerate(zip(weight, strata, strict=True))
        )

    def error(value):
        terms = zip(weight, strata, strict=True)
        parts = [w**2 * value(h, u).var(ddof=1) / len(u) for h, (w, u) in enumerate(terms)]
        return sum(parts) ** 0.5

    def right(h, units):
        return (units == h).astype(float)

    result = {"overall": (mean(right), error(right)), "area": [], "producers": []}
    for j in range(len(area)):
        is_j = lambda h, units: (units == j).astype(float)  # noqa: B023, E731
        hit = lambda h, units: (units == j).astype(float) * (h == j)  # noqa: B023, E731
        share, found = mean(is_j), mean(hit) / mean(is_j)
        gap = lambda h, units: hit(h, units) - found * is_j(h, units)  # noqa: B023, E731
        result["area"].append((share * area.sum(), error(is_j) * area.sum()))
        result["producers"].append((found, error(gap) / share))
    return result


def random_case(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, (5, 5)) + np.diag(rng.integers(20, 200, 5))
    return counts, rng.integers(1_000, 900_000, 5)


@pytest.mark.parametrize("case", [(OLOFSSON, OLOFSSON_PIXELS), *map(random_case, range(5))])
def test_the_estimates_are_cochrans_unit_by_unit(case):
    counts, area = case
    ours, theirs = area_adjusted(counts, area), unit_estimates(counts, area)
    assert ours.overall_accuracy == pytest.approx(theirs["overall"][0])
    assert ours.overall_accuracy_ci95 == pytest.approx(1.96 * theirs["overall"][1])
    for j, (value, error) in enumerate(theirs["area"]):
        assert (ours.area[j], ours.area_ci95[j]) == pytest.approx((value, 1.96 * error))
    for j, (value, error) in enumerate(theirs["producers"]):
        assert ours.producers_accuracy[j] == pytest.approx(value)
        # Equation 7 is the ratio's variance, linearised about the same point.
        assert ours.producers_accuracy_ci95[j] == pytest.approx(1.96 * error)


@pytest.mark.parametrize("case", [(OLOFSSON, OLOFSSON_PIXELS), random_case(9)])
def test_weighted_units_in_scikit_learn_give_the_same_accuracies(case):
    counts, area = case
    mapped, reference = (
        np.repeat(side.ravel(), counts.ravel()) for side in np.indices(counts.shape)
    )
    weight = (np.asarray(area) / counts.sum(axis=1))[mapped]
    precision, recall, _, support = precision_recall_fscore_support(
        reference, mapped, sample_weight=weight
    )
    ours = area_adjusted(counts, area)
    np.testing.assert_allclose(ours.users_accuracy, precision)
    np.testing.assert_allclose(ours.producers_accuracy, recall)
    np.testing.assert_allclose(ours.area, support)
    overall = accuracy_score(reference, mapped, sample_weight=weight)
    assert ours.overall_accuracy == pytest.approx(overall)


def test_the_intervals_are_those_of_samples_drawn_again_and_again():
    rng = np.random.default_rng(1)
    units = OLOFSSON.sum(axis=1)
    drawn = []
    for _ in range(3000):
        counts = [rng.multinomial(n, row / n) for n, row in zip(units, OLOFSSON, strict=True)]
        drawn.append(area_adjusted(np.array(counts), OLOFSSON_PIXELS))
    estimate = area_adjusted(OLOFSSON, OLOFSSON_PIXELS)
    spread = np.std([e.area for e in drawn], axis=0)
    np.testing.assert_allclose(estimate.area_ci95, 1.96 * spread, rtol=0.06)
    overall = np.std([e.overall_accuracy for e in drawn])
    assert estimate.overall_accuracy_ci95 == pytest.approx(1.96 * overall, rel=0.06)


def test_producers_intervals_are_equation_7_written_out():
    estimate = area_adjusted(OLOFSSON, OLOFSSON_PIXELS)
    n, area = OLOFSSON, OLOFSSON_PIXELS
    units = n.sum(axis=1)
    for j in range(4):
        users, producers = n[j, j] / units[j], estimate.producers_accuracy[j]
        first = area[j] ** 2 * (1 - producers) ** 2 * users * (1 - users) / (units[j] - 1)
        second = 0.0
        for i in range(4):
            if i != j:
                share = n[i, j] / units[i]
                second += area[i] ** 2 * share * (1 - share) / (units[i] - 1)
        variance = (first + producers**2 * second) / estimate.area[j] ** 2
        assert estimate.producers_accuracy_ci95[j] == pytest.approx(1.96 * variance**0.5)


def test_area_intervals_hold_the_truth_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    truth = np.array([[0.9, 0.06, 0.04], [0.1, 0.8, 0.1], [0.05, 0.1, 0.85]])
    mapped = np.array([500.0, 300.0, 200.0])
    held, held_producers = np.zeros(3), np.zeros(3)
    producers = mapped * np.diagonal(truth) / (mapped @ truth)
    for _ in range(600):
        counts = np.stack([rng.multinomial(500, row) for row in truth])
        estimate = area_adjusted(counts, mapped)
        held += np.abs(estimate.area - mapped @ truth) <= estimate.area_ci95
        error = np.abs(estimate.producers_accuracy - producers)
        held_producers += error <= estimate.producers_accuracy_ci95
    for share in (*held / 600, *held_producers / 600):
        assert 0.925 < share < 0.975


def test_strata_that_cannot_be_used_are_refused():
    with pytest.raises(ConfigError, match="expected one row"):
        area_adjusted(OLOFSSON, OLOFSSON_PIXELS[:2])
    with pytest.raises(ConfigError, match="0 or more"):
        area_adjusted(OLOFSSON, [1, 1, 1, -1])
    empty = OLOFSSON.copy()
    empty[2] = 0
    with pytest.raises(ConfigError, match=r"positions \[2\]"):
        area_adjusted(empty, OLOFSSON_PIXELS)
    single = area_adjusted(np.array([[1, 0], [3, 9]]), [10, 20])
    assert math.isnan(single.overall_accuracy_ci95)
    assert single.overall_accuracy == pytest.approx((10 + 20 * 0.75) / 30)
    with pytest.raises(ConfigError, match="counts must be 0 or more"):
        area_adjusted(np.array([[3, -1], [3, 9]]), [10, 20])
    with pytest.raises(ConfigError, match=r"hold 0\.3, expected whole numbers: pass the units"):
        area_adjusted(np.array([[0.3, 0.1], [0.2, 0.4]]), [10, 20])
