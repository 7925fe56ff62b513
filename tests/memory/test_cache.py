"""The cache with a byte budget."""

from __future__ import annotations

from typing import Any

from builders import few_examples
from hypothesis import given
from hypothesis import strategies as st

from autospike.memory.cache import MIB, ByteBudgetCache

# Operations on a cache: "turn" starts a generation, a key is read, or a key is stored with a size.
events = st.lists(st.just("turn") | st.integers(0, 9) | st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60)


def holds(cache: ByteBudgetCache, *keys: str) -> list[bool]:
    """Return which of the keys are in the cache, without marking them as used."""
    return [(key,) in cache for key in keys]


@few_examples
@given(budget=st.integers(0, 100), operations=events)
def test_the_budget_is_never_exceeded_and_entries_of_the_generation_stay(budget: int, operations: list[Any]) -> None:
    """`model` contains the entries of the current generation, which must stay in the cache."""
    cache = ByteBudgetCache(budget)
    model: dict[int, Any] = {}
    for event in operations:
        if event == "turn":
            cache.next_generation()
            model.clear()
        elif isinstance(event, int):
            found = cache.get((event,))
            assert event not in model or found == model[event]
            if found is not None:
                model[event] = found
        else:
            key, nbytes = event
            cache.put((key,), (key, nbytes), nbytes)
            model.pop(key, None)
            if cache.get((key,)) is not None:
                model[key] = (key, nbytes)
        assert cache.used_bytes == sum(nbytes for _, nbytes in cache.values()) <= budget
        assert all((key,) in cache for key in model)


def test_the_least_recently_used_entry_is_evicted() -> None:
    cache = ByteBudgetCache(30)
    for name in "abc":
        cache.put((name,), name, 10)
    cache.next_generation()
    assert cache.get(("a",)) == "a"
    cache.put(("d",), "d", 10)
    assert holds(cache, *"abcd") == [True, False, True, True]
    cache.next_generation()
    cache.put(("e",), "e", 20)
    assert holds(cache, *"abcde") == [False, False, False, True, True]


def test_entries_of_the_current_generation_are_not_evicted() -> None:
    cache = ByteBudgetCache(20)
    cache.put(("a",), "a", 10)
    cache.next_generation()
    cache.get(("a",))
    cache.put(("b",), "b", 15)
    assert cache.get(("a",)) == "a"
    assert cache.get(("b",)) is None
    assert cache.used_bytes == 10


def test_a_value_is_replaced() -> None:
    cache = ByteBudgetCache(10)
    cache.put(("a",), "old", 8)
    cache.put(("a",), "new", 6)
    assert (cache.get(("a",)), cache.used_bytes) == ("new", 6)


def test_a_value_that_does_not_fit_removes_the_old_one() -> None:
    cache = ByteBudgetCache(10)
    cache.put(("a",), "old", 8)
    cache.put(("a",), "new", 11)
    assert (cache.get(("a",)), cache.used_bytes) == (None, 0)


def test_a_value_larger_than_the_budget_evicts_nothing() -> None:
    cache = ByteBudgetCache(10)
    cache.put(("a",), "a", 8)
    cache.next_generation()
    cache.put(("b",), "b", 11)
    assert cache.get(("a",)) == "a"


def test_an_unknown_key_is_none() -> None:
    assert ByteBudgetCache().get(("a", 1)) is None
    assert ByteBudgetCache().budget_bytes == 1024 * MIB
