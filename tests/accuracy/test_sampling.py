import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepforest_xr.accuracy import area_adjusted, plan_sample
from deepforest_xr.errors import ConfigError

# Olofsson et al. 2014, section 5.1: shares of the map, expected user's accuracies.
SHARES, USERS = [0.02, 0.015, 0.32, 0.645], [0.7, 0.6, 0.9, 0.95]


def test_the_published_example_needs_641_points():
    plan = plan_sample(SHARES, USERS, standard_error=0.01, allocation="equal")
    assert (plan.required, plan.total) == (641, 641)
    # Table 5 prints 160 each.
    assert sorted(plan.units) == [160, 160, 160, 161]


def test_the_published_allocations():
    proportional = plan_sample(SHARES, USERS, allocation="proportional")
    assert proportional.units.tolist() == [13, 10, 205, 413]
    # The paper's sample had 75, 75, 165 and 325; its rounding cannot be derived from its rule.
    rare = plan_sample(SHARES, USERS, minimum=75, total=640)
    assert rare.units[:2].tolist() == [75, 75]
    np.testing.assert_allclose(rare.units, [75, 75, 165, 325], atol=4)
    assert rare.total == 640


def test_neyman_is_cochrans_formula_and_meets_the_wanted_error():
    weight, users = np.array(SHARES), np.array(USERS)
    deviation = np.sqrt(users * (1 - users))
    plan = plan_sample(SHARES, USERS, allocation="neyman")
    wanted = plan.total * weight * deviation / (weight * deviation).sum()
    np.testing.assert_allclose(plan.units, wanted, atol=1)
    assert plan.standard_error == pytest.approx(0.01, rel=0.01)
    others = [plan_sample(SHARES, USERS, allocation=a) for a in ("equal", "proportional")]
    assert all(other.standard_error > plan.standard_error for other in others)


def test_what_a_plan_promises_is_what_such_a_sample_gives():
    plan = plan_sample([60, 40], [0.9, 0.75], total=400, allocation="equal")
    estimate = area_adjusted(np.array([[180, 20], [50, 150]]), [60, 40])
    assert 1.96 * plan.standard_error == pytest.approx(estimate.overall_accuracy_ci95)
    np.testing.assert_allclose(1.96 * plan.users_standard_error, estimate.users_accuracy_ci95)


@given(
    st.lists(st.floats(0, 1000), min_size=1, max_size=8),
    st.floats(0, 1),
    st.sampled_from(["olofsson", "proportional", "equal", "neyman"]),
    st.integers(16, 3000),
    st.integers(0, 100),
)
def test_every_point_is_given_and_no_mapped_class_goes_short(
    area, users, allocation, total, minimum
):
    assume(sum(area) > 1e-6)
    mapped = np.array(area) > 0
    least = max(2, minimum if allocation == "olofsson" else 2)
    if total < least * mapped.sum():
        with pytest.raises(ConfigError, match="too few"):
            plan_sample(area, users, total=total, allocation=allocation, minimum=minimum)
        return
    plan = plan_sample(area, users, total=total, allocation=allocation, minimum=minimum)
    assert plan.total == total
    assert (plan.units[mapped] >= least).all()
    assert (plan.units[~mapped] == 0).all()


@pytest.mark.parametrize("allocation", ["olofsson", "proportional", "equal", "neyman"])
def test_a_class_that_is_not_in_the_map_gets_none(allocation):
    plan = plan_sample([5, 0, 3], 0.8, total=120, allocation=allocation)
    assert plan.units[1] == 0
    assert plan.total == 120
    assert plan.units[[0, 2]].min() >= 2


def test_a_larger_class_never_gets_fewer_points():
    for allocation in ("olofsson", "proportional"):
        units = plan_sample([1, 3, 9, 80, 400], 0.8, allocation=allocation, total=700).units
        assert (np.diff(units) >= 0).all()


def test_without_a_total_the_sample_grows_to_the_minimum_of_each_class():
    plan = plan_sample([1] * 13, 0.9, standard_error=0.02, minimum=50)
    assert (plan.required, plan.total) == (225, 650)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"users_accuracy": [0.7, 0.6]}, "4 mapped areas and 2"),
        ({"users_accuracy": 70}, "0 to 1"),
        ({"users_accuracy": float("nan")}, "0 to 1"),
        ({"standard_error": 0}, "standard_error=0"),
        ({"allocation": "best"}, "known: olofsson, proportional, equal, neyman"),
        ({"minimum": -1}, "minimum=-1"),
        ({"mapped_area": [0, 0, 0, 0]}, "not all 0"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments, match):
    given_arguments = {"mapped_area": SHARES, "users_accuracy": USERS, **arguments}
    with pytest.raises(ConfigError, match=match) as caught:
        plan_sample(**given_arguments)
    assert "\n" not in str(caught.value)
