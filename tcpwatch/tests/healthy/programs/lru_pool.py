"""A pool of so many connections that opens one to another host each PAUSE seconds, and closes the
one that was used longest ago: lru_pool.py SIZE PAUSE PORT. So does urllib3's PoolManager."""
import collections
import http.client
import itertools
import sys
import time

size, pause, port = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
pool = collections.deque()
for number in itertools.count():
    if len(pool) == size:
        pool.popleft().close()
    connection = http.client.HTTPConnection(f"127.0.1.{1 + number % 200}", port)
    connection.request("GET", "/")
    connection.getresponse().read()
    pool.append(connection)
    time.sleep(pause)
