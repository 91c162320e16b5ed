"""Reports the errors that belvo-python gets to relink: report_sdk_errors.py BELVO_URL RELINK_URL TOKEN LINK_ID

Copy the function `report_errors`, and call it once after the login. An error of belvo-python has neither the method nor the
path of the request, and relink needs both. So the function is a hook of `requests`, the library that belvo-python uses.
It needs `pip install belvo-python`.
"""

import json
import sys

import requests
from belvo.client import Client


def report_errors(client, relink_url, token):
    """From now on, relink gets every error that Belvo answers to this client."""

    def report(answer, **_options):
        if answer.status_code < 400:
            return
        request = answer.request
        sent = json.loads(request.body or "{}")
        body = {"http_status": answer.status_code, "method": request.method, "path": request.path_url, "body": answer.text}
        body["link_id"] = sent.get("link")
        try:
            headers = {"Authorization": f"Bearer {token}"}
            requests.post(f"{relink_url}/v1/api-errors", json=body, headers=headers, timeout=2)
        except requests.RequestException as problem:
            print(f"relink did not get an error of Belvo: {type(problem).__name__}", file=sys.stderr)

    client.session.session.hooks["response"].append(report)


def main(belvo_url, relink_url, token, link_id):
    client = Client("sandbox", "sandbox", belvo_url)
    report_errors(client, relink_url, token)
    # Your program, unchanged.
    print(json.dumps(client.Accounts.create(link_id)))


main(*sys.argv[1:])
