"""Heartbeats of a PAP agent in Python, with the standard library alone."""
import json, os, random, signal, threading, time, urllib.parse, urllib.request

INTERVAL = {"EMERGENCY": 5, "IDLE": 30, "SLEEP": 900}  # seconds


class Heartbeats(threading.Thread):
    def __init__(self, agent_id, name, mode="IDLE"):
        super().__init__(daemon=True)
        agent = urllib.parse.quote(agent_id, safe="")
        collector, station = os.environ.get("PAP_COLLECTOR_URL"), os.environ.get("PAP_STATION_URL")
        self.collector = collector and (f"{collector}/heartbeat/{agent}", os.environ.get("PAP_COLLECTOR_KEY"))
        self.station = station and (f"{station}/api/agents/{agent}/heartbeat", os.environ.get("PAP_AGENT_KEY"))
        self.name_for_people, self.mode = name, mode
        self.started, self.wake, self.is_stopping = time.monotonic(), threading.Event(), False

    def set_mode(self, mode):  # a change of the mode is told at once
        self.mode = mode
        self.wake.set()

    def stop(self):  # a goodbye, so that a planned stop is no death
        self.is_stopping = True
        self.wake.set()
        self.join(10)

    def call(self, target, method, timeout):
        url, key = target
        body = {"mode": self.mode, "uptime_seconds": time.monotonic() - self.started, "agent_name": self.name_for_people}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = json.dumps(body).encode() if method == "POST" else None
        try:
            urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=timeout).close()
            return True
        except (OSError, ValueError):
            return False

    def beat(self):  # the collector, once more, then the station; together at most 5 s
        tries = [(self.collector, 2), (self.collector, 1), (self.station, 2)]
        return any(target and self.call(target, "POST", timeout) for target, timeout in tries)

    def run(self):
        # Many that start together do not beat together: the first two beats are at random moments.
        due = time.monotonic() + random.uniform(0, min(INTERVAL[self.mode] / 10, 3))
        is_first = True
        while not self.is_stopping:
            if self.wake.wait(max(0, due - time.monotonic())):
                self.wake.clear()
                due = time.monotonic()
                if self.is_stopping:
                    break
            is_taken, interval = self.beat(), INTERVAL[self.mode]
            step = interval * random.random() if is_first else interval if is_taken else interval / 4
            is_first = False
            due = max(due + step, time.monotonic())  # after a pause one beat, not all that were missed
        if self.collector:
            self.call(self.collector, "DELETE", 2)


if __name__ == "__main__":
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    heartbeats = Heartbeats(os.environ["PAP_AGENT_ID"], "an agent in Python", os.environ.get("HEARTBEAT_MODE", "IDLE"))
    signal.signal(signal.SIGUSR1, lambda *_: heartbeats.set_mode("EMERGENCY"))
    heartbeats.start()
    stopped.wait()  # here the agent works
    heartbeats.stop()
