"""Reads the bucket `links` with the key-value client, and prints what it has read: key_value.py <address> <key>."""

import asyncio
import json
import sys

import nats


async def main(address: str, key: str) -> None:
    connection = await nats.connect(address)
    bucket = await connection.jetstream().key_value("links")
    got = await bucket.get(key)
    history = [entry.value.decode() for entry in await bucket.history(key)]
    keys = sorted(await bucket.keys())
    watched = {}
    watcher = await bucket.watchall()
    async for entry in watcher:
        # `None` follows the last value that the bucket has now.
        if entry is None:
            break
        watched[entry.key] = entry.value.decode()
    await watcher.stop()
    try:
        await bucket.purge(key)
        purged = True
    except Exception:  # the client has no type for this refusal
        purged = False
    print(json.dumps({"get": got.value.decode(), "history": history, "keys": keys, "watch": watched, "purged": purged}))
    await connection.close()


asyncio.run(main(sys.argv[1], sys.argv[2]))
