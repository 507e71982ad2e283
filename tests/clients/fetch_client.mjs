// Beats with Node's fetch and with an http.Agent that keeps connections, until
// standard input ends.
import http from "node:http";

const url = process.argv[2];
const agent = new http.Agent({ keepAlive: true });
let posts = 0, failed = 0, done = false;
process.stdin.on("end", () => (done = true)).resume();

function byAgent(body) {
  return new Promise((resolve, reject) => {
    const request = http.request(`${url}/heartbeat/node-agent`, { method: "POST", agent, timeout: 5000 }, (answer) => {
      answer.resume().on("end", () => resolve(answer.statusCode));
    });
    request.on("error", reject).end(body);
  });
}

while (!done) {
  const body = JSON.stringify({ mode: "IDLE", uptime_seconds: posts / 20 });
  for (const beat of [
    () => fetch(`${url}/heartbeat/node-fetch`, { method: "POST", body, headers: { "content-type": "application/json" } }).then(async (answer) => (await answer.text(), answer.status)),
    () => byAgent(body),
  ]) {
    posts += 1;
    try {
      const status = await beat();
      if (status !== 200) throw new Error(`status ${status}`);
    } catch (error) {
      failed += 1;
      console.error("failed:", error, error.cause ?? "");
    }
  }
  await new Promise((resolve) => setTimeout(resolve, 50));
}
console.log(posts, failed);
process.exit(0);
