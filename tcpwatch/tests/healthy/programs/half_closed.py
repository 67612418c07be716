"""A server and its clients: half_closed.py streams|patient|poll PORT.

streams: 25 clients that shut down their side; the server sends each of them a line a second.
patient: 12 clients that shut down their side and wait 100 s for the answer, again and again, as
`nc -N` does with a slow report.
poll: each second a client asks, and leaves after 5 s; the server answers after 90 s, and sees only
then that the client has left."""
import asyncio
import sys

which, port = sys.argv[1], int(sys.argv[2])


async def serve(reader, writer):
    try:
        if which == "streams":
            while True:
                writer.write(b"a line\n")
                await writer.drain()
                await asyncio.sleep(1)
        await asyncio.sleep(100 if which == "patient" else 90)
        writer.write(b"answer\n")
        await writer.drain()
    except OSError:
        pass
    writer.close()


async def ask():
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"ask\n")
    if which == "poll":
        await asyncio.sleep(5)
    else:
        writer.write_eof()
        while await reader.read(65536):
            pass
    writer.close()


async def again_and_again():
    while True:
        await ask()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    if which == "poll":
        while True:
            asking = asyncio.ensure_future(ask())
            await asyncio.sleep(1)
    count = 25 if which == "streams" else 12
    await asyncio.gather(*[again_and_again() for _ in range(count)])

asyncio.run(main())
