"""`autospike serve`: the HTML report of a run while its search goes on, on this machine only. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from autospike.console import note
from autospike.errors import UserError
from autospike.report.html.data import page_data
from autospike.report.html.page import live_page
from autospike.run_directory import RunDirectory

HOST = "127.0.0.1"


class LiveData:
    """The data of a run as JSON, collected again when the archive or the log has changed.

    Args:
        run: The run.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._lock = Lock()
        self._state: tuple[int, ...] = ()
        self._text = ""

    def __call__(self) -> str:
        """Return the data.

        Raises:
            UserError: Nothing was searched yet.
        """
        with self._lock:
            paths = (self._run.archive, self._run.archive.with_name("archive.sqlite-wal"), self._run.folder / "log.jsonl")
            state = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)
            if state != self._state or not self._text:
                self._text, self._state = json.dumps(page_data(self._run)), state
            return self._text


class _Handler(BaseHTTPRequestHandler):
    """Answers two paths; everything else does not exist.

    Args:
        data: Returns the data as JSON.
        page: The page.
    """

    def __init__(self, data: Callable[[], str], page: str, *args: Any) -> None:
        self._data, self._page = data, page
        super().__init__(*args)

    def do_GET(self) -> None:
        """Send the page or its data."""
        if self.path == "/":
            self._send(HTTPStatus.OK, "text/html", self._page)
        elif self.path == "/data.json":
            try:
                self._send(HTTPStatus.OK, "application/json", self._data())
            except UserError as error:
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", str(error))
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "not found")

    def log_message(self, *args: Any) -> None:
        """Print nothing for each request."""

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def server(run: RunDirectory, port: int) -> ThreadingHTTPServer:
    """Return a server of the report, which the caller runs and closes.

    Args:
        run: The run, which is only read.
        port: The port; 0 for any free one.

    Raises:
        UserError: The port is in use.
    """
    handler = partial(_Handler, LiveData(run), live_page(f"autospike: {run.folder.resolve().name}"))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise UserError(f"--port {port}: cannot be used ({error.strerror}); choose another one, or 0 for any") from None


def serve(run: RunDirectory, port: int) -> None:
    """Serve the report until Ctrl-C.

    Args:
        run: The run.
        port: The port; 0 for any free one.
    """
    with server(run, port) as running:
        note(f"serve: http://{HOST}:{running.server_port}/ shows {run.folder} and follows its search; Ctrl-C ends it")
        running.serve_forever()
