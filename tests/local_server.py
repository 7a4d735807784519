"""An endpoint of OpenAI's protocol on this machine, for tests of what asks one."""

import http.server
import json
import threading


class LocalServer:
    """Answers each POST with what `respond` gives; a subclass says what that is.

    Attributes:
      url: for the client.
    """

    def __init__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    self.answer(*outer.respond(dict(self.headers), body))
                except OSError:  # the client has gone
                    self.close_connection = True

            def answer(self, status, content=b"", headers=None):
                self.send_response(status)
                if callable(content):
                    self.end_headers()
                    content(self.wfile)
                    return
                data = content.encode() if isinstance(content, str) else content
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def respond(self, headers, body):
        """Returns status and content (bytes, text, what becomes JSON, or a function that writes it
        to the connection), and headers where they matter."""
        raise NotImplementedError

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def chat(content, finish="stop", **message):
    """A model's reply as the protocol has it."""
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}
