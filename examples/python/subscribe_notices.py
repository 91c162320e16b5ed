"""Prompts the user of a link that needs repair: subscribe_notices.py [NATS_URL] [COUNT]

One durable pull consumer on the stream LINKS. It remembers where it was, so this program may be stopped and started
at any time, and several copies of it share the work. Ends after COUNT notices; without it, never.
"""

import asyncio
import json
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import KeyNotFoundError

SUBJECT = "link.notice.update_required.*"
DURABLE = "prompts-python"


async def main(url="nats://127.0.0.1:4222", count=None):
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    links = await jetstream.key_value("links")
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
    notices = await jetstream.pull_subscribe(SUBJECT, durable=DURABLE, stream="LINKS", config=config)

    # Each notice arrives at least once, with a stable id. Keep the ids where you keep what you did about them, in the
    # same transaction; a set in memory only shows the idea.
    seen = set()
    while count is None or len(seen) < int(count):
        try:
            messages = await notices.fetch(batch=10, timeout=5)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            notice_id = message.headers["ce-id"]
            if notice_id not in seen:
                notice = json.loads(message.data)
                await prompt(notice_id, notice, await state_now(links, notice["link_id"]))
                seen.add(notice_id)
            # Only now: what is not acknowledged comes again.
            await message.ack_sync()
    await connection.close()


async def prompt(notice_id, notice, state):
    """Your part: an e-mail, a push message, a banner. `action` says what the user has to do."""
    shown = {key: notice[key] for key in ("type", "link_id", "external_id", "institution", "action")}
    print(json.dumps({"id": notice_id, **shown, "state_now": state}), flush=True)


async def state_now(links, link_id):
    """The state of a link at this moment; the bucket may be a moment behind, and then does not know a new link."""
    try:
        return json.loads((await links.get(link_id)).value)["state"]
    except KeyNotFoundError:
        return None


asyncio.run(main(*sys.argv[1:]))
