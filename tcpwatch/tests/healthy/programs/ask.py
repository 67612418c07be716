"""Asks URL so many times a second, over a connection each: ask.py URL RATE. It bears 20 errors."""
import http.client
import ssl
import sys
import time
import urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
pause = 1 / float(sys.argv[2])
unverified = ssl._create_unverified_context()
begin, requests, failed = time.monotonic(), 0, 0
while True:
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(url.hostname, url.port, context=unverified)
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port)
    try:
        connection.request("GET", url.path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        print(error)
        failed += 1
        if failed > 20:
            sys.exit(1)
    connection.close()
    requests += 1
    time.sleep(max(0, begin + requests * pause - time.monotonic()))
