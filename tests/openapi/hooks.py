"""Hooks of schemathesis: what JSON Schema cannot say of our requests, and what a test must not do."""

import datetime
import itertools
import os

import schemathesis
from hypothesis import strategies

ZONES = ["Europe/Berlin", "UTC", "America/New_York", "Asia/Kolkata"]
# The station calls the URLs that it is given. Nobody listens on port 9 of this host.
NOBODY = "http://127.0.0.1:9/"
# A collector that asks for no key.
COLLECTOR = os.environ.get("OPENAPI_COLLECTOR", NOBODY)
ADDRESSES = itertools.count(1)


def moment():
    """This moment, in UTC as all our moments are."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


schemathesis.openapi.format("date-time", strategies.builds(moment))
schemathesis.openapi.format("iana-time-zone", strategies.sampled_from(ZONES))
schemathesis.openapi.format("uri", strategies.integers(0, 10**9).map(lambda number: f"{NOBODY}{number}"))


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


def whole(value):
    """5.0 is an integer for JSON Schema, and a fraction for those who read JSON into integers."""
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [whole(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def is_called(url):
    return isinstance(url, str) and url.lower().startswith(("http://", "https://"))


@schemathesis.hook
def before_call(context, case, kwargs):
    # Five wrong keys within a minute lock an address out. Each case comes from its own, as a proxy says it.
    number = next(ADDRESSES)
    case.headers["X-Forwarded-For"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    # A stream would take the connection away from the client's pool, which does not notice. So none is
    # opened: another version of the protocol is asked for. tests/e2e/observe.rs opens streams.
    if case.headers.get("Sec-WebSocket-Version") == "13":
        case.headers["Sec-WebSocket-Version"] = "12"
    if not isinstance(case.body, dict):
        return
    body, path = dict(case.body), case.path_parameters or {}
    if is_called(body.get("url")) and not body["url"].startswith(NOBODY):
        body["url"] = f"{NOBODY}{body['url'].encode('utf-8', 'replace').hex()[-200:]}"
    if is_called(body.get("collector_url")):
        body["collector_url"] = COLLECTOR
    # Those who check a case by its schema do not know which zones there are.
    hours = body.get("quiet_hours")
    if isinstance(hours, dict) and isinstance(hours.get("timezone"), str) and hours["timezone"] not in ZONES:
        body["quiet_hours"] = {**hours, "timezone": ZONES[0]}
    if is_positive(case):
        body = whole(body)
        # The id in a body is the one in the path.
        for name in ("client_id", "cluster_id"):
            if name in body and "clusterId" in path:
                body[name] = path["clusterId"]
        # A collector may not set this key, and an admin only with a URL.
        if "clusterId" in path or not is_called(body.get("collector_url")):
            body.pop("collector_key", None)
        # A heartbeat is of now. This one may have been made before others were sent.
        if isinstance(body.get("timestamp"), str):
            body["timestamp"] = moment()
        elif isinstance(body.get("timestamp"), int):
            body["timestamp"] = int(datetime.datetime.now().timestamp() * 1000)
    case.body = body


@schemathesis.hook
def filter_case(context, case):
    """Texts have a length in bytes, and a schema counts characters."""
    body = case.body if isinstance(case.body, dict) else {}
    secret = body.get("secret")
    if isinstance(secret, str) and not secret.isascii():
        return False
    if not is_positive(case):
        return True
    texts = [((case.path_parameters or {}).get("agentId"), 128), ((case.query or {}).get("after"), 128)]
    texts += [(body.get(name), 128) for name in ("agent_name", "agent_uuid")]
    texts.append((body.get("event_id"), 256))
    return all(len(text.encode("utf-8", "replace")) <= most for text, most in texts if isinstance(text, str))
