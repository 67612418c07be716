"""Forks workers that make one request over each of some connections and keep these:
keepers.py WORKERS CONNECTIONS HOSTS PORT. The hosts are 127.0.1.1 and those that follow.

It does to TCP the same as gunicorn's sync workers with a `requests.Session` each: the peer's FIN
is noticed only when the connection is taken out of the pool for the next request."""
import http.client
import os
import sys
import time

workers, connections, hosts, port = map(int, sys.argv[1:])
for _ in range(workers):
    if os.fork() == 0:
        break
else:
    while True:
        os.wait()
        sys.exit("a worker has ended")
pool = []
for number in range(connections):
    connection = http.client.HTTPConnection(f"127.0.1.{1 + number % hosts}", port)
    connection.request("GET", "/")
    connection.getresponse().read()
    pool.append(connection)
while True:
    time.sleep(3600)
