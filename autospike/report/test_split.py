"""Uses of the test split of a run: each measurement on it is logged, and counted from the log.

The test split estimates the accuracy of a network that was selected without it. Each further network that is measured on it, and
each choice that is made between them, turns it into a selection split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autospike.run_directory import RunDirectory

EVENT = "test split opened"


@dataclass(frozen=True, kw_only=True)
class HeldOutUses:
    """Uses of the test split so far.

    Attributes:
        openings: Number of commands that have opened it.
        exported: Ids of the subnets that were exported, in order.
    """

    openings: int
    exported: tuple[str, ...]

    @classmethod
    def of(cls, run: RunDirectory) -> HeldOutUses:
        """Count the uses that the log of a run records. Lines that are not JSON are left out.

        Args:
            run: The run.

        Returns:
            The uses.
        """
        events = _events(run.folder / "log.jsonl")
        opened = [event for event in events if event.get("event") == EVENT]
        exported = [event.get("architecture_id") for event in events if event.get("event") == "exported"]
        return cls(openings=len(opened), exported=tuple(dict.fromkeys(name for name in exported if isinstance(name, str))))

    def with_export(self, architecture_id: str) -> HeldOutUses:
        """Return the uses with the export of a subnet, which the log does not have yet.

        Args:
            architecture_id: Id of the subnet.
        """
        return replace(self, exported=tuple(dict.fromkeys((*self.exported, architecture_id))))

    def warning(self) -> str | None:
        """Return a line if several subnets were exported, otherwise None."""
        if len(self.exported) < 2:
            return None
        names = ", ".join(self.exported[:5]) + (", ..." if len(self.exported) > 5 else "")
        return (
            f"warning: {len(self.exported)} different subnets of this run were exported and measured on the test split ({names}). "
            "If you choose between them by their test accuracy, the test split becomes a selection split, and its accuracies are "
            "too high. Choose by the search split."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the uses as values for JSON."""
        return asdict(self)


def log_opening(run: RunDirectory, *, command: str, images: int, architecture_ids: Sequence[str]) -> None:
    """Log that a command opens the test split of a run.

    Args:
        run: The run, whose folder may be written to.
        command: Name of the command.
        images: Number of images that are measured.
        architecture_ids: The networks that are measured.

    Raises:
        UserError: The log cannot be written.
    """
    run.log(EVENT, images=images, command=command, architecture_ids=list(architecture_ids))


def _events(path: Path) -> list[dict[str, Any]]:
    """The events of a log that are readable."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found
