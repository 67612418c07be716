"""A pool of idle sessions at PostgreSQL: postgresql_pool.py SESSIONS PORT.

It speaks the start of protocol 3.0 as libpq does, and then waits as an idle pool does."""
import socket
import struct
import sys
import time

sessions, port = int(sys.argv[1]), int(sys.argv[2])
pool = []
for _ in range(sessions):
    session = socket.create_connection(("127.0.0.1", port))
    start = struct.pack("!I", 3 << 16) + b"user\0postgres\0database\0postgres\0\0"
    session.sendall(struct.pack("!I", 4 + len(start)) + start)
    stream = session.makefile("rb")
    while True:
        kind, length = struct.unpack("!cI", stream.read(5))
        text = stream.read(length - 4)
        if kind == b"E":
            sys.exit(text)
        if kind == b"Z":
            break
    pool.append((session, stream))
while True:
    time.sleep(3600)
