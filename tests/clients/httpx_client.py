"""Beats with httpx, whose body comes in chunks, until standard input ends."""
import sys, threading, httpx

url, client, failed, posts = sys.argv[1], httpx.Client(timeout=5), 0, 0
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()


def body(uptime):
    yield b'{"mode":"IDLE",'
    yield f'"uptime_seconds":{uptime}}}'.encode()


while not done.wait(0.05):
    posts += 1
    try:
        answer = client.post(url + "/heartbeat/py-httpx", content=body(posts / 20))
        if answer.status_code != 200:
            raise RuntimeError(f"status {answer.status_code}: {answer.text}")
    except Exception as error:
        failed += 1
        print("failed:", error, file=sys.stderr)
print(posts, failed)
