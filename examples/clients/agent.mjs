// Heartbeats of a PAP agent in JavaScript, for Node.js 18 or newer, without a package.
const INTERVAL = { EMERGENCY: 5000, IDLE: 30000, SLEEP: 900000 }; // milliseconds

export class Heartbeats {
  #timer; #due; #isFirst = true; #isBusy = false; #isAgain = false; #isStopped = false;

  constructor(id, name, mode = "IDLE", env = process.env) {
    const agent = encodeURIComponent(id);
    if (env.PAP_COLLECTOR_URL) this.collector = [`${env.PAP_COLLECTOR_URL}/heartbeat/${agent}`, env.PAP_COLLECTOR_KEY];
    if (env.PAP_STATION_URL) this.station = [`${env.PAP_STATION_URL}/api/agents/${agent}/heartbeat`, env.PAP_AGENT_KEY];
    Object.assign(this, { name, mode, started: performance.now() });
    // Many that start together do not beat together: the first two beats are at random moments.
    this.#due = performance.now() + Math.random() * Math.min(INTERVAL[mode] / 10, 3000);
    this.#plan();
  }

  setMode(mode) { // a change of the mode is told at once
    this.mode = mode;
    if (this.#isBusy) this.#isAgain = true;
    else { clearTimeout(this.#timer); this.#due = performance.now(); this.#turn(); }
  }

  async stop() { // a goodbye, so that a planned stop is no death
    this.#isStopped = true;
    clearTimeout(this.#timer);
    if (this.collector) await this.#call(this.collector, "DELETE", 2000);
  }

  #plan() { this.#timer = setTimeout(() => this.#turn(), Math.max(0, this.#due - performance.now())); }

  async #turn() {
    this.#isBusy = true;
    const isTaken = await this.#beat();
    this.#isBusy = false;
    const interval = INTERVAL[this.mode];
    const step = this.#isFirst ? interval * Math.random() : isTaken ? interval : interval / 4;
    this.#isFirst = false;
    // After a pause one beat, not all that were missed.
    this.#due = this.#isAgain ? performance.now() : Math.max(this.#due + step, performance.now());
    this.#isAgain = false;
    if (!this.#isStopped) this.#plan();
  }

  async #beat() { // the collector, once more, then the station; together at most 5 s
    for (const [target, timeout] of [[this.collector, 2000], [this.collector, 1000], [this.station, 2000]]) {
      if (target && !this.#isStopped && (await this.#call(target, "POST", timeout))) return true;
    }
    return false;
  }

  async #call([url, key], method, timeout) {
    const uptime = (performance.now() - this.started) / 1000;
    const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
    const body = method === "POST" ? JSON.stringify({ mode: this.mode, uptime_seconds: uptime, agent_name: this.name }) : undefined;
    try {
      const answer = await fetch(url, { method, headers, body, signal: AbortSignal.timeout(timeout) });
      await answer.arrayBuffer();
      return answer.ok;
    } catch {
      return false;
    }
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const heartbeats = new Heartbeats(process.env.PAP_AGENT_ID, "an agent in JavaScript", process.env.HEARTBEAT_MODE);
  process.on("SIGUSR1", () => heartbeats.setMode("EMERGENCY"));
  const stop = async () => { await heartbeats.stop(); process.exit(0); };
  process.on("SIGTERM", stop).on("SIGINT", stop);
}
