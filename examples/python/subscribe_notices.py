"""Prompts the users of links that need repair: subscribe_notices.py [NATS_URL] [COUNT] [FILE]

One durable pull consumer on the stream KV_links. The server stores its position, so this program may be stopped and started
at any time, and several copies of it share the work. It ends after COUNT notices; without COUNT it does not end.

A new consumer starts at the oldest notice that the stream has, and a consumer that was stopped for a day starts at
yesterday's. So this program reads the state of each link before it prompts: a user whose links work again gets no message.
"""

import asyncio
import json
import sqlite3
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

SUBJECT = "link.notice.update_required.*"
DURABLE = "prompts-python"


async def main(url="nats://127.0.0.1:4222", count=None, file="messages.sqlite"):
    # The messages to your users. Your mailer sends those whose `links` are not empty.
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE IF NOT EXISTS messages (notice_id TEXT PRIMARY KEY, external_id TEXT, links TEXT)")
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
    notices = await jetstream.pull_subscribe(SUBJECT, durable=DURABLE, stream="KV_links", config=config)

    handled = 0
    while count is None or handled < int(count):
        try:
            messages = await notices.fetch(batch=10, timeout=5)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            notice_id, notice = message.headers["ce-id"], json.loads(message.data)
            state = await state_now(jetstream, notice["link_id"])
            if state is None or state["version"] < version_of(notice_id):
                # The state is older than the notice, so it cannot decide. The notice is delivered again in a second.
                await message.nak(delay=1)
                continue
            links = await links_to_repair(jetstream, notice)
            # A notice arrives at least once, with a stable id: the same transaction remembers the id and stores the message.
            with database:
                row = (notice_id, notice["external_id"], json.dumps(links))
                is_new = database.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", row).rowcount
            if is_new and links:
                print(json.dumps({"id": notice_id, "external_id": notice["external_id"], "links": links}), flush=True)
            elif is_new:
                print(f"no message for {notice_id}: the outage is over, or under repair", file=sys.stderr)
            handled += is_new
            # Acknowledge last: a notice without an acknowledgement is delivered again.
            await message.ack_sync()
    await connection.close()
    database.close()


async def links_to_repair(jetstream, notice):
    """The links of this person that need repair now: the link of the notice, and others that are broken too. The others
    get no notice of their own, so check each link, also if the first one works again."""
    first = {**notice, "episode": notice["episode"]["number"]}
    links = []
    for link in [first, *notice.get("also_broken", [])]:
        if still_needs_its_user(link["episode"], await state_now(jetstream, link["link_id"])):
            shown = ("link_id", "institution", "action", "repair_url")
            links.append({key: link[key] for key in shown if key in link})
    return links


def still_needs_its_user(episode, state):
    """Whether this outage is still open, and the user is not repairing the link. An episode is one outage. The episodes of
    a link are numbered, so the number shows whether it is the outage that is open now. If the episode is superseded, the
    user has connected the bank anew."""
    now = state and state.get("episode")
    if not now or now.get("superseded_by"):
        return False
    return now["number"] == episode and state["state"] != "updating"


def version_of(notice_id):
    """The version of the link that sent this notice; notice ids are <link>.<version>.<n>."""
    return int(notice_id.rsplit(".", 2)[1])


async def state_now(jetstream, link_id):
    """The state of a link at this moment: the last message on its subject."""
    try:
        return json.loads((await jetstream.get_last_msg("KV_links", f"$KV.links.{link_id}")).data)
    except NotFoundError:
        return None


asyncio.run(main(*sys.argv[1:]))
