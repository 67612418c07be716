"""Clients of RabbitMQ that connect, publish one message and leave, so many a second:
amqp.py PORT RATE. They speak AMQP 0-9-1 as pika and amqplib do, and close once the server has said
close-ok. RabbitMQ as installed closes with SO_LINGER 0 (`tcp_listen_options.linger`)."""
import socket
import struct
import sys
import time

port, pause = int(sys.argv[1]), 1 / float(sys.argv[2])


def method(channel, class_id, method_id, arguments):
    payload = struct.pack("!HH", class_id, method_id) + arguments
    return struct.pack("!BHI", 1, channel, len(payload)) + payload + b"\xce"


def long_string(text):
    return struct.pack("!I", len(text)) + text


def answer(stream, class_id, method_id):
    while True:
        kind, _, length = struct.unpack("!BHI", stream.read(7))
        payload = stream.read(length + 1)
        if kind == 1 and struct.unpack("!HH", payload[:4]) == (class_id, method_id):
            return


def publish_one():
    connection = socket.create_connection(("127.0.0.1", port))
    stream = connection.makefile("rb")
    connection.sendall(b"AMQP\0\0\x09\x01")
    answer(stream, 10, 10)
    login = long_string(b"") + b"\5PLAIN" + long_string(b"\0guest\0guest") + b"\5en_US"
    connection.sendall(method(0, 10, 11, login))
    answer(stream, 10, 30)
    connection.sendall(method(0, 10, 31, struct.pack("!HIH", 2047, 131072, 60)))
    connection.sendall(method(0, 10, 40, b"\1/\0\0"))
    answer(stream, 10, 41)
    connection.sendall(method(1, 20, 10, b"\0"))
    answer(stream, 20, 11)
    publish = method(1, 60, 40, b"\0\0" + b"\0" + b"\5queue" + b"\0")
    header = struct.pack("!HHQH", 60, 0, 5, 0)
    publish += struct.pack("!BHI", 2, 1, len(header)) + header + b"\xce"
    publish += struct.pack("!BHI", 3, 1, 5) + b"hello" + b"\xce"
    connection.sendall(publish)
    connection.sendall(method(0, 10, 50, b"\0\xc8\x00" + b"\0\0\0\0"))
    answer(stream, 10, 51)
    stream.close()
    connection.close()


begin, published, failed = time.monotonic(), 0, 0
while True:
    try:
        publish_one()
    except (OSError, struct.error) as error:
        print(error)
        failed += 1
        if failed > 20:
            sys.exit(1)
    published += 1
    time.sleep(max(0, begin + published * pause - time.monotonic()))
