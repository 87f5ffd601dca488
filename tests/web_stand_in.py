"""A web server on this machine that stands for those of HTTPS addresses: without encryption, with every fault."""

import contextlib
import http.client
import threading
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WebStandIn:
    """Serves files.

    Attributes:
        files: Path -> bytes.
        moved: Path -> address it leads on to.
        breaks_after: Bytes after which the next answer breaks off.
        claims: Size that answers claim to have, in place of their own; 0 for none.
        knows_ranges: Whether a part of a file is sent where it is asked for.
        requests: Path, and first byte asked for, of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    breaks_after: int | None = None
    claims: int | None = None
    knows_ranges: bool = True
    requests: list[tuple[str, int]] = field(default_factory=list)

    def start(self) -> None:
        self._server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'web': self}))
        self.url = f'https://127.0.0.1:{self._server.server_port}'
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    web: WebStandIn

    def do_GET(self):
        web = self.web
        asked = self.headers.get('Range', 'bytes=0-').removeprefix('bytes=')
        start = int(asked.partition('-')[0]) if web.knows_ranges else 0
        web.requests.append((self.path, int(asked.partition('-')[0])))
        if self.path in web.moved:
            self.send_response(302)
            self.send_header('Location', web.moved[self.path])
            self.end_headers()
            return
        data = web.files.get(self.path)
        if data is None or start > len(data):
            self.send_error(404 if data is None else 416)
            return
        self.send_response(206 if start else 200)
        if web.claims != 0:
            self.send_header('Content-Length', str(web.claims or len(data) - start))
        self.end_headers()
        until, web.breaks_after = web.breaks_after, None
        with contextlib.suppress(ConnectionError):  # Where the rest is not wanted.
            self.wfile.write(data[start : start + until if until is not None else None])

    def log_message(self, *words):
        pass


class PlainHandler(urllib.request.AbstractHTTPHandler):
    """Opens HTTPS addresses without encryption."""

    def __init__(self, context=None):
        super().__init__()

    def https_open(self, request):
        return self.do_open(http.client.HTTPConnection, request)
