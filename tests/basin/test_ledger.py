"""The ledger: whatever runners do and whenever they die, a tile is one runner's at a time."""

import dataclasses
import json
import time
from datetime import datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from deepforest_xr.basin import ledger as ledger_module
from deepforest_xr.basin.ledger import Ledger
from deepforest_xr.basin.owner import Owner, is_gone, this_owner
from deepforest_xr.errors import ConfigError, LostLeaseError

from .memory import Clocked, memory

LEASE = 100.0
TILES = ("a", "b")
ATTEMPTS = 3


def runner(objects, name, *, lease=LEASE):
    return Ledger(objects, owner=Owner(name, "elsewhere", 7), lease=lease, max_attempts=ATTEMPTS)


@pytest.fixture
def store():
    return Clocked()


@pytest.fixture
def one(store):
    return runner(memory(store), "one")


@pytest.fixture
def other(store):
    return runner(memory(store), "other")


def state(ledger, tile="a"):
    return ledger.states(TILES)[tile]


class Runners(RuleBasedStateMachine):
    """Three runners and a clock, beside a model of what has happened in plain lists."""

    leases = (40.0, LEASE, 450.0)

    def __init__(self):
        super().__init__()
        self.store = Clocked()
        self.runners = [
            runner(memory(self.store), str(n), lease=lease) for n, lease in enumerate(self.leases)
        ]
        self.known = {}
        # Of each tile: [owner, number, last beat, how it ended] of every claim that was made.
        self.claims = {tile: [] for tile in TILES}
        self.done = dict.fromkeys(TILES, 0)
        self.held = []

    def live(self, tile):
        """The claim that has the tile by the rules, or None."""
        claims = self.claims[tile]
        if self.done[tile] or not claims:
            return None
        last = claims[-1]
        fresh = self.store.seconds - last["beat"] <= self.leases[last["who"]]
        return last if last["end"] is None and fresh else None

    def used(self, tile):
        live = self.live(tile)
        return sum(c["end"] != "released" and c is not live for c in self.claims[tile])

    @rule(seconds=st.sampled_from([1.0, 40.0, 99.0, 101.0, 500.0]))
    def time_passes(self, seconds):
        self.store.seconds += seconds

    @rule(who=st.integers(0, 2))
    def looks(self, who):
        self.known[who] = self.runners[who].states(TILES)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), tile=st.sampled_from(TILES))
    def claims_on_what_it_knows(self, data, tile):
        who = data.draw(st.sampled_from(sorted(self.known)))
        known = self.known[who][tile]
        before = self.live(tile)
        lease = self.runners[who].claim(known)
        if lease is None:
            return
        assert before is None, "two runners have one tile"
        assert not self.done[tile], "a finished tile is made again"
        assert lease.number == len(self.claims[tile]) + 1
        self.claims[tile].append(
            {"who": who, "number": lease.number, "beat": self.store.seconds, "end": None}
        )
        self.held.append((who, lease))

    def pick(self, data):
        return data.draw(st.sampled_from(range(len(self.held))))

    def claim_of(self, lease):
        return self.claims[lease.tile][lease.number - 1]

    def is_last(self, lease):
        return lease.number == len(self.claims[lease.tile])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def beats(self, data):
        who, lease = self.held[self.pick(data)]
        kept = self.runners[who].beat(lease)
        assert kept == self.is_last(lease)
        if kept:
            self.claim_of(lease)["beat"] = self.store.seconds

    @precondition(lambda self: self.held)
    @rule(data=st.data(), end=st.sampled_from(["failed", "released", "crashed", "finished"]))
    def ends(self, data, end):
        who, lease = self.held.pop(self.pick(data))
        ledger, last = self.runners[who], self.is_last(lease)
        if end == "finished":
            first = ledger.finish(lease, {"tile": lease.tile})
            assert first == (self.done[lease.tile] == 0)
            self.done[lease.tile] += first
        elif end == "failed":
            ledger.fail(lease, ValueError("bad"), transient=False)
        elif end == "released":
            ledger.release(lease)
        if end in {"failed", "released"} and last:
            self.claim_of(lease)["end"] = end

    @invariant()
    def the_ledger_says_what_happened(self):
        self.is_told_by(self.runners[0])
        self.is_told_by(Ledger(memory(self.store), max_attempts=ATTEMPTS))

    def is_told_by(self, ledger):
        states = ledger.states(TILES)
        for tile in TILES:
            live, found = self.live(tile), states[tile]
            assert self.done[tile] <= 1
            assert (found.status == "done") == bool(self.done[tile])
            if self.done[tile]:
                continue
            assert found.attempts == self.used(tile)
            assert (found.status == "running") == (live is not None)
            if live is None:
                assert (found.status == "set aside") == (self.used(tile) >= ATTEMPTS)


