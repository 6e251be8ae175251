# SPDX-License-Identifier: Apache-2.0
"""Whether and when: the decision of a restart policy, and what a probe makes of a container's health."""

from hypothesis import given
from hypothesis import strategies as st

from wherry_shim.serve.probes import HEALTHY, STARTING, UNHEALTHY, Health, judge
from wherry_shim.serve.records import ALWAYS, NO, ON_FAILURE, RUNNING, STOPPED, Exit, Policy, Probe
from wherry_shim.serve.restart import decide, delay

SECOND = 1_000_000_000
POLICIES = st.builds(
    Policy,
    st.sampled_from([NO, ON_FAILURE, ALWAYS]),
    st.integers(0, 10),
    st.floats(0.01, 10),
    st.floats(10, 1000),
    st.floats(0, 100),
)
REASONS = st.sampled_from(["exited", "signal", "oom", "unhealthy", "stopped", "lost"])
EXITS = st.builds(Exit, st.integers(1, 9), st.integers(0, 255), st.integers(0, 64), st.booleans(), st.just(5 * SECOND), st.integers(5 * SECOND, 500 * SECOND), REASONS)


@given(POLICIES, st.sampled_from(["created", RUNNING, STOPPED]), EXITS, st.integers(0, 1000))
def test_a_decision(policy: Policy, desired: str, end: Exit, restarts: int) -> None:
    found = decide(policy, desired, end, restarts)
    if desired != RUNNING or policy.when == NO or end.reason == "stopped":
        assert not found.again
    if found.again:
        assert found.at >= end.exited and found.restarts >= 1
        assert found.at - end.exited <= policy.backoff_limit * SECOND + 1
        assert not policy.limit or found.restarts <= policy.limit
        assert policy.when == ALWAYS or end.status or end.reason in ("oom", "unhealthy", "lost")
        long = end.exited - end.started >= policy.reset_after * SECOND
        assert found.restarts == (1 if long else restarts + 1)


@given(POLICIES, st.integers(0, 10_000))
def test_delays_double_to_a_limit(policy: Policy, restarts: int) -> None:
    now, then = delay(policy, restarts), delay(policy, restarts + 1)
    assert policy.backoff <= now <= then <= policy.backoff_limit
    assert then in (2 * now, policy.backoff_limit)


def test_a_long_run_is_forgiven() -> None:
    policy = Policy(ALWAYS, limit=2, reset_after=10)
    short, long = Exit(status=1, started=SECOND, exited=2 * SECOND), Exit(status=1, started=SECOND, exited=20 * SECOND)
    assert not decide(policy, RUNNING, short, 2).again
    assert decide(policy, RUNNING, long, 2).restarts == 1


PROBES = st.builds(Probe, st.just(["true"]), retries=st.integers(1, 5), start_period=st.floats(0, 10))


@given(PROBES, st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=30))
def test_health(probe: Probe, results: list[tuple[bool, float]]) -> None:
    """Unhealthy after so many failures in a row that count; healthy after one success."""
    health, row, before = Health(), 0, False
    for ok, seconds in sorted(results, key=lambda result: result[1]):
        health = judge(probe, health, ok, seconds)
        before |= ok
        if ok:
            row = 0
            assert health == Health(HEALTHY, 0)
        elif before or seconds >= probe.start_period or health.state == UNHEALTHY:
            row += 1
        assert (health.state == UNHEALTHY) == (row >= probe.retries and not ok) or health.state == UNHEALTHY
        assert health.state != STARTING or not before


def test_the_start_period() -> None:
    probe = Probe(["x"], retries=1, start_period=5)
    assert judge(probe, Health(), False, 4.9) == Health(STARTING, 0)
    assert judge(probe, Health(), False, 5.1) == Health(UNHEALTHY, 1)
    assert judge(probe, Health(HEALTHY, 0), False, 1) == Health(UNHEALTHY, 1)
