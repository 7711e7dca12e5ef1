"""A user service in Python's standard library: three probes, configuration by environment, a clean end on SIGTERM."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USERS = {"ada": "Ada", "grace": "Grace", "linus": "Linus"}


def log(message, **fields):
    print(json.dumps({"message": message, "pod": os.environ.get("POD_NAME", ""), **fields}), flush=True)


under_way = 0
changed = threading.Condition()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global under_way
        with changed:
            under_way += 1
        try:
            self.answer()
        finally:
            with changed:
                under_way -= 1
                changed.notify_all()

    def answer(self):
        if self.path in ("/startup", "/live", "/ready"):
            return self.reply(200, {"status": "ok"})
        if self.path == "/config":
            token = os.environ["API_TOKEN"]
            return self.reply(200, {
                "environment": os.environ["ENVIRONMENT"],
                "log_level": os.environ["LOG_LEVEL"],
                "api_token": "*" * len(token),
                "pod": os.environ.get("POD_NAME", ""),
            })
        if self.path == "/users":
            return self.reply(200, {"users": sorted(USERS)})
        name = USERS.get(self.path.removeprefix("/users/"))
        if name is None:
            return self.reply(404, {"error": f"nothing answers GET {self.path}"})
        return self.reply(200, {"name": name})

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form, *args):
        if os.environ.get("LOG_LEVEL") == "debug":
            log(form % args)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    for name in ("ENVIRONMENT", "LOG_LEVEL", "API_TOKEN"):
        if name not in os.environ:
            log("a variable is missing; see base/config.yaml", variable=name)
            return 1
    server = Server(("", int(os.environ.get("PORT", "8080"))), Handler)
    # shutdown() waits for the serving thread, which is this one: so from another.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    log("listening", port=server.server_port, environment=os.environ["ENVIRONMENT"])
    server.serve_forever(poll_interval=0.1)
    # Requests under way are answered; idle keep-alive connections are not waited for, their clients know how to reconnect.
    with changed:
        finished = changed.wait_for(lambda: under_way == 0, timeout=20)
    log("stopped", finished=finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
