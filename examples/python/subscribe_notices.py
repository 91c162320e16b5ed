"""Prompts the user of a link that needs repair: subscribe_notices.py [NATS_URL] [COUNT]

One durable pull consumer on the stream KV_links. The server stores its position, so this program may be stopped and started
at any time, and several copies of it share the work. It ends after COUNT notices; without COUNT it does not end.

A new consumer starts at the oldest notice that the stream has, and a consumer that was stopped for a day starts at
yesterday's. So this program reads the state of each link before it prompts: a user whose link works again gets no message.
"""

import asyncio
import json
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

SUBJECT = "link.notice.update_required.*"
DURABLE = "prompts-python"


async def main(url="nats://127.0.0.1:4222", count=None):
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
    notices = await jetstream.pull_subscribe(SUBJECT, durable=DURABLE, stream="KV_links", config=config)

    # Each notice arrives at least once, with a stable id. Store the ids together with your reaction to the notices, in the
    # same transaction; the set in memory is only an illustration.
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
                state = await state_now(jetstream, notice["link_id"])
                if state is None or state["version"] < version_of(notice_id):
                    # The state is older than the notice, so it cannot decide. The notice is delivered again in a second.
                    await message.nak(delay=1)
                    continue
                if still_needs_its_user(notice, state):
                    await prompt(notice_id, notice, state)
                else:
                    print(f"no prompt for {notice_id}: that outage is over, or under repair", file=sys.stderr)
                seen.add(notice_id)
            # Acknowledge last: a notice without an acknowledgement is delivered again.
            await message.ack_sync()
    await connection.close()


def still_needs_its_user(notice, state):
    """Whether the outage of this notice is still open, and its user is not repairing the link. An episode is one outage.
    The episodes of a link are numbered, so the number shows whether the notice is about the open episode. If the episode
    is superseded, the user has connected the bank anew."""
    episode = state and state.get("episode")
    if not episode or episode.get("superseded_by"):
        return False
    return episode["number"] == notice["episode"]["number"] and state["state"] != "updating"


def version_of(notice_id):
    """The version of the link that sent this notice; notice ids are <link>.<version>.<n>."""
    return int(notice_id.rsplit(".", 2)[1])


async def state_now(jetstream, link_id):
    """The state of a link at this moment: the last message on its subject."""
    try:
        return json.loads((await jetstream.get_last_msg("KV_links", f"$KV.links.{link_id}")).data)
    except NotFoundError:
        return None


async def prompt(notice_id, notice, state):
    """Your part: an e-mail, a push message, a banner. `action` is the required action of the user."""
    shown = {key: notice[key] for key in ("type", "link_id", "external_id", "institution", "action")}
    print(json.dumps({"id": notice_id, **shown, "state_now": state["state"]}), flush=True)


asyncio.run(main(*sys.argv[1:]))
