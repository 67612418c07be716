"""Answers each line after a second, so that a client which sends two has one unread for a second:
slow_server.py PORT."""
import asyncio
import sys


async def serve(reader, writer):
    while await reader.readline():
        await asyncio.sleep(1)
        writer.write(b"answer\n")
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()

asyncio.run(main())
