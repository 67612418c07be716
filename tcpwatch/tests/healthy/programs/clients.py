"""Clients of a service that keep a connection each: clients.py COUNT PORT REQUEST SECONDS.

Each sends the request every so many seconds and reads what comes. It connects anew when the
connection ends: at once the first time, then with pauses of a second and some more, as most client
libraries do."""
import asyncio
import random
import sys

count, port, period = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[4])
request = sys.argv[3].encode().decode("unicode_escape").encode()


async def read(reader):
    while await reader.read(65536):
        pass


async def client():
    await asyncio.sleep(random.random() * period)
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(1 + random.random())
            continue
        reading = asyncio.ensure_future(read(reader))
        try:
            while not reading.done():
                writer.write(request)
                await asyncio.wait([reading], timeout=period)
            await reading
        except OSError:
            pass
        writer.close()


async def main():
    await asyncio.gather(*[client() for _ in range(count)])

asyncio.run(main())