def test_runners_that_die_and_meet_never_share_a_tile():
    run_state_machine_as_test(
        Runners, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


def test_of_two_runners_that_see_the_same_one_gets_the_tile(one, other):
    seen = state(one), state(other)
    assert one.claim(seen[0]) is not None
    assert other.claim(seen[1]) is None
    assert state(other).status == "running"
    assert state(other, "b").status == "waiting"


def test_a_claim_whose_answer_was_lost_is_ours_all_the_same(store, one):
    class Answerless(Clocked):
        def put(self, key, content, **options):
            super().put(key, content, **options)
            if not self.calls.count(("put", key)) > 1:
                raise ConnectionResetError("connection reset by peer")

    deaf = runner(memory(Answerless()), "deaf")
    assert deaf.claim(state(deaf)) is not None


def test_a_stale_claim_is_taken_over_and_its_owner_drops_the_tile(store, one, other):
    lease = one.claim(state(one))
    store.seconds += LEASE
    assert state(other).status == "running"
    store.seconds += 1
    assert state(other).status == "stale"
    second = other.claim(state(other))
    assert second.number == 2
    assert not one.beat(lease)
    with pytest.raises(LostLeaseError, match="another runner"):
        one.require(lease)
    one.fail(lease, ValueError("late"), transient=False)
    assert not store.inner.list("attempts/a/1.failed.json").collect()
    assert state(one).attempts == 1


@pytest.mark.parametrize(("own", "others"), [(LEASE, 10 * LEASE), (10 * LEASE, LEASE)])
def test_a_claim_lives_as_long_as_its_own_runner_granted(store, own, others):
    owner, impatient = (runner(memory(store), str(n), lease=n) for n in (own, others))
    lease = owner.claim(state(owner))
    looks = Ledger(memory(store), max_attempts=ATTEMPTS)
    store.seconds += own
    assert {state(one).status for one in (impatient, looks)} == {"running"}
    assert impatient.claim(dataclasses.replace(state(impatient), status="stale")) is None
    assert owner.holds(lease)
    store.seconds += 1
    assert state(looks).status == "stale"
    store.seconds += others
    assert impatient.claim(state(impatient)).number == 2


def test_a_claim_heard_of_since_the_listing_is_left_alone(store, one, other):
    lease = one.claim(state(one))
    store.seconds += LEASE + 1
    seen = state(other)
    assert one.beat(lease)
    assert other.claim(seen) is None


def test_a_tile_that_was_finished_late_is_not_made_again(store, one, other):
    lease = one.claim(state(one))
    store.seconds += LEASE + 1
    seen = state(other)
    assert seen.status == "stale"
    assert one.finish(lease, {})
    assert other.claim(seen) is None


def test_clocks_of_runners_do_not_matter(store, one, other, monkeypatch):
    class Skewed(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr(ledger_module, "datetime", Skewed)
    one.claim(state(one))
    assert state(other).status == "running"
    assert json.loads(bytes(store.inner.get("attempts/a/1.json").bytes()))["started"] < "2000"


def test_given_back_is_no_attempt_and_failing_is(store, one):
    for _ in range(5):
        one.release(one.claim(state(one)))
    assert state(one).attempts == 0
    for number in range(ATTEMPTS):
        assert state(one).status == "waiting"
        one.fail(one.claim(state(one)), ValueError(f"bad {number}"), transient=False)
    found = state(one)
    assert found.status == "set aside"
    assert one.claim(found) is None
    assert [r["reason"] for r in one.reasons(found)] == ["bad 0", "bad 1", "bad 2"]


def test_who_only_looks_grants_as_many_attempts_as_the_runner_heard_of_last(store):
    objects = memory(store)
    strict, patient = (Ledger(objects, lease=LEASE, max_attempts=n) for n in (2, 5))
    looks = Ledger(objects, lease=LEASE)
    assert state(looks).status == "waiting"
    for _ in range(2):
        strict.fail(strict.claim(state(strict)), ValueError("bad"), transient=False)
    store.seconds += 1
    assert state(looks) == state(strict)
    assert state(looks).status == "set aside"
    patient.release(patient.claim(state(patient, "b")))
    assert state(looks) == state(patient)
    assert state(looks).status == "waiting"
    # Abandoned attempts count like failed ones: no card tells of their end.
    strict.claim(state(strict, "b"))
    store.seconds += LEASE + 1
    strict.claim(state(strict, "b"))
    store.seconds += LEASE + 1
    assert state(looks, "b") == state(strict, "b")
    assert state(looks, "b").status == "set aside"


def test_a_claim_that_does_not_tell_its_limit_stands_for_three_attempts(store, one):
    looks = Ledger(one.objects, lease=LEASE)
    for number in (1, 2, 3):
        for name in (f"attempts/a/{number}.json", f"attempts/a/{number}.failed.json"):
            one.objects.put(name, b"{}")
        assert state(looks).status == ("set aside" if number == 3 else "waiting")


def test_a_tile_is_done_once(one, other):
    lease = one.claim(state(one))
    assert one.finish(lease, {"tile": "a"})
    assert not other.finish(lease, {"tile": "a", "late": True})
    assert one.record("a") == {"tile": "a", "attempt": 1}
    assert state(other).status == "done"


def test_a_heartbeat_is_a_thread_that_ends_with_its_tile(one, store):
    quick = Ledger(one.objects, owner=one.owner, lease=0.01)
    lease = quick.claim(state(quick))
    put = store.calls.count(("put", "attempts/a/1.json"))
    with quick.beating(lease):
        until = time.monotonic() + 60
        while store.calls.count(("put", "attempts/a/1.json")) < put + 3:
            time.sleep(0)
            assert time.monotonic() < until, "no heartbeat"
    after = len(store.calls)
    assert len(store.calls) == after


def test_ten_thousand_tiles_take_two_listings_and_no_request_of_their_own(store, one):
    tiles = [f"r{n // 100:04d}c{n % 100:04d}" for n in range(10_000)]
    for n, tile in enumerate(tiles):
        store.times[f"attempts/{tile}/1.json"] = store.times[f"done/{tile}.json"] = None
        store.inner.put(f"attempts/{tile}/1.json", b"{}")
        if n % 2:
            store.inner.put(f"done/{tile}.json", b"{}")
    now = one.now()
    store.times = dict.fromkeys(store.times, now)
    store.calls.clear()
    states = one.states(tiles)
    assert sum(s.status == "done" for s in states.values()) == 5000
    assert sum(s.status == "running" for s in states.values()) == 5000
    names = sorted(name for name, _ in store.calls)
    assert names == ["head", "list", "list", "put"]
    store.calls.clear()
    ordered = dataclasses.replace(one.objects, is_ordered=True)
    assert runner(ordered, "three").states(tiles) == states
    # One for every 900 tiles: S3 tells a thousand keys an answer.
    assert store.calls.count(("list", "attempts")) == store.calls.count(("list", "done")) == 12


def test_a_process_that_ended_is_known_to_be_gone_only_here():
    here = this_owner()
    assert not is_gone(here.card())
    if not here.machine:
        pytest.skip("this machine does not say which processes it has")
    assert is_gone(dataclasses.replace(here, started="1").card())
    assert is_gone(dataclasses.replace(here, pid=2**22 + 1).card())
    assert not is_gone(dataclasses.replace(here, machine="other", pid=2**22 + 1).card())
    assert not is_gone({"machine": "", "pid": 1})


def test_a_tile_of_a_dead_process_of_this_machine_is_free_at_once(store, one):
    here = this_owner()
    dead = Ledger(one.objects, owner=dataclasses.replace(here, started="1"), lease=LEASE)
    dead.claim(state(dead))
    (found,) = one.abandoned([state(one)])
    assert (found.status, found.attempts) == ("stale", 1)
    assert one.claim(found).number == 2


@pytest.mark.parametrize("wrong", [{"lease": 0.0}, {"max_attempts": 0}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Ledger(memory(), **wrong)
