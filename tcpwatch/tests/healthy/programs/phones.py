"""600 phones keep a connection to a server, which sends 200 bytes to each every 2 s.

Twenty lose their network for good: they take no segment and send none (a filter drops all). Twenty put
a player to sleep: they read nothing, and their buffer is small, so their window closes.
"""

import ctypes
import socket
import struct
import sys
import threading
import time

PHONES = 600
SO_ATTACH_FILTER = 26


def drop_all(phone):
    """BPF_RET | BPF_K with length 0."""
    program = struct.pack("HBBI", 0x06, 0, 0, 0)
    buffer = bytearray(program)
    address = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    phone.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(address))
    )


def main():
    port = int(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    phones, served = [], []
    for number in range(PHONES):
        phone = socket.socket()
        if number >= PHONES - 20:
            phone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        phone.connect(("127.0.0.1", port))
        connection, _ = listener.accept()
        connection.setblocking(False)
        phones.append(phone)
        served.append(connection)
    for phone in phones[:20]:
        drop_all(phone)

    def read():
        while True:
            for phone in phones[20:-20]:
                try:
                    phone.recv(65536, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
            time.sleep(0.5)

    threading.Thread(target=read, daemon=True).start()
    while True:
        for connection in served:
            try:
                connection.send(b"n" * 200)
            except BlockingIOError:
                pass
        time.sleep(2)


main()
