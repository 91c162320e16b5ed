"""Reports an error of Belvo's API to relink: report_api_error.py LINK_ID [NATS_URL]

Report every error: relink decides which errors concern the link. The schema of the body is
schemas/belvo.api_error.v1.schema.json.
"""

import asyncio
import json
import sys

import nats


async def report(jetstream, link_id, method, path, http_status, body):
    """Stores the report. Returns once it is on the server's disk; raises if it is not: then report it again."""
    report = {"http_status": http_status, "method": method, "path": path, "link_id": link_id, "body": body}
    ack = await jetstream.publish(f"belvo.api_error.{link_id}", json.dumps(report).encode())
    return ack.seq


async def main(link_id, url="nats://127.0.0.1:4222"):
    connection = await nats.connect(url)
    # The response to POST /api/transactions/. Leave the body unchanged: an array of errors.
    body = [
        {
            "code": "token_required",
            "message": "A MFA token is required by the institution to login",
            "request_id": "8c7b283c6efa449c9c028a16b5c249fa",
            "link": link_id,
        }
    ]
    sequence = await report(connection.jetstream(), link_id, "POST", "/api/transactions/", 428, body)
    print(f"stored as message {sequence}")
    await connection.close()


asyncio.run(main(*sys.argv[1:]))
