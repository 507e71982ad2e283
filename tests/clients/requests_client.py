"""Beats with Python's requests until standard input ends; one line for each failed post."""
import sys, threading, requests

url, session, failed, posts = sys.argv[1], requests.Session(), 0, 0
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
while not done.wait(0.05):
    posts += 1
    try:
        answer = session.post(url + "/heartbeat/py-requests", json={"mode": "IDLE", "uptime_seconds": posts / 20}, timeout=5)
        if answer.status_code != 200:
            raise RuntimeError(f"status {answer.status_code}: {answer.text}")
    except Exception as error:
        failed += 1
        print("failed:", error, file=sys.stderr)
print(posts, failed)
