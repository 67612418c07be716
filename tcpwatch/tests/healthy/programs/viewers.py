"""Viewers who leave in the middle of a download, so many a second: viewers.py PORT RATE.

A player reads a part, and its user goes on to the next film: what has arrived is not read."""
import socket
import sys
import time

port, pause = int(sys.argv[1]), 1 / float(sys.argv[2])
begin, films, failed = time.monotonic(), 0, 0
while True:
    try:
        with socket.create_connection(("127.0.0.1", port)) as player:
            player.sendall(b"GET /film HTTP/1.1\r\nHost: media\r\n\r\n")
            player.recv(65536)
    except OSError as error:
        print(error)
        failed += 1
        if failed > 20:
            sys.exit(1)
    films += 1
    time.sleep(max(0, begin + films * pause - time.monotonic()))
