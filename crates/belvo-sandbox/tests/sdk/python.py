"""Drives PyPI belvo-python, unchanged, against a sandbox: python.py URL [SANDBOX].

SANDBOX is the address of the sandbox itself, if URL is that of a proxy in front of it.

Any difference from Belvo is a failed assertion.
"""

import sys

import requests
from belvo import __version__
from belvo.client import Client
from belvo.enums import AccessMode
from belvo.exceptions import BelvoAPIException, RequestError

URL = sys.argv[1]
SANDBOX = sys.argv[-1]
UPDATE_SCOPES = "read_institutions,write_links,read_links"
MISSING = "00000000-0000-4000-8000-000000000000"

# Every error class: code, HTTP status.
ERRORS = [
    ("login_error", 400),
    ("invalid_link", 400),
    ("unconfirmed_link", 400),
    ("session_expired", 400),
    ("institution_down", 400),
    ("institution_unavailable", 400),
    ("institution_inactive", 400),
    ("too_many_sessions", 400),
    ("operational_limits_reached", 400),
    ("unsupported_operation", 400),
    ("authentication_failed", 401),
    ("consent_without_accounts", 401),
    ("access_to_resource_denied", 403),
    ("not_found", 404),
    ("expired_credentials", 404),
    ("request_timeout", 408),
    ("unexpected_error", 500),
]


def control(path, body=None):
    """A call of the control API, which Belvo does not have."""
    answer = requests.post(f"{SANDBOX}/sandbox/{path}", json=body or {}, timeout=10)
    answer.raise_for_status()
    return answer.json()


def refused(status, code, call):
    """The call raises the SDK's error, with this status and code in Belvo's envelope."""
    try:
        answer = call()
    except RequestError as error:
        assert error.status_code == status, (error.status_code, error.detail)
        assert isinstance(error.detail, list), error.detail
        first = error.detail[0]
        assert first["code"] == code, first
        assert len(first["request_id"]) == 32 and first["message"], first
        return first
    raise AssertionError(f"{code} was expected, not {answer}")


def main():
    assert __version__ == "0.39.1", __version__
    try:
        Client("sandbox", "not the password", URL)
        raise AssertionError("a wrong password logged in")
    except BelvoAPIException as error:
        assert str(error) == "Login failed."
    client = Client("sandbox", "sandbox", URL)

    # All pages, by the absolute next links.
    links = list(client.Links.list())
    assert len(links) == 130 and len({link["id"] for link in links}) == 130, len(links)
    assert len(list(client.Links.list(status__in="invalid,token_required"))) == 30
    assert len(list(client.Links.list(page_size=7, status="valid"))) == 100
    assert list(client.Links.list(status="unconfirmed")) == []
    assert len(list(client.Institutions.list())) == 6
    for link in links[:1]:
        assert client.Links.get(link["id"]) == link
    try:
        client.Links.get(MISSING)
        raise AssertionError("a link that does not exist was found")
    except requests.HTTPError as error:
        assert error.response.status_code == 404
        assert error.response.json()[0]["code"] == "not_found"

    # Create, 428, resume.
    def create(institution, **options):
        return client.Links.create(
            institution, "user", options.pop("password", "pass"), raise_exception=True, **options
        )

    first = refused(428, "token_required", lambda: create("heimdall_mx_retail", access_mode=AccessMode.RECURRENT))
    assert first["expiry"] > 0 and first["token_generation_data"]["type"] == "numeric"
    assert client.Links.get(first["link"])["status"] == "unconfirmed"
    link = client.Links.resume(first["session"], "1234ab", link=first["link"], raise_exception=True)
    assert (link["id"], link["status"], link["access_mode"]) == (first["link"], "valid", "recurrent"), link
    heimdall = link["id"]
    first = refused(428, "token_required", lambda: client.Accounts.create(heimdall, raise_exception=True))
    assert client.Links.get(heimdall)["status"] == "token_required"
    accounts = client.Accounts.resume(first["session"], "1234ab", link=heimdall, raise_exception=True)
    assert len(accounts) == 2 and accounts[0]["link"] == heimdall
    assert client.Links.get(heimdall)["status"] == "valid"

    # A wrong password, a field that is missing, an institution that is not there.
    refused(400, "login_error", lambda: create("erebor_mx_retail", password="wrong"))
    refused(400, "does_not_exist", lambda: create("narnia"))
    assert client.Links.create("narnia", "user", "pass")[0]["field"] == "institution"
    link = create("erebor_mx_retail", external_id="python")
    assert (link["status"], link["external_id"], link["access_mode"]) == ("valid", "python", "single")

    # The link breaks; a new password repairs it.
    control(f"links/{link['id']}/status", {"status": "invalid"})
    refused(400, "invalid_link", lambda: client.Accounts.create(link["id"], raise_exception=True))
    refused(400, "login_error", lambda: client.Links.update(link["id"], password="wrong", raise_exception=True))
    assert client.Links.get(link["id"])["status"] == "invalid"
    assert client.Links.update(link["id"], password="right", raise_exception=True)["status"] == "valid"
    assert len(client.Owners.create(link["id"], raise_exception=True)) == 1
    assert len(client.Transactions.create(link["id"], "2024-01-01", raise_exception=True)) == 24
    assert len(list(client.Transactions.list(link=link["id"], page_size=5))) == 24
    patched = client.Links.patch(link["id"], access_mode=AccessMode.RECURRENT, raise_exception=True)
    assert (patched["access_mode"], patched["refresh_rate"]) == ("recurrent", "7d"), patched

    # Tokens, in update mode and without.
    assert client.WidgetToken.create(raise_exception=True)["access"].count(".") == 2
    token = client.WidgetToken.create(scopes=UPDATE_SCOPES, link=link["id"], raise_exception=True)
    control(f"links/{link['id']}/status", {"status": "token_required"})
    done = requests.post(
        f"{SANDBOX}/widget/complete", json={"access_token": token["access"], "outcome": "success"}, timeout=10
    ).json()
    assert done == {"link": link["id"], "institution": "erebor_mx_retail"}, done
    assert client.Links.get(link["id"])["status"] == "valid"
    refused(400, "does_not_exist", lambda: client.WidgetToken.create(link=MISSING, raise_exception=True))

    # Every error class, as an exception and, by default, as data.
    for code, status in ERRORS:
        control("faults/api", {"kind": code, "count": 2, "on": "POST /api/owners/"})
        refused(status, code, lambda: client.Owners.create(link["id"], raise_exception=True))
        assert client.Owners.create(link["id"])[0]["code"] == code
    control("faults/api", {"kind": "rate_limited", "secs": 1, "on": "POST /api/owners/"})
    refused(429, "throttled", lambda: client.Owners.create(link["id"], raise_exception=True))

    # A deletion, and the errors after it. The SDK answers False to any error.
    assert client.Links.delete(link["id"]) is True
    assert client.Links.delete(link["id"]) is False
    refused(404, "not_found", lambda: client.Links.update(link["id"], password="right", raise_exception=True))
    for spare in links[:4]:
        assert client.Links.delete(spare["id"]) is True
    assert client.Links.delete(links[4]["id"]) is False, "five deletions a minute"
    assert len(list(client.Links.list())) == 127


main()
