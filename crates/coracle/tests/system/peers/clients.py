"""Clients that nobody here wrote, for the tests. Each prints `ok` when all it saw was right."""

import sys

what, gateway = sys.argv[1], sys.argv[2]


def grpc_client():
    import grpc

    channel = grpc.insecure_channel(gateway, options=(("grpc.default_authority", "grpc.test"),))
    once = channel.unary_unary("/demo.Echo/Once")
    answer, call = once.with_call(b"hello", metadata=(("x-who", "world"),), timeout=120)
    assert answer == b"hello to world", answer
    assert dict(call.trailing_metadata())["x-trailer"] == "said last", call.trailing_metadata()

    for request, code in ((b"refuse", grpc.StatusCode.FAILED_PRECONDITION), (b"deadline", grpc.StatusCode.DEADLINE_EXCEEDED)):
        try:
            once(request, timeout=120 if request == b"refuse" else 0.5)
            raise AssertionError(f"{request} was answered")
        except grpc.RpcError as error:
            assert error.code() == code, error

    stream = channel.stream_stream("/demo.Echo/Stream")
    answers = list(stream(iter([b"a"] * 100), timeout=120))
    assert answers == [b"A"] * 100, len(answers)

    missing = grpc.insecure_channel(gateway, options=(("grpc.default_authority", "nobody.test"),))
    try:
        missing.unary_unary("/demo.Echo/Once")(b"hello", timeout=120)
        raise AssertionError("a host without a route was answered")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def websocket_client():
    import socket as sockets

    from websockets.sync.client import connect

    host, port = gateway.rsplit(":", 1)
    with connect("ws://websocket.test/", sock=sockets.create_connection((host, int(port)))) as socket:
        for message in ("a", "b" * 100_000, b"\x00\x01"):
            socket.send(message)
            assert socket.recv(timeout=120) == message
        assert socket.ping().wait(120)


def events_client():
    import http.client

    events = http.client.HTTPConnection(gateway, timeout=120)
    events.request("GET", "/", headers={"host": "events.test"})
    answer = events.getresponse()
    assert answer.status == 200 and answer.readline() == b"data: first\n"
    heard = http.client.HTTPConnection(gateway, timeout=120)
    heard.request("POST", "/", headers={"host": "events.test"})
    assert heard.getresponse().status == 204
    assert b"data: second" in answer.read()


{"grpc": grpc_client, "websocket": websocket_client, "events": events_client}[what]()
print("ok")
