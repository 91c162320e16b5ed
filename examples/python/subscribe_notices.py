"""Prompts and reminds the users of links that need repair, or whose consent ends: subscribe_notices.py [NATS_URL] [COUNT] [FILE]

One durable pull consumer on the stream KV_links. The server stores its position, so this program may be stopped and started
at any time, and several copies of it share the work. It ends after COUNT notices; without COUNT it does not end.

A new consumer starts at the oldest notice that the stream has, and a consumer that was stopped for a day starts at
yesterday's. So this program reads the state of each link before it prompts: a user whose links work again gets no message.
With the address of relink in RELINK_URL, and a token with the scope `read` in RELINK_API_TOKEN, it also asks relink
whether a newer message mentions the link, and whether its bank is down now: then the message waits.
"""

import asyncio
import json
import os
import sqlite3
import sys
import urllib.error
import urllib.request

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

# All messages to users. Each of them may have other links of the person that wait, and that get no prompt of their own.
TYPES = ["update_required", "reminder", "consent_expiring", "institution_restored"]
SUBJECTS = [f"link.notice.{type}.*" for type in TYPES]
DURABLE = "prompts-python"
# While a bank is down, a notice is delivered again after this time.
BANK_PAUSE_SECS = 600


async def main(url="nats://127.0.0.1:4222", count=None, file="messages.sqlite"):
    # The messages to your users. Your mailer sends those whose `links` are not empty.
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE IF NOT EXISTS messages (notice_id TEXT PRIMARY KEY, external_id TEXT, links TEXT)")
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    config = ConsumerConfig(
        durable_name=DURABLE, filter_subjects=SUBJECTS, ack_policy=AckPolicy.EXPLICIT, ack_wait=30,
        # However many notices wait for a bank, those of other banks are delivered.
        max_ack_pending=-1,
    )
    await jetstream.add_consumer("KV_links", config)
    notices = await jetstream.pull_subscribe_bind(DURABLE, stream="KV_links")

    handled, end = 0, float(count or "inf")
    while handled < end:
        try:
            messages = await notices.fetch(batch=int(min(10, end - handled)), timeout=5)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            notice_id, notice = message.headers["ce-id"], json.loads(message.data)
            state = await state_now(jetstream, notice["link_id"])
            if state is None or state["version"] < version_of(notice_id):
                # The state is older than the notice, so it cannot decide. The notice is delivered again in a second.
                await message.nak(delay=1)
                continue
            links = await links_to_ask_for(jetstream, notice)
            if any(link.pop("bank_is_down") for link in links):
                await message.nak(delay=BANK_PAUSE_SECS)
                continue
            # A notice arrives at least once, with a stable id: the same transaction remembers the id and stores the message.
            with database:
                row = (notice_id, notice["external_id"], json.dumps(links))
                is_new = database.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", row).rowcount
            if is_new and links:
                shown = {"id": notice_id, "type": notice["type"], "external_id": notice["external_id"], "links": links}
                print(json.dumps(shown), flush=True)
            elif is_new:
                print(f"no message for {notice_id}: what it was about is over, under repair, or in a later message", file=sys.stderr)
            handled += is_new
            # Acknowledge last: a notice without an acknowledgement is delivered again.
            await message.ack_sync()
    await connection.close()
    database.close()


async def links_to_ask_for(jetstream, notice):
    """The links of this person that need the person now: the link of the notice, and others that wait. The others get no
    prompt of their own, so check each link, also if the first one works again."""
    newer = newer_message(notice, await state_now(jetstream, notice["link_id"]))
    # Those are in the newer message.
    left_out = {link["link_id"] for link in [notice, *newer.get("mentioned", [])]} if newer else set()
    episode = notice.get("episode")
    first = {**notice, "episode": episode and episode["number"]}
    ending = [{**link, "action": "renew_consent"} for link in notice.get("also_ending", [])]
    links = []
    for link in [first, *notice.get("also_broken", []), *ending]:
        state = await state_now(jetstream, link["link_id"])
        is_newer = link["link_id"] in left_out or newer_message(notice, state)
        if is_newer or not still_needs_its_user(link, state):
            continue
        known = asked_of_relink(link)
        # A newer message about another link of the person mentions this link: then only that one is sent.
        if (known.get("last_mention") or {}).get("at", "") <= notice["because"]["at"]:
            shown = ("link_id", "institution", "action", "repair_url", "due_at")
            is_down = known.get("institution_down_since") is not None
            links.append({key: link[key] for key in shown if key in link} | {"bank_is_down": is_down})
    return links


def newer_message(notice, state):
    """The last message about a link, if it is newer than the notice, as after a pause of this program: then only that one is
    sent. Times have one form, so their texts can be compared."""
    messaged = (state or {}).get("messaged") or {}
    return messaged if messaged.get("at", "") > notice["because"]["at"] else {}


def asked_of_relink(link):
    """What relink knows of the link besides its state: whether a message about another link mentions it, and whether its bank
    is down."""
    if not (relink := os.environ.get("RELINK_URL")):
        return {}
    headers = {"Authorization": f"Bearer {os.environ.get('RELINK_API_TOKEN', '')}"}
    request = urllib.request.Request(f"{relink}/v1/links/{link['link_id']}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.URLError as error:
        # Nothing is lost: the notice has no acknowledgement.
        sys.exit(f"{relink} cannot be asked ({error}): check RELINK_URL, and RELINK_API_TOKEN, which needs the scope `read`")


def still_needs_its_user(link, state):
    """Whether this outage is still open, and the user is not repairing the link. An episode is one outage. The episodes of
    a link are numbered, so the number shows whether it is the outage that is open now. If the episode is superseded, the
    user has connected the bank anew. A link without an episode works, and its consent ends at `due_at`. An operator may
    have muted the link. An `institution_restored` may have nothing to do."""
    if state is None or state.get("muted") or state["state"] == "removed" or link.get("action") == "none":
        return False
    now, number = state.get("episode"), link.get("episode")
    if number is None:
        return not now and (state.get("consent") or {}).get("due_at") == link["due_at"]
    if not now or now.get("superseded_by"):
        return False
    return now["number"] == number and state["state"] != "updating"


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
