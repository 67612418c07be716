"""Listens inside ip_local_port_range, and has local clients:
listeners.py kernel COUNT, listeners.py program COUNT or listeners.py PORT PORT...

`kernel` binds port 0, as Jupyter does for each kernel that it starts; `program` picks ports of the
range by itself. Each port has a client that stays, and each second another one comes and goes."""
import os
import random
import selectors
import socket
import sys
import time

if sys.argv[1] == "kernel":
    ports = [0] * int(sys.argv[2])
elif sys.argv[1] == "program":
    first, last = map(int, open("/proc/sys/net/ipv4/ip_local_port_range").read().split())
    ports = random.sample(range(first, last + 1), int(sys.argv[2]))
else:
    ports = [int(port) for port in sys.argv[1:]]
listeners = [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]

if os.fork() == 0:
    addresses = [listener.getsockname() for listener in listeners]
    for listener in listeners:
        listener.close()
    stay = [socket.create_connection(address) for address in addresses]
    while True:
        with socket.create_connection(random.choice(addresses)) as client:
            client.sendall(b"ask")
            client.recv(64)
        time.sleep(1)

selector = selectors.DefaultSelector()
for listener in listeners:
    selector.register(listener, selectors.EVENT_READ, listener)
while True:
    for key, _ in selector.select():
        if key.data is not None:
            client, _ = key.data.accept()
            selector.register(client, selectors.EVENT_READ, None)
        elif text := key.fileobj.recv(64):
            key.fileobj.sendall(text)
        else:
            selector.unregister(key.fileobj)
            key.fileobj.close()
