"""Reports the errors that belvo-python gets to relink: report_sdk_errors.py BELVO_URL RELINK_URL TOKEN LINK_ID

Copy the function `report_errors`, and call it once after the login. An error of belvo-python has neither the method nor the
path of the request, and relink needs both. So the function is a hook of `requests`, the library that belvo-python uses.
It needs `pip install belvo-python`.

A report never delays and never breaks a call of your program: it is sent from a thread of its own. If relink is away, or too
slow for the errors, standard error has a line, and relink finds the link with its next sweep.
"""

import json
import sys
import threading

import requests
from belvo.client import Client


def report_errors(client, relink_url, token):
    """From now on, relink gets every error that Belvo answers to this client."""
    slots = threading.BoundedSemaphore(8)

    def send(report):
        try:
            headers = {"Authorization": f"Bearer {token}"}
            requests.post(f"{relink_url}/v1/api-errors", json=report, headers=headers, timeout=2).raise_for_status()
        except requests.RequestException as problem:
            print(f"relink did not get an error of Belvo: {type(problem).__name__}", file=sys.stderr)
        finally:
            slots.release()

    def link_of(sent):
        try:
            return json.loads(sent)["link"]
        except (KeyError, TypeError, ValueError):
            return None  # relink also looks into the path and the answer.

    def report(answer, **_options):
        if answer.status_code < 400:
            return
        request = answer.request
        body = {"http_status": answer.status_code, "method": request.method, "path": request.path_url, "body": answer.text}
        body["link_id"] = link_of(request.body)
        if slots.acquire(blocking=False):
            threading.Thread(target=send, args=(body,)).start()
        else:
            print("relink did not get an error of Belvo: too many reports wait", file=sys.stderr)

    client.session.session.hooks["response"].append(report)


def main(belvo_url, relink_url, token, link_id):
    client = Client("sandbox", "sandbox", belvo_url)
    report_errors(client, relink_url, token)
    # Your program, unchanged.
    print(json.dumps(client.Accounts.create(link_id)))


main(*sys.argv[1:])
