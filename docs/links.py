"""Hook of mkdocs: a link to a file of the repository outside `docs/` becomes its path as text."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `[text](../path)` by `text (path)`.

    Args:
        markdown: The text of a page.
    """
    return re.sub(r"\[([^\]]*)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)
