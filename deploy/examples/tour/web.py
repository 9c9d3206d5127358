"""A program that calls another by its name in the mesh, with nothing but its standard library.

    python3 web.py PORT

urllib goes through the proxy that http_proxy names, which `outrigger run` sets. The one thing that a mesh needs of a
program is that it passes these headers on, so that both calls are spans of one trace.
"""

import http.server
import sys
import urllib.error
import urllib.request

PASSED_ON = ("traceparent", "tracestate", "baggage", "x-request-id")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        try:
            request = urllib.request.Request("http://payments.shop/", headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                status, body = 200, b"web, by way of " + answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, b"payments says: " + error.read()
        except OSError as error:
            status, body = 502, f"payments cannot be reached: {error}\n".encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
