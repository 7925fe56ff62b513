"""The cache with a byte budget."""

from __future__ import annotations

from builders import few
from hypothesis import given
from hypothesis import strategies as st

from autospike.memory.cache import MIB, ByteBudgetCache

# What happens to a store: "turn", a key that is asked for, or a key that is kept with a size.
events = st.lists(st.just("turn") | st.integers(0, 9) | st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60)


def holds(kept: ByteBudgetCache, *keys: str) -> list[bool]:
    """Which of the keys there are, without using them."""
    return [(key,) in kept._held for key in keys]


@few
@given(budget=st.integers(0, 100), happened=events)
def test_the_budget_is_never_exceeded_and_what_a_turn_used_stays(budget: int, happened: list) -> None:
    """`model`: everything that was kept or found in this turn, and has to be there."""
    kept, model = ByteBudgetCache(budget), {}
    for event in happened:
        if event == "turn":
            kept.next_generation()
            model.clear()
        elif isinstance(event, int):
            found = kept.get((event,))
            assert event not in model or found == model[event]
            if found is not None:
                model[event] = found
        else:
            key, nbytes = event
            kept.put((key,), (key, nbytes), nbytes)
            model.pop(key, None)
            if kept.get((key,)) is not None:
                model[key] = (key, nbytes)
        assert kept.used_bytes == sum(nbytes for _, nbytes, _ in kept._held.values()) <= budget
        assert all((key,) in kept._held for key in model)


def test_what_was_not_used_for_longest_makes_room() -> None:
    kept = ByteBudgetCache(30)
    for name in "abc":
        kept.put((name,), name, 10)
    kept.next_generation()
    assert kept.get(("a",)) == "a"
    kept.put(("d",), "d", 10)
    assert holds(kept, *"abcd") == [True, False, True, True]
    kept.next_generation()
    kept.put(("e",), "e", 20)
    assert holds(kept, *"abcde") == [False, False, False, True, True]


def test_what_the_turn_has_used_makes_no_room() -> None:
    kept = ByteBudgetCache(20)
    kept.put(("a",), "a", 10)
    kept.next_generation()
    kept.get(("a",))
    kept.put(("b",), "b", 15)
    assert kept.get(("a",)) == "a"
    assert kept.get(("b",)) is None
    assert kept.used_bytes == 10


def test_a_key_is_replaced() -> None:
    kept = ByteBudgetCache(10)
    kept.put(("a",), "old", 8)
    kept.put(("a",), "new", 6)
    assert (kept.get(("a",)), kept.used_bytes) == ("new", 6)


def test_a_value_that_does_not_fit_leaves_nothing_stale_under_its_key() -> None:
    kept = ByteBudgetCache(10)
    kept.put(("a",), "old", 8)
    kept.put(("a",), "new", 11)
    assert (kept.get(("a",)), kept.used_bytes) == (None, 0)


def test_what_never_fits_throws_nothing_away() -> None:
    kept = ByteBudgetCache(10)
    kept.put(("a",), "a", 8)
    kept.next_generation()
    kept.put(("b",), "b", 11)
    assert kept.get(("a",)) == "a"


def test_what_was_never_kept_is_none() -> None:
    assert ByteBudgetCache().get(("a", 1)) is None
    assert ByteBudgetCache().budget_bytes == 1024 * MIB
