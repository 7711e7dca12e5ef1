"""Ports of a Pod through the Kubernetes client for Python, which speaks plain WebSocket. It prints `ok` when all it saw was right.

Arguments: a kubeconfig, a Pod, its port, and one that is nobody's of the Pod.
"""

import sys
import time

from kubernetes import client, config
from kubernetes.stream import portforward

file, pod, port, other = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config.load_kube_config(config_file=file)
forward = portforward(
    client.CoreV1Api().connect_get_namespaced_pod_portforward, pod, "default", ports=f"{port},{other}"
)
socket = forward.socket(port)
socket.settimeout(60)
# More than fits on any way at once, so that each side waits for the other.
for round in range(20):
    said = bytes([round]) * 100_000
    socket.sendall(said)
    heard = b""
    while len(heard) < len(said):
        piece = socket.recv(65536)
        assert piece, f"it ended after {len(heard)} bytes of round {round}: {forward.error(port)}"
        heard += piece
    assert heard == said, round
until = time.monotonic() + 60
while not forward.error(other):
    assert time.monotonic() < until, "nothing is said of the other port"
    time.sleep(0.05)
assert "none of this Pod's" in forward.error(other), forward.error(other)
assert forward.error(port) is None, forward.error(port)
forward.close()
print("ok")
