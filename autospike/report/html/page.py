"""Assembles the HTML report from its parts and the data, as one page that loads nothing."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping
from importlib.resources import files as package_files
from typing import Any

MAX_BYTES = 2_000_000  # of a page, so that it can be sent by mail


def page(data: Mapping[str, Any]) -> str:
    """Return the report with its data, compressed, inside.

    Args:
        data: As `report.html.data.page_data` returns it.
    """
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), compresslevel=9, mtime=0)
    return _filled(title=str(data["title"]), embedded=base64.b64encode(packed).decode(), live=False)


def live_page(title: str) -> str:
    """Return the report that reads its data from `data.json` beside it, again and again.

    Args:
        title: Title of the page.
    """
    return _filled(title=title, embedded="", live=True)


def _filled(*, title: str, embedded: str, live: bool) -> str:
    folder = package_files("autospike.report.html")
    parts = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "script.js")}
    values = {
        "@TITLE@": html.escape(title),
        "@STYLE@": parts["style.css"],
        "@SCRIPT@": parts["script.js"],
        "@DATA@": embedded,
        "@LIVE@": ' data-live="true"' if live else "",
    }
    text = parts["page.html"]
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text
