"""A server on 127.0.0.1 that stands in for huggingface.co: repositories are created, and commits of regular files are stored."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_abc"
"""The token that the server accepts."""


@dataclass
class Hub:
    """What the server has received.

    Attributes:
        address: URL of the server.
        repositories: Files of each repository by their paths.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """Answer an authorized request."""
        name = "/".join(path.split("/")[3:5])
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(name, {})
            return {"url": f"{self.address}/{name}"}
        if "/preupload/" in path:
            settings = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return {"files": [{"path": file["path"], **settings} for file in json.loads(body)["files"]]}
        if "/commit/" in path:
            files = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            self.repositories[name] |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            return {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1" * 40, "hookOutput": ""}
        return {"errors": [], "warnings": []}  # validate-yaml


@contextmanager
def hub() -> Iterator[Hub]:
    """Run the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.respond(200, found.answer(self.path, body)) if authorized else self.respond(401, {"error": "Invalid token."})

        def do_GET(self) -> None:
            self.respond(401, {"error": "Invalid token."})

        def respond(self, status: int, answer: dict[str, Any]) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Hub(address=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
