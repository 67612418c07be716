"""50 connections a second whose server closes each 5 s after its client: late_closers.py PORT."""
import collections
import socket
import sys
import time

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
closed_by_client = collections.deque()
while True:
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.close()
    closed_by_client.append((time.monotonic(), server))
    while time.monotonic() - closed_by_client[0][0] >= 5:
        closed_by_client.popleft()[1].close()
    time.sleep(0.02)
