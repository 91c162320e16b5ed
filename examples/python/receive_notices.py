"""Receives relink's notices over HTTP, without NATS: receive_notices.py PORT SECRET [COUNT]

The official library of Standard Webhooks verifies each request. It needs `pip install standardwebhooks`. The secret is one of
RELINK_NOTICES_SECRETS. The program prints each notice, and ends after COUNT of them.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

port, secret, *rest = sys.argv[1:]
count = int(rest[0]) if rest else None
seen = set()  # Your database: relink sends a notice again if it got no answer.


class Receiver(BaseHTTPRequestHandler):
    timeout = 5  # seconds: a connection that sends nothing must not hold up the others for longer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            notice = Webhook(secret).verify(body, dict(self.headers))
        except WebhookVerificationError:
            return self.answer(401)
        if self.headers["webhook-id"] not in seen:
            # Store the notice before you answer 2xx: relink does not send it again after that.
            seen.add(self.headers["webhook-id"])
            print(json.dumps({"id": self.headers["webhook-id"], "type": notice["type"], "link": notice.get("link_id")}), flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_line):
        pass


server = HTTPServer(("127.0.0.1", int(port)), Receiver)
while count is None or len(seen) < count:
    server.handle_request()
