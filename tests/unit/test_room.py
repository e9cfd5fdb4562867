"""Memory that sources share: against the rule as it is written."""

from hypothesis import given
from hypothesis import strategies as st

from metricsdb.adapters.room import Room

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.booleans()), max_size=60)


@given(STEPS)
def test_a_source_holds_at_most_what_is_free(steps):
    room, held = Room(100), {"a": [], "b": [], "c": []}
    for source, count, take in steps:
        if take:
            total = sum(map(sum, held.values()))
            fits = sum(held[source]) + count <= 100 - total - count
            assert room.fits(source, count) == fits
            assert room.take(source, count) == fits
            if fits:
                held[source].append(count)
        elif held[source]:
            room.give(source, held[source].pop())
        assert room.free == 100 - sum(map(sum, held.values()))
        assert room.free >= 0


def test_one_alone_gets_half_and_a_newcomer_always_some():
    room = Room(1000)
    while room.take("greedy", 1):
        pass
    assert room.free == 500
    for name in "abcdef":
        assert room.take(name, 1)
    room.clear()
    assert room.free == 1000
    assert room.take("greedy", 500)


def test_nothing_is_kept_of_a_source_that_is_gone():
    room = Room(1000)
    for n in range(1000):
        room.take(str(n), 1)
        room.give(str(n), 1)
    assert room._held == {}
