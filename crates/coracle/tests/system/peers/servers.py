"""Servers that nobody here wrote, for the tests: gRPC by grpcio, WebSocket by websockets, server-sent events by the standard library."""

import os
import sys
import time

PORT = int(os.environ["PORT"])


def grpc_server():
    from concurrent import futures

    import grpc

    def once(request, context):
        metadata = dict(context.invocation_metadata())
        context.set_trailing_metadata((("x-trailer", "said last"),))
        if request == b"deadline":
            # Ends with the call: whose clock says so first, the caller's or this one's, is not for the test to say, and
            # a server that notices its deadline never answers as if nothing had been.
            while context.is_active():
                time.sleep(0.01)
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
        if request == b"refuse":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        return request + b" to " + metadata.get("x-who", "nobody").encode()

    def stream(requests, context):
        for request in requests:
            yield request.upper()

    class Handler(grpc.GenericRpcHandler):
        def service(self, call):
            if call.method == "/demo.Echo/Once":
                return grpc.unary_unary_rpc_method_handler(once)
            if call.method == "/demo.Echo/Stream":
                return grpc.stream_stream_rpc_method_handler(stream)
            return None

    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"0.0.0.0:{PORT}")
    server.start()
    server.wait_for_termination()


def websocket_server():
    from websockets.sync.server import serve

    def echo(socket):
        for message in socket:
            socket.send(message)

    with serve(echo, "0.0.0.0", PORT) as server:
        server.serve_forever()


def events_server():
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            # The second only once the client has had the first and says so, which it can only do if nothing holds events back.
            Handler.heard = False
            self.wfile.write(b"data: first\n\n")
            self.wfile.flush()
            while not Handler.heard:
                time.sleep(0.01)
            self.wfile.write(b"data: second\n\n")

        def do_POST(self):
            Handler.heard = True
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    ThreadingHTTPServer(("0.0.0.0", PORT), Handler).serve_forever()


{"grpc": grpc_server, "websocket": websocket_server, "events": events_server}[sys.argv[1]]()
