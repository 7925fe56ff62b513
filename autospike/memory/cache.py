"""What is kept in memory because it may be needed again, up to a budget: decoded images, what nodes of a walk gave."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

MB = 1 << 20

Key = tuple[Any, ...]


@dataclass
class ByteBudgetCache:
    """What was not used for longest makes room, but nothing that the turn at hand has used: what is gone through in a circle would
    otherwise always just have been thrown away.

    Args:
        budget_bytes: for everything together.
    """

    budget_bytes: int = 1024 * MB
    used_bytes: int = 0
    _turn: int = 0
    _held: OrderedDict[Key, tuple[Any, int, int]] = field(default_factory=OrderedDict, repr=False)

    def turn(self) -> None:
        """Begin a new turn."""
        self._turn += 1

    def get(self, key: Key) -> Any:
        """What was kept, or None."""
        if key not in self._held:
            return None
        value, nbytes, _ = self._held.pop(key)
        self._held[key] = (value, nbytes, self._turn)
        return value

    def keep(self, key: Key, value: Any, nbytes: int) -> None:
        """Keep a value of that size, in place of another under the same key, if there is room or room can be made."""
        self._drop(key)
        if nbytes > self.budget_bytes:
            return
        while self.used_bytes + nbytes > self.budget_bytes and self._has_stale():
            self._drop(next(iter(self._held)))
        if self.used_bytes + nbytes <= self.budget_bytes:
            self._held[key] = (value, nbytes, self._turn)
            self.used_bytes += nbytes

    def _has_stale(self) -> bool:
        return bool(self._held) and next(iter(self._held.values()))[2] < self._turn

    def _drop(self, key: Key) -> None:
        self.used_bytes -= self._held.pop(key, (None, 0, 0))[1]
