"""A stand-in for the Hugging Face hub on this machine: repositories are made, uploaded to, and read from."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubStandIn:
    """Serves the part of the hub's API that an upload of small files and a download need.

    Attributes:
        url: For HF_ENDPOINT.
        repositories: Name -> file name -> bytes.
        requests: Method and path of each request.
        token: The token that uploads must bring.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.token = 'hf_secret'
        self._server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'hub': self}))
        self.url = f'http://127.0.0.1:{self._server.server_port}'
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        self.hub.requests.append(f'POST {self.path}')
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if self.headers.get('Authorization') != f'Bearer {self.hub.token}':
            return self.answer({'error': 'Invalid username or password.'}, 401)
        parts = self.path.split('?')[0].strip('/').split('/')
        if parts == ['api', 'repos', 'create']:
            fields = json.loads(body)
            name = f'{fields.get("organization") or "someone"}/{fields["name"]}'
            self.hub.repositories.setdefault(name, {})
            return self.answer({'url': f'{self.hub.url}/{name}', 'name': name, 'id': name})
        if parts == ['api', 'validate-yaml']:  # The front matter of the model card.
            return self.answer({'errors': [], 'warnings': []})
        name = '/'.join(parts[2:4])
        if parts[4:5] == ['preupload']:
            files = json.loads(body)['files']
            modes = [{'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False, 'oid': None} for f in files]
            return self.answer({'files': modes})
        if parts[4:5] == ['commit']:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry['key'] == 'file':
                    content = base64.b64decode(entry['value']['content'])
                    self.hub.repositories[name][entry['value']['path']] = content
            return self.answer({'commitUrl': f'{self.hub.url}/{name}/commit/{"a" * 40}', 'commitOid': 'a' * 40,
                                'success': True, 'hookOutput': ''})  # fmt: skip
        return self.answer({'error': 'not here'}, 404)

    def do_GET(self):
        self.hub.requests.append(f'{self.command} {self.path}')
        parts = self.path.split('?')[0].strip('/').split('/')
        if parts[:2] == ['api', 'models'] and '/'.join(parts[2:4]) in self.hub.repositories:
            name = '/'.join(parts[2:4])
            files = [{'rfilename': file} for file in self.hub.repositories[name]]
            return self.answer({'id': name, 'sha': 'a' * 40, 'siblings': files, 'private': False, 'tags': []})
        content = self.hub.repositories.get('/'.join(parts[:2]), {}).get('/'.join(parts[4:]))
        if parts[2:3] != ['resolve'] or content is None:
            return self.answer({'error': 'not here'}, 404, {'X-Error-Code': 'EntryNotFound'})
        headers = {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': 'a' * 40}
        return self.answer(content, 200, headers)

    def do_HEAD(self):
        self.do_GET()

    def answer(self, content, status=200, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def log_message(self, *_):
        pass
