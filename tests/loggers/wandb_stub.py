"""A W&B server on the loopback interface: just enough answers for a run to start and be sent.

As a process of its own, which can be killed: `python wandb_stub.py --delay 0.5 --status 200`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_RUN = {
    "id": "cnVu",
    "name": "stub",
    "displayName": "stub",
    "config": "{}",
    "historyLineCount": 0,
    "project": {"id": "cA==", "name": "rmexp-test", "entity": {"id": "ZQ==", "name": "lab"}},
}
_ANSWERS = {
    "viewer": {"id": "dg==", "entity": "lab", "username": "me", "flags": "{}"},
    "model": {"bucket": None},
    "upsertBucket": {"bucket": _RUN, "inserted": True},
    "createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": []},
}


class Stub:
    """Serves until `stop`; `rows` are the history rows that arrived, without wandb's own keys.

    Every answer comes `delay` seconds late and has `status`; other than 200 is a refusal.
    """

    def __init__(self, delay: float = 0.0, status: int = 200) -> None:
        self._lines: list[str] = []
        lines = self._lines

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path.endswith("/file_stream"):
                    files = json.loads(body).get("files") or {}
                    lines.extend(files.get("wandb-history.jsonl", {}).get("content", []))
                time.sleep(delay)
                self._answer({"data": _ANSWERS} if self.path.endswith("/graphql") else {})

            def do_GET(self) -> None:
                self._answer({})

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

            def _answer(self, content: dict[str, Any]) -> None:
                refusal = {"errors": [{"message": f"refused with {status}"}]}
                body = json.dumps(content if status == 200 else refusal).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self._lines]
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]

    def stop(self) -> None:
        """May be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--status", type=int, default=200)
    sys.stdout.write(Stub(**vars(parser.parse_args())).url + "\n")
    sys.stdout.flush()
    threading.Event().wait()
