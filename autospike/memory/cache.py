"""LRU cache with a byte budget, for decoded images and intermediate results of a trie evaluation."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20

Key = tuple[Any, ...]


@dataclass
class ByteBudgetCache:
    """Least recently used entries are evicted first, but never one that the current generation has used.

    Pinning the current generation helps when the same entries are used in the same order again and again: a plain LRU cache that
    is too small for all of them would evict each one just before it is needed.

    Attributes:
        budget_bytes: Largest total size of the entries.
        used_bytes: Current total size of the entries.
    """

    budget_bytes: int = 1024 * MIB
    used_bytes: int = 0
    _generation: int = 0
    _entries: OrderedDict[Key, tuple[Any, int, int]] = field(default_factory=OrderedDict, repr=False)  # value, bytes, generation

    def next_generation(self) -> None:
        """Start a new generation, so that entries of earlier ones may be evicted."""
        self._generation += 1

    def get(self, key: Key) -> Any:
        """Return the value of a key, or None.

        Args:
            key: Key of the entry, which becomes the most recently used one.
        """
        if key not in self._entries:
            return None
        value, nbytes, _ = self._entries.pop(key)
        self._entries[key] = (value, nbytes, self._generation)
        return value

    def __contains__(self, key: Key) -> bool:
        """Return whether a key is cached, without using it."""
        return key in self._entries

    def values(self) -> list[Any]:
        """Return all values, the least recently used one first."""
        return [value for value, _, _ in self._entries.values()]

    def put(self, key: Key, value: Any, nbytes: int) -> None:
        """Insert or replace a value if it fits into the budget.

        Args:
            key: The key.
            value: The value.
            nbytes: Size of the value in bytes.
        """
        self._remove(key)
        if nbytes > self.budget_bytes:
            return
        while self.used_bytes + nbytes > self.budget_bytes and self._oldest_is_evictable():
            self._remove(next(iter(self._entries)))
        if self.used_bytes + nbytes <= self.budget_bytes:
            self._entries[key] = (value, nbytes, self._generation)
            self.used_bytes += nbytes

    def _oldest_is_evictable(self) -> bool:
        return bool(self._entries) and next(iter(self._entries.values()))[2] < self._generation

    def _remove(self, key: Key) -> None:
        self.used_bytes -= self._entries.pop(key, (None, 0, 0))[1]
