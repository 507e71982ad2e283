#!/usr/bin/env python3
"""The streams, with a client that shares nothing with the collector.

Usage: observe.py PORT, of a collector without a key that no agent uses.
"""

import asyncio
import json
import sys
import urllib.request

import websockets

PORT = int(sys.argv[1])


def request(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


async def ask(*arguments):
    return await asyncio.to_thread(request, *arguments)


async def following(stream, kind):
    """The next message of this type."""
    async with asyncio.timeout(30):
        while True:
            message = json.loads(await stream.recv())
            if message["type"] == kind:
                return message


async def main():
    url = f"ws://127.0.0.1:{PORT}/observe"
    async with (
        websockets.connect(f"{url}/py%2Fagent", subprotocols=["pap.observe"]) as one,
        websockets.connect(url, compression="deflate") as everyone,
    ):
        assert one.subprotocol == "pap.observe"
        assert (await following(one, "initial"))["agent"] == {"agent_uuid": "py/agent", "status": "unknown"}
        assert "stats" in await following(everyone, "initial")
        beat = {"mode": "EMERGENCY", "uptime_seconds": 1.5, "agent_name": "\u00e9\u4e16"}
        assert (await ask("POST", "/heartbeat/py%2Fagent", beat))["is_new"]
        assert (await following(one, "heartbeat"))["agent"]["agent_name"] == beat["agent_name"]
        assert (await following(everyone, "alert"))["alert"]["type"] == "EMERGENCY_MODE"
        # A message in fragments, a ping, and a ping of the protocol.
        await one.send(["{\"type\":", "\"ping\"}"])
        assert (await following(one, "pong"))["timestamp"].endswith("Z")
        async with asyncio.timeout(10):
            await (await one.ping(b"there?"))
        for status in ("suspect", "dead"):
            assert (await following(everyone, "status"))["agent"]["status"] == status
            assert (await following(one, "status"))["agent"]["status"] == status
        assert (await following(everyone, "alert"))["alert"]["type"] == "AGENT_DEATH"
        await ask("DELETE", "/agents/py%2Fagent")
        await one.send(b"binary")
        try:
            await one.recv()
            raise AssertionError("binary was taken")
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd.code == 1003, closed
    print("the streams are as they should be")


asyncio.run(main())
