"""A program that knows nothing of the mesh: answers with its version, and fails some requests if told to.

    python3 payments.py PORT VERSION [PERCENT]
"""

import http.server
import itertools
import sys

PORT, VERSION = int(sys.argv[1]), sys.argv[2]
PERCENT = int(sys.argv[3]) if len(sys.argv) > 3 else 0
numbers = itertools.count()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        fails = next(numbers) * PERCENT % 100 < PERCENT
        body = b"out of order\n" if fails else f"payments {VERSION}\n".encode()
        self.send_response(503 if fails else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
