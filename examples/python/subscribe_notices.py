"""Prompts and reminds the users of links that need repair, or whose consent ends: subscribe_notices.py [NATS_URL] [COUNT] [FILE]

One durable pull consumer on the stream KV_links: NATS stores its position, so this program may be stopped at any time, and several copies
share the work. A new consumer starts at the oldest notice. So before each message it asks relink (RELINK_URL, and RELINK_API_TOKEN with
the scope `read`) whom the notice is still about. It ends after COUNT notices; without COUNT it does not end.
"""

import asyncio
import json
import os
import sqlite3
import sys
import urllib.request

import nats
from nats.js.api import AckPolicy, ConsumerConfig

# All messages to users. Each of them may have other links of the person that wait, and that get no prompt of their own.
SUBJECTS = [f"link.notice.{type}.*" for type in ("update_required", "reminder", "consent_expiring", "institution_restored")]
# However many notices wait for a bank, those of other banks are delivered: no limit to notices without an acknowledgement.
CONFIG = ConsumerConfig(durable_name="prompts-python", filter_subjects=SUBJECTS, ack_policy=AckPolicy.EXPLICIT, max_ack_pending=-1)


async def main(url="nats://127.0.0.1:4222", count="inf", file="messages.sqlite"):
    # The messages to your users. Your mailer sends those whose `links` are not empty.
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE IF NOT EXISTS messages (notice_id TEXT PRIMARY KEY, external_id TEXT, links TEXT)")
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    await jetstream.add_consumer("KV_links", CONFIG)
    notices = await jetstream.pull_subscribe_bind(CONFIG.durable_name, stream="KV_links")
    handled = 0
    while handled < float(count):
        try:
            [message] = await notices.fetch(batch=1, timeout=5)
        except nats.errors.TimeoutError:
            continue
        notice_id, notice = message.headers["ce-id"], json.loads(message.data)
        now = await asyncio.to_thread(whom_it_is_about, message.data)
        if "check_again_secs" in now:  # A bank is down: NATS delivers the notice again later.
            await message.nak(delay=now["check_again_secs"])
            continue
        # A notice arrives at least once, with a stable id: the same transaction remembers the id and stores the message.
        with database:
            row = (notice_id, notice["external_id"], json.dumps(now["links"]))
            is_new = database.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", row).rowcount
        if is_new and now["links"]:
            shown = {"id": notice_id, "type": notice["type"], "external_id": notice["external_id"], "links": now["links"]}
            print(json.dumps(shown), flush=True)
        elif is_new:
            print(f"no message for {notice_id}: {now['left_out']}", file=sys.stderr)
        handled += is_new
        await message.ack_sync()  # Last: a notice without an acknowledgement is delivered again.
    await connection.close()
    database.close()


def whom_it_is_about(notice):
    """The links to write about now, and the others with the reason. If relink cannot be asked, the program ends; nothing is lost."""
    url = f"{os.environ.get('RELINK_URL', 'http://127.0.0.1:8480')}/v1/notices/check"
    headers = {"Authorization": f"Bearer {os.environ.get('RELINK_API_TOKEN', '')}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, notice, headers), timeout=10) as answer:
        return json.load(answer)


asyncio.run(main(*sys.argv[1:]))
