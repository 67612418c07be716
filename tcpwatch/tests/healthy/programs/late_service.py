"""Clients that try again and again, and a service that starts later:
late_service.py PORT SECONDS PAUSE."""
import os
import socket
import sys
import time

port, later, pause = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
if os.fork() == 0:
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(pause)
            continue
        while client.recv(64):
            pass
        client.close()
time.sleep(later)
server = socket.create_server(("127.0.0.1", port))
clients = []
while True:
    clients.append(server.accept())
