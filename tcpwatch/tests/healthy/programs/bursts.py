"""Clients that come all at once, now and then, to a server with a short backlog:
bursts.py PORT BACKLOG CLIENTS PERIOD. The server takes 13 ms for each, so 150 take 2 s."""
import os
import socket
import sys
import threading
import time

port, backlog, count, period = map(int, sys.argv[1:])
listener = socket.create_server(("127.0.0.1", port), backlog=backlog)
if os.fork() == 0:
    while True:
        client, _ = listener.accept()
        client.recv(64)
        time.sleep(0.013)
        client.sendall(b"answer")
        client.close()
listener.close()


def ask():
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"ask")
        client.recv(64)


while True:
    clients = [threading.Thread(target=ask) for _ in range(count)]
    for client in clients:
        client.start()
    begin = time.monotonic()
    for client in clients:
        client.join()
    print(f"{count} served within {time.monotonic() - begin:.1f} s")
    time.sleep(max(0, begin + period - time.monotonic()))
