"use strict";
// The page of pap-station. It asks the API, draws what it was told, and says how old
// that is. It keeps nothing but the settings of this browser.

const $ = id => document.getElementById(id);
const SECOND = 1000, ROWS_MAX = 200, FETCH_MAX = 500, TIMEOUT = 20 * SECOND;
// Also under a path of a proxy the page is the root.
const HERE = location.origin + location.pathname.replace(/\/*$/, "/");
const encode = encodeURIComponent;

// Nodes. Text of others goes only through textContent, so it can never become markup.
const put = (node, text) => { if (node.was !== text) node.textContent = node.was = text; };
function make(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  node.append(...children.flat().filter(child => child !== null && child !== ""));
  return node;
}
const text = (words, cls = "") => make("span", `text ${cls}`, String(words));
const line = (words, cls = "") => words ? make("span", `line text ${cls}`, words) : "";
function button(label, name, about, act) {
  const node = make("button", "plain", label);
  node.dataset.do = name;
  if (about) node.ariaLabel = `${label}: ${about}`;
  node.onclick = act;
  return node;
}

// A disabled button would lose the focus, so one that waits only looks like that.
function rest(node) {
  node.ariaDisabled = "true";
  node.onclick = null;
}

// Words
const count = n => n.toLocaleString("en");
const sentence = words => /[.!?]$/.test(words) ? words : `${words}.`;
const many = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;
const STATES = {
  healthy: ["●", "Healthy", "good"], suspect: ["▲", "Suspect", "warn"], dead: ["✕", "Dead", "bad"], unhealthy: ["✕", "Unhealthy", "bad"],
  active: ["●", "Active", "good"], stale: ["▲", "Stale", "warn"], unknown: ["?", "Unknown", "soft"],
  online: ["●", "Online", "good"], offline: ["✕", "Offline", "bad"], off: ["–", "Off", "soft"],
  critical: ["✕", "Critical", "bad"], warning: ["▲", "Warning", "warn"], info: ["●", "Info", ""], emergency: ["!", "Emergency", "emergency"],
  owed: ["▲", "Owed", "warn"], delivered: ["●", "Delivered", "good"], refused: ["✕", "Refused", "bad"], given_up: ["✕", "Given up", "bad"],
  failing: ["▲", "Failing", "warn"], working: ["●", "Working", "good"],
  running: ["●", "Running", "good"], interrupted: ["▲", "Interrupted", "warn"], created: ["▲", "Not started", "warn"], stopped: ["✕", "Stopped", "bad"],
  unclear: ["?", "Unclear", "soft"], missing: ["✕", "Missing", "bad"],
};
const known = state => STATES[state] || ["?", String(state), "soft"];
function badge(state) {
  const [sign, words, tone] = known(state), mark = make("span", "mark", sign);
  mark.ariaHidden = "true";
  return make("span", `is ${tone}`, mark, words);
}
const rank = (state, order) => (order.indexOf(state) + order.length + 1) % (order.length + 1);
function mode(name) {
  return name === "EMERGENCY" ? make("span", "is emergency", "! EMERGENCY") : make("span", "mode", name || "–");
}

// Settings of this browser
const own = { theme: "auto", times: "local", unacknowledged: false };
try { Object.assign(own, JSON.parse(localStorage.getItem("pap-station"))); } catch { /* There are none, or none may be kept. */ }
function applySettings() {
  document.documentElement.dataset.theme = own.theme;
  const zone = own.times === "utc" ? "UTC" : undefined;
  const day = { day: "2-digit", month: "2-digit", year: "numeric" }, hour = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  formats.day = new Intl.DateTimeFormat("en-GB", { ...day, timeZone: zone });
  formats.hour = new Intl.DateTimeFormat("en-GB", { ...hour, timeZone: zone });
  put($("zone"), `Times: ${formats.hour.resolvedOptions().timeZone}${zone ? "" : ", as this browser has it"}.`);
  for (const name of ["theme", "times"]) $("settings-form").elements[name].value = own[name];
  $("settings-form").elements.unacknowledged.checked = own.unacknowledged;
  $("t-unacknowledged").ariaPressed = String(own.unacknowledged);
}
function changeSetting(name, value) {
  own[name] = value;
  try { localStorage.setItem("pap-station", JSON.stringify(own)); } catch { /* Then it is kept until the page is closed. */ }
  applySettings();
  for (const part of Object.values(parts)) draw(part);
  drawState();
}

// Times
const formats = {};
let skew = 0;  // what the station's clock is ahead of this browser's, in milliseconds
// A laptop that slept stops one of the two clocks, and somebody may set the other one back.
const mark = () => ({ wall: Date.now(), mono: performance.now() });
const since = at => Math.max(Date.now() - at.wall, performance.now() - at.mono);
const whole = when => `${formats.day.format(when)} ${formats.hour.format(when)}`;
const clock = when => formats.day.format(when) === formats.day.format(Date.now()) ? formats.hour.format(when) : whole(when);
function noteClock(reply, asked) {
  const said = Date.parse(reply.headers.get("Date")), middle = (asked + Date.now()) / 2;
  // The header has whole seconds, and a slow answer says little.
  if (said && Date.now() - asked < 3 * SECOND && Math.abs(said + 500 - middle - skew) > 1500) {
    const ahead = said + 500 - middle;
    skew = Math.abs(ahead) > 1500 ? ahead : 0;
  }
}
// A time in its two largest units, or in one below an hour; kept on one line.
function span(ms) {
  const s = Math.max(0, Math.floor(ms / SECOND)), m = Math.floor(s / 60), h = Math.floor(m / 60);
  const both = (a, unit, b, less) => `${a} ${unit}${b ? ` ${b} ${less}` : ""}`.replaceAll(" ", "\xa0");
  return m < 1 ? both(s, "s") : h < 1 ? both(m, "min") : h < 24 ? both(h, "h", m % 60, "min") : both(Math.floor(h / 24), "d", h % 24, "h");
}
function moment(iso) {
  const at = Date.parse(iso);
  if (!at) return text("never", "soft");
  const node = make("time", "", clock(at));
  node.dateTime = iso;
  node.title = whole(at);
  return node;
}
// An age, which grows every second.
function age(iso, after = " ago") {
  const node = moment(iso);
  if (!node.dateTime) return node;
  node.classList.add("age");
  node.at = Date.parse(iso);
  node.after = after;
  return node;
}
function tick() {
  if (!role) return;
  for (const section of document.querySelectorAll("[data-part]")) {
    const part = parts[section.dataset.part];
    if (!part?.at) continue;
    // What is out of sight may have spoken since, so its silence does not grow.
    const now = (isStale(part) ? part.at.wall : Date.now()) + skew;
    for (const node of section.querySelectorAll(".age")) put(node, span(now - node.at) + node.after);
  }
}

// Asking the station
let role = "";       // admin or viewer; empty while nobody is signed in
let visit = 0;       // counts sign-ins and sign-outs: what was asked before one is dropped
let reached = null;  // whether the last request had an answer
async function ask(method, path, body) {
  const mine = visit, asked = Date.now(), headers = body ? { "Content-Type": "application/json" } : {};
  let reply, content;
  try {
    reply = await fetch(HERE + path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    content = await reply.text();
  } catch {
    reached = false;
    throw { status: 0, message: "The station is out of reach." };
  }
  if (reached === false) returned();
  reached = true;
  noteClock(reply, asked);
  const { status } = reply;
  // A proxy's own errors are no JSON.
  try { content = content && JSON.parse(content); } catch { content = null; }
  if (!reply.ok) {
    if (status === 401 && path !== "api/session" && role && mine === visit) leave("Your session has ended. Sign in again.");
    const message = status === 403 && role === "viewer" ? "Only an admin may do this." : content?.error || `The station answers HTTP ${status}.`;
    throw { status, message: sentence(message), wait: Number(reply.headers.get("Retry-After")) || 0 };
  }
  if (content === null) throw { status, message: "The answer is not the station's: is there a proxy that asks for a sign-in?" };
  return content;
}
const get = path => ask("GET", path);
const post = (path, body = {}) => ask("POST", path, body);

// Parts of the page, each with what it was told last, and when
const parts = {};
const MAIN = ["incidents", "clusters", "agents", "machines", "channels"];
function part(name, every, load, drawRows) {
  clearTimeout(parts[name]?.timer);
  return parts[name] = { name, every: every * SECOND, load, drawRows, data: null, at: null, error: null, notice: null, began: -Infinity, timer: 0, busy: false, again: false };
}
// Asks soon: at most once a second, and never twice at a time.
function want(name) {
  const part = parts[name];
  if (!part || !role || part.timer) return;
  if (part.busy) { part.again = true; return; }
  const wait = part.began + SECOND - performance.now();
  if (wait > 0) part.timer = setTimeout(run, wait, part);
  else run(part);
}
async function run(part) {
  const mine = visit, began = mark();
  Object.assign(part, { timer: 0, busy: true, again: false, began: began.mono });
  try {
    const data = await part.load();
    if (mine === visit) Object.assign(part, { data, at: began, error: null });
  } catch (error) {
    if (mine === visit) part.error = error.status === undefined ? { status: 1, message: "The answer cannot be read." } : error;
  }
  part.busy = false;
  // It was closed meanwhile, or somebody else is signed in.
  if (parts[part.name] !== part || mine !== visit) return;
  draw(part);
  drawState();
  if (part.again) want(part.name);
}
const wantAll = () => Object.keys(parts).forEach(want);
const pace = part => document.hidden ? (part.name === "incidents" ? (live ? 60 : 30) * SECOND : Infinity) : live ? part.every : 10 * SECOND;
function poll() {
  for (const part of Object.values(parts)) if (!part.busy && performance.now() - part.began >= pace(part)) want(part.name);
}
const isStale = part => !!part.at && (reached === false || !!part.error || since(part.at) > 2 * part.every + (document.hidden ? 105 : 15) * SECOND);
function draw(part) {
  const section = document.querySelector(`[data-part="${part.name}"]`);
  if (!section) return;
  // An answer of another shape must not stop the page, nor pass for an empty list.
  if (part.data) try { part.drawRows(part.data); } catch (error) {
    part.error = { status: 1, message: "The answer cannot be shown." };
    console.error(error);
  }
  drawAge(part, section);
  tick();
}
function drawAge(part, section) {
  const stale = isStale(part), said = section.querySelector(".said");
  section.classList.toggle("stale", stale);
  section.ariaBusy = String(!part.at && !part.error);
  // That nothing is in reach is said once, at the top.
  const error = part.error?.status ? `${part.data ? "Not refreshed" : "Not loaded"}: ${part.error.message}${stale ? ` What is shown is from ${clock(part.at.wall)}.` : ""}` : "";
  put(said, error || part.notice?.words || "");
  said.className = `said ${error || part.notice?.bad ? "bad" : "good"}`;
  if (!part.data) empty(section, part.error ? "Not known." : "Loading…");
}
function notice(name, words, bad = false) {
  const mine = parts[name].notice = { words, bad };
  draw(parts[name]);
  // A failure stays until something else is done.
  if (!bad) setTimeout(() => { if (parts[name].notice === mine) { parts[name].notice = null; draw(parts[name]); } }, 10 * SECOND);
}

// Tables
function empty(section, words, tone = "") {
  const node = section.querySelector(".none");
  node.hidden = !words;
  node.className = `none ${tone}`;
  put(node, words);
  section.querySelector("table").hidden = !!words;
}
const fieldOf = name => document.querySelector(`[data-search="${name}"]`);
// Fills a table. A row stays the same node while it shows the same, so that focus and
// selection stay where they are.
function fill(name, rows, how) {
  const body = $(name), section = body.closest("[data-part]"), field = fieldOf(name), had = body.had || new Map(), has = new Map();
  const words = field ? field.value.trim().toLowerCase() : "";
  if (field) field.hidden = rows.length <= 10 && !words;
  const found = words ? rows.filter(row => how.text(row).toLowerCase().includes(words)) : rows;
  const held = body.contains(document.activeElement) && document.activeElement, place = held && placeOf(held);
  for (const row of found.slice(0, ROWS_MAX)) {
    const key = String(how.key(row)), shows = JSON.stringify([row, role, own.times, busy.has(key), how.view]);
    const before = had.get(key);
    has.set(key, before?.shows === shows ? before : build(body, how, row, key, shows));
  }
  body.had = has;
  const keep = new Set(has.values());
  for (const tr of [...body.rows]) if (!keep.has(tr)) tr.remove();
  let index = 0;
  for (const tr of keep) {
    if (body.rows[index] !== tr) body.insertBefore(tr, body.rows[index] || null);
    index++;
  }
  if (place && document.activeElement !== held) refocus(place);
  if (rows.length) empty(section, found.length ? "" : "Nothing matches.");
  else empty(section, how.none, how.tone);
  const more = section.querySelector(".more"), hidden = found.length - index + (how.more || 0);
  const hint = [hidden > 0 && `${count(hidden)} more ${hidden === 1 ? "is" : "are"} not shown${field ? ": search for what you miss" : ""}.`, how.hint].filter(Boolean).join(" ");
  put(more.querySelector("span") || more, hint);
  more.hidden = !hint;
}
function build(body, how, row, key, shows) {
  const tr = make("tr", how.row?.(row) || ""), heads = body.previousElementSibling.rows[0].cells;
  // On a phone rows are blocks, and would be no rows for a screen reader.
  tr.role = "row";
  tr.dataset.key = key;
  tr.shows = shows;
  how.cells(row).forEach((cell, index) => {
    const isHead = index === 1, head = heads[index], node = make(isHead ? "th" : "td", head.className, cell);
    node.role = isHead ? "rowheader" : "cell";
    if (isHead) node.scope = "row";
    else node.dataset.label = head.textContent;
    tr.append(node);
  });
  if (how.open) {
    tr.dataset.opens = "";
    tr.onclick = event => { if (!event.target.closest("button, a") && !String(getSelection())) how.open(row); };
  }
  return tr;
}
function opener(words, about, open) {
  const node = make("button", "link text", words);
  node.dataset.do = "open";
  node.title = about;
  node.ariaHasPopup = "dialog";
  node.onclick = open;
  return node;
}
// Where the focus is, in words that outlive the node.
const placeOf = node => ({ table: node.closest("tbody")?.id, key: node.closest("tr")?.dataset.key, act: node.dataset.do });
function refocus({ table, key, act }) {
  const row = table && [...$(table).rows].find(row => row.dataset.key === key);
  const node = row?.querySelector(`[data-do="${act}"]:not(:disabled)`) || row?.querySelector("button:not(:disabled)");
  (node || (table && $(table).closest("section").querySelector("h2[tabindex]")) || $("verdict")).focus();
}

// Incidents
let view = "open";         // or closed
let met = null;            // the ids of the incidents that were open; null before the first answer
const KINDS = {
  "agent.dead": it => `Agent ${agentOf(it)} is dead`,
  "agent.emergency": it => `Agent ${agentOf(it)} is in EMERGENCY`,
  "machine.offline": it => `Machine ${it.machine?.name || it.machine?.id || "without a name"} is offline`,
  "collector.silent": it => `The collector of ${clusterOf(it)} is silent`,
  "mass_silence": it => `Many agents of ${clusterOf(it)} fell silent together: look at the network first`,
  "worker.failed": it => `A worker of ${clusterOf(it)} cannot run`,
};
const agentOf = it => it.agent?.agent_name || it.agent?.agent_uuid || "without a name";
const clusterOf = it => it.cluster?.name || it.cluster?.cluster_id || "a cluster";
const titleOf = it => KINDS[it.kind]?.(it) || [it.kind, it.agent && agentOf(it), it.machine?.name].filter(Boolean).join(" ");
const severityOf = it => it.kind === "agent.emergency" ? "emergency" : it.severity;
const CLOSERS = { over: "it was over", removed: "what it was about was removed", retention: "it was open for too long" };
// Details are the sender's own: whatever is short and simple is shown.
function detailsOf(details) {
  const say = (name, value) => {
    if (Array.isArray(value)) value = value.filter(it => typeof it !== "object").slice(0, 5).join(", ");
    if (value === null || value === false || value === "" || typeof value === "object" || ["closed_by", "event_id", "seq"].includes(name)) return "";
    if (typeof value === "number") value = /_ms$/.test(name) ? span(value) : /uptime|_seconds$/.test(name) ? span(value * SECOND) : String(value);
    if (/^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(value) && Date.parse(value)) value = clock(Date.parse(value));
    const words = name.replace(/_(ms|seconds)$/, "").replaceAll("_", " ");
    return value === true ? words : `${words} ${String(value).slice(0, 120)}`;
  };
  return Object.entries(details || {}).map(([name, value]) => say(name, value)).filter(Boolean).slice(0, 8).join(" · ");
}
function sorted(incidents) {
  const order = ["critical", "warning", "info"];
  // The station gives the newest first, and sort() keeps that among equals.
  return [...incidents].sort((a, b) => !!a.acknowledged_at - !!b.acknowledged_at || rank(a.severity, order) - rank(b.severity, order));
}
function incidentCells(it) {
  const about = titleOf(it), isOpen = it.state === "open";
  const where = it.cluster && !about.includes(clusterOf(it)) ? `Cluster ${clusterOf(it)}` : "";
  const buttons = make("div", "buttons");
  if (role === "admin" && isOpen) {
    buttons.append(it.acknowledged_at ? button("Take back", "ack", about, () => takeBack(it)) : button("Acknowledge", "ack", about, () => acknowledge(it)));
    buttons.append(button("Close", "close", about, () => close(it)));
    if (busy.has(it.id)) buttons.childNodes.forEach(rest);
  }
  const when = isOpen ? [moment(it.opened_at), make("span", "line", age(it.opened_at, ""))]
    : [moment(it.opened_at), line(`to ${clock(Date.parse(it.closed_at))}, ${span(Date.parse(it.closed_at) - Date.parse(it.opened_at))}`), line(CLOSERS[it.closed_by] || `closed by ${it.closed_by}`)];
  const by = it.acknowledged_at ? [text(`by ${it.acknowledged_by || "somebody"}, `), moment(it.acknowledged_at), line(it.note)] : text(isOpen ? "By nobody yet" : "No", isOpen ? "is warn" : "soft");
  return [badge(severityOf(it)), [make("b", "text", about), line(where), line(detailsOf(it.details))], when, by, buttons.children.length ? buttons : ""];
}
function drawIncidents() {
  const { data } = parts[view === "open" ? "incidents" : "closed"] || {};
  if (!data) return;
  const isOpen = view === "open", all = isOpen ? sorted(data.incidents) : data.incidents;
  const wanted = own.unacknowledged ? all.filter(it => !it.acknowledged_at) : all;
  const hidden = all.length - wanted.length, rest = Math.max(0, data.total - all.length);
  fill("incidents", wanted, {
    key: it => it.id, cells: incidentCells, view,
    row: it => it.state === "open" && !it.acknowledged_at ? known(severityOf(it))[2] : "",
    none: rest ? "None of those that were looked at." : hidden ? `${many(hidden, isOpen ? "open incident" : "closed incident")}, all acknowledged.` : isOpen ? "No incident is open." : "No incident was closed yet.",
    tone: isOpen && !rest ? "good" : "",
    more: own.unacknowledged ? 0 : rest,
    hint: [own.unacknowledged && rest && `Only the newest ${count(all.length)} of ${count(data.total)} were looked at.`, hidden && `${count(hidden)} acknowledged ${hidden === 1 ? "one is" : "ones are"} hidden.`].filter(Boolean).join(" "),
  });
  $("incidents-more").querySelector("button").hidden = !hidden;
}
function takeIncidents({ incidents }) {
  drawIncidents();
  const ids = new Map(incidents.map(it => [it.id, it]));
  if (met) {
    const fresh = incidents.filter(it => !met.has(it.id));
    const over = [...met.values()].filter(it => !ids.has(it.id));
    // With more than are fetched, those that are missing may only be older ones.
    const isWhole = parts.incidents.data.total <= incidents.length;
    const say = (list, words) => !list.length ? "" : list.length > 3 ? `${words}: ${many(list.length, "incident")}.` : `${words}: ${list.map(titleOf).join("; ")}.`;
    const words = [say(fresh, "New"), isWhole ? say(over, "Over") : ""].filter(Boolean).join(" ");
    if (words) announce(words);
  }
  met = ids;
}
const announce = words => { $("said").was = null; put($("said"), words); };
function choose(which) {
  view = which;
  $("view-open").ariaPressed = String(view === "open");
  $("view-closed").ariaPressed = String(view === "closed");
  put($("incidents-when"), view === "open" ? "Since" : "Was open");
  $("incidents-card").dataset.part = view === "open" ? "incidents" : "closed";
  if (view === "closed") part("closed", 30, () => get(`api/incidents?state=closed&limit=${FETCH_MAX}`), drawIncidents);
  else delete parts.closed;
  draw(parts[view === "open" ? "incidents" : "closed"]);
  want("closed");
}

// What an admin does
const busy = new Set();  // the keys of rows with a request under way
let deed = null;         // what the dialog is about
function confirmDeed(it) {
  deed = { ...it, place: placeOf(document.activeElement) };
  put($("act-title"), it.title);
  put($("act-text"), it.about);
  put($("act-do"), it.label);
  put($("act-wrong"), "");
  $("act-note").value = "";
  $("act-note-label").hidden = !it.note;
  $("act-do").disabled = false;
  $("act").showModal();
  (it.note ? $("act-note") : $("act-do")).focus();
}
async function doDeed() {
  const mine = deed;
  $("act-do").disabled = true;
  put($("act-wrong"), "");
  try {
    await mine.run($("act-note").value.trim());
    if (deed === mine) $("act").close();
    announce(mine.done);
    mine.then.forEach(want);
  } catch (error) {
    if (deed !== mine) return;
    put($("act-wrong"), error.message);
    $("act-do").disabled = false;
  }
}
const acknowledge = it => confirmDeed({
  title: "Acknowledge", about: `${titleOf(it)}. Others see that somebody looks after it.`, label: "Acknowledge", note: true, done: "Acknowledged.",
  run: note => post(`api/incidents/${encode(it.id)}/ack`, note ? { note } : {}), then: ["incidents", "one-alerts"],
});
const close = it => confirmDeed({
  title: "Close this incident?", about: `${titleOf(it)}. Close it only if nobody will say that it is over: it cannot be opened again.`, label: "Close incident", done: "Closed.",
  run: () => post(`api/incidents/${encode(it.id)}/close`), then: ["incidents", "clusters", "one-alerts"],
});
// Does something without a question; the row is busy meanwhile.
async function doNow(name, key, run, done, failed) {
  const mine = visit;
  busy.add(key);
  draw(parts[name]);
  let words = done, bad = false;
  try { await run(); } catch (error) { words = `${failed}: ${error.message}`; bad = true; }
  busy.delete(key);
  if (mine !== visit) return;
  notice(name, words, bad);
  want(name);
}
const takeBack = it => doNow("incidents", it.id, () => ask("DELETE", `api/incidents/${encode(it.id)}/ack`), "The acknowledgement is taken back.", "It is still acknowledged");

// Clusters
const healthOf = (healthy, all) => {
  const bar = make("i"), share = all ? healthy / all : 0;
  bar.style.width = `${100 * Math.min(1, share)}%`;
  return [text(all ? `${count(healthy)} of ${count(all)}` : "none yet", all ? "" : "soft"), all ? make("div", `bar ${healthy < all ? "dead" : ""}`, bar) : ""];
};
async function loadClusters() {
  const [{ clusters }, { workers, engine }] = await Promise.all([get("api/clusters"), get("api/workers")]);
  return { clusters, workers, engine };
}
// Without WORKERS_FILE there is no engine, and nothing is said of workers. What an engine that does not answer showed
// before is shown on; before its first answer nothing is known.
const isOut = engine => engine?.reachable === false;
const engineWords = (engine, shown) => isOut(engine) ? `Nothing is done to workers: ${sentence(engine.error)}${shown.length ? " What is shown of workers is from before." : ""}` : "";
function drawClusters({ clusters, workers, engine }) {
  const order = ["dead", "stale", "unknown", "active"], of = new Map();
  for (const it of workers) of.set(it.cluster_id, [...of.get(it.cluster_id) || [], it]);
  const wordsOf = list => {
    const troubled = list.filter(it => it.trouble).length, words = `Workers: ${count(list.filter(it => it.state === "running").length)} of ${count(list.length)} run`;
    return { words: troubled ? `${words}, ${count(troubled)} in trouble` : words, bad: !!troubled };
  };
  const rows = clusters.map(it => ({ ...it, workers: of.has(it.cluster_id) ? wordsOf(of.get(it.cluster_id)) : null })).sort((a, b) => rank(a.state, order) - rank(b.state, order) || b.open_alerts - a.open_alerts || a.name.localeCompare(b.name));
  fill("clusters", rows, {
    key: it => it.cluster_id, text: it => `${it.name} ${it.cluster_id}`, open: it => openCluster(it.cluster_id),
    row: it => it.state === "dead" || it.state === "stale" ? known(it.state)[2] : it.workers?.bad ? "warn" : "",
    cells: it => [badge(it.state), [opener(it.name, "Its agents and its last alerts", () => openCluster(it.cluster_id)), line(it.cluster_id, "mono"), line(it.workers?.words, it.workers?.bad ? "warn" : "")],
      healthOf(it.healthy_agent_count, it.agent_count), it.open_alerts ? text(count(it.open_alerts), "is bad") : "0", age(it.last_seen_at), text(it.version || "–")],
    none: "No cluster yet: give a collector STATION_URL and STATION_ALERT_KEY.",
  });
  put($("engine-said"), engineWords(engine, workers));
  if (one) drawCluster();
}
let one = null;  // the cluster that is open
function openCluster(id) {
  one = { id, place: { table: "clusters", key: id, act: "open" } };
  fieldOf("one-agents").value = "";
  for (const [name, every, path, drawRows] of [["one-agents", 10, "agents", drawOneAgents], ["one-alerts", 30, "alerts?limit=50", drawOneAlerts]]) {
    $(name).replaceChildren();
    $(name).had = null;
    $(`${name}-more`).hidden = true;
    part(name, every, () => get(`api/clusters/${encode(id)}/${path}`), drawRows);
    draw(parts[name]);
    want(name);
  }
  put($("one-agents-stats"), "");
  drawCluster();
  $("cluster").showModal();
  $("cluster").scrollTop = 0;
}
function pairs(id, list) {
  $(id).replaceChildren(...list.map(([term, value]) => make("div", "", make("dt", "", term), make("dd", "text", value))));
}
function drawCluster() {
  const it = parts.clusters.data?.clusters.find(it => it.cluster_id === one.id);
  put($("cluster-name"), it?.name || one.id);
  put($("cluster-id"), one.id);
  pairs("cluster-pairs", !it ? [["State", "Unknown: it was removed"]] : [
    ["State", badge(it.state)], ["Healthy agents", `${count(it.healthy_agent_count)} of ${count(it.agent_count)}`], ["Open incidents", count(it.open_alerts)],
    ["Last word", it.last_seen_at ? moment(it.last_seen_at) : "never"], ["Last alert", it.last_alert_at ? moment(it.last_alert_at) : "never"],
    ["Collector", it.collector_url || "no collector_url: it cannot be asked"], ["Version", it.version || "–"], ["Known since", moment(it.created_at)],
    ...(it.description ? [["Description", it.description]] : [])]);
  drawWorkers(it);
}
function drawWorkers(cluster) {
  const { data, at } = parts.clusters, engine = data?.engine, section = $("cluster-workers");
  section.hidden = !cluster || !engine;
  if (section.hidden) return;
  section.classList.toggle("stale", isOut(engine));
  const rows = data.workers.filter(it => it.cluster_id === cluster.cluster_id), again = ms => new Date(at.wall + skew + ms).toISOString();
  put($("one-workers-said"), engineWords(engine, rows));
  fill("one-workers", rows, {
    key: it => it.role,
    row: it => it.trouble ? it.state === "running" ? "warn" : "bad" : "",
    cells: it => [badge(it.state), [make("b", "text", it.role), line(it.name, "mono"), line(it.trouble, it.state === "running" ? "warn" : "bad")],
      it.next_attempt_in_ms === null ? text("–", "soft") : it.next_attempt_in_ms ? moment(again(it.next_attempt_in_ms)) : "at once"],
    none: engine.reachable === null || isOut(engine) ? "Not known." : cluster.state === "dead" ? "It has none while it is dead. They come back with its next heartbeat." : "It has none: only a cluster that was registered gets workers.",
  });
}
const verdictOf = it => it.status && it.status !== "unknown" ? it.status : it.healthy ? "healthy" : "unhealthy";
function fillAgents(name, agents, extra) {
  const order = ["dead", "unhealthy", "suspect", "healthy"];
  const rows = [...agents].sort((a, b) => rank(verdictOf(a), order) - rank(verdictOf(b), order) || String(a.agent_name).localeCompare(String(b.agent_name)));
  fill(name, rows, {
    key: it => it.agent_uuid, text: it => `${it.agent_name} ${it.agent_uuid}`,
    row: it => verdictOf(it) === "healthy" ? "" : known(verdictOf(it))[2],
    cells: it => [badge(verdictOf(it)), [make("b", "text", it.agent_name || it.agent_uuid), line(it.agent_uuid, "mono"), ...extra.lines(it)], mode(it.mode), age(it.last_seen), text(span(it.uptime_seconds * SECOND))],
    ...extra,
  });
}
function drawOneAgents({ stats, agents }) {
  const modes = Object.entries(stats?.by_mode || {}).filter(([, n]) => n).map(([name, n]) => `${count(n)} in ${name}`).join(", ");
  put($("one-agents-stats"), stats ? `${many(stats.total, "agent")}, ${count(stats.healthy)} healthy, ${count(stats.unhealthy)} not${modes ? `; ${modes}` : ""}.` : "");
  fillAgents("one-agents", agents, { lines: () => [], none: "The collector knows no agent." });
}
function drawOneAlerts({ alerts }) {
  fill("one-alerts", alerts, {
    key: it => it.uuid,
    row: it => it.open && !it.acknowledged ? known(it.severity)[2] : "",
    cells: it => [badge(it.severity), [make("b", "text", `${it.alert_type.toLowerCase().replaceAll("_", " ")}: ${it.agent_name || it.agent_uuid}`), line(detailsOf(it.details))],
      [moment(it.alert_timestamp), make("span", "line", age(it.alert_timestamp))],
      it.open ? it.acknowledged ? text(`open, acknowledged by ${it.acknowledged_by || "somebody"}`) : text("Open", "is warn") : text("not open", "soft")],
    none: "No alert of this cluster is kept.",
  });
}

// Agents that report here, and machines
function drawAgents({ agents, total }) {
  const elsewhere = it => !it.elsewhere ? "" : it.elsewhere === "elsewhere?" ? "Perhaps it lives: a collector cannot be asked." : "It lives: a collector hears it.";
  fillAgents("agents", agents, {
    lines: it => [line(elsewhere(it))], more: Math.max(0, total - agents.length),
    none: "No agent sends its heartbeats here. An agent with PAP_STATION_URL does so when its collector is out of reach.",
  });
}
const stateOf = it => it.is_enabled === false ? "off" : it.status;
function drawMachines(machines) {
  const order = ["offline", "unknown", "online", "off"], percent = (words, n) => typeof n === "number" ? `${words} ${Math.round(n)} %`.replaceAll(" ", "\xa0") : "";
  fill("machines", [...machines].sort((a, b) => rank(stateOf(a), order) - rank(stateOf(b), order) || a.name.localeCompare(b.name)), {
    key: it => it.id, text: it => `${it.name} ${it.hostname} ${it.description}`,
    row: it => stateOf(it) === "offline" ? "bad" : "",
    cells: it => [badge(stateOf(it)), [make("b", "text", it.name), line([it.hostname !== it.name && it.hostname, it.platform].filter(Boolean).join(" · ")), line(it.description)], age(it.last_seen),
      line([percent("CPU", it.cpu_pct), percent("Memory", it.mem_used_pct), percent("Disk", it.disk_used_pct)].filter(Boolean).join(" "))],
    none: "No machine yet: register one with POST /agent/register.",
  });
}

// Channels
const channelState = it => !it.is_active ? "off" : it.failure_count ? "failing" : "working";
const pathOf = it => `notifications/${it.kind}/${encode(it.id)}`, placeNameOf = it => it.url || `Telegram chat ${it.chat_id}`;
async function loadChannels() {
  const lists = await Promise.all(["webhooks", "telegram"].map(async kind => (await get(`notifications/${kind}`)).map(it => ({ ...it, kind }))));
  return lists.flat();
}
function drawChannels(channels) {
  fill("channels", channels, {
    key: it => `${it.kind} ${it.id}`,
    row: it => ({ failing: "warn" })[channelState(it)] || "",
    cells: it => {
      const about = placeNameOf(it), key = `${it.kind} ${it.id}`, buttons = make("div", "buttons", button("Deliveries", "open", about, () => openChannel(it)));
      if (role === "admin") {
        // The station tests only what is on.
        const test = !it.is_active ? button("Turn on", "test", about, () => doNow("channels", key, () => ask("PUT", pathOf(it), { is_active: true }), `${about} is on. Test it now.`, `${about} is still off`)) : button(busy.has(key) ? "Testing…" : "Test", "test", about, () => doNow("channels", key, () => post(`${pathOf(it)}/test`), `The test was delivered to ${about}.`, `The test of ${about} failed`));
        if (busy.has(key)) rest(test);
        buttons.append(test, button("Delete", "delete", about, () => remove(it)));
      }
      const secret = it.secret_last_four === "****" ? "its secret is not known here" : `secret ends with ${it.secret_last_four}`;
      const hint = it.kind === "webhooks" ? it.secret_last_four && `Webhook, ${secret}` : "Telegram";
      return [badge(channelState(it)), [make("b", "text", about), line(hint || "Webhook"), line(wishes(it))], age(it.last_success_at),
        it.last_error_at ? [age(it.last_error_at), line(it.last_error, it.failure_count ? "bad" : ""), line(it.failure_count ? `${many(it.failure_count, "failure")} in a row` : "")] : text("none", "soft"), buttons];
    },
    none: `No channel yet, so nobody is told. ${role === "admin" ? "Add a webhook or a Telegram chat below." : "An admin can add a webhook or a Telegram chat."}`,
  });
  if (channel) drawChannel();
}
function wishes({ filters, quiet_hours: quiet }) {
  const lists = Object.entries(filters || {}).filter(([, list]) => Array.isArray(list)).map(([name, list]) => `${name} ${list.join(", ") || "none"}`);
  return [lists.length && `Only ${lists.join("; ")}`, quiet && `Quiet from ${quiet.from} to ${quiet.to}, ${quiet.timezone}`].filter(Boolean).join(". ");
}
const remove = it => confirmDeed({
  title: "Delete this channel?", about: `${placeNameOf(it)}. Nothing is told there any more, and its list of deliveries is lost.`, label: "Delete channel", done: "Deleted.",
  run: () => ask("DELETE", pathOf(it)), then: ["channels"],
});
let channel = null;  // the channel that is open
function openChannel(it) {
  channel = { ...it, place: { table: "channels", key: `${it.kind} ${it.id}`, act: "open" } };
  $("deliveries").replaceChildren();
  $("deliveries").had = null;
  $("deliveries-more").hidden = true;
  draw(part("deliveries", 30, () => get(`${pathOf(it)}/deliveries?limit=20`), drawDeliveries));
  want("deliveries");
  drawChannel();
  $("channel").showModal();
}
function drawChannel() {
  const it = (parts.channels.data || []).find(it => it.kind === channel.kind && it.id === channel.id);
  put($("channel-name"), placeNameOf(channel));
  put($("channel-kind"), channel.kind === "webhooks" ? "Webhook" : "Telegram");
  pairs("channel-pairs", !it ? [["State", "Unknown: it was deleted"]] : [
    ["State", badge(channelState(it))], ["Last delivered", moment(it.last_success_at)], ["Last failure", moment(it.last_error_at)],
    ["Is told", wishes(it) || "Everything, at any hour"]]);
}
function drawDeliveries({ deliveries, total }) {
  fill("deliveries", deliveries, {
    key: it => it.id,
    row: it => ["refused", "given_up", "owed"].includes(it.state) ? known(it.state)[2] : "",
    cells: it => [badge(it.state), [make("b", "text", it.line.split("\n")[0]), line(it.event, "mono")], [moment(it.at), line(it.ended_at ? `ended ${clock(Date.parse(it.ended_at))}` : "not ended")],
      count(it.attempts), it.last_error ? text(it.last_error, it.state === "delivered" ? "soft" : known(it.state)[2]) : text("–", "soft")],
    more: Math.max(0, total - deliveries.length),
    none: "Nothing was told here yet.",
  });
}
async function add(form, path, body) {
  const wrong = form.querySelector(".bad"), send = form.querySelector(".do");
  send.disabled = true;
  put(wrong, "");
  try {
    await post(path, body);
    form.reset();
    form.parentElement.open = false;
    notice("channels", "The channel is added. Test it now: nothing else tells you that it works.");
    form.parentElement.querySelector("summary").focus();
    want("channels");
  } catch (error) { put(wrong, error.message); }
  send.disabled = false;
}

// The live connection
let stream = null, live = false, liveSince = 0, tries = 0, retryAt = 0, retryTimer = 0, lostAt = 0;
const ALSO = { incidents: ["closed", "one-alerts"], clusters: ["one-agents", "one-alerts"], channels: ["deliveries"] };
function openStream() {
  clearTimeout(retryTimer);
  if (!role || stream) return;
  const mine = stream = new WebSocket(`${HERE.replace(/^http/, "ws")}api/live`);
  mine.onmessage = ({ data }) => {
    if (stream !== mine) return;
    let message;
    try { message = JSON.parse(data); } catch { return; }
    if (message.type === "hello") {
      live = true;
      lostAt = 0;
      liveSince = performance.now();
      // What changed before it opened was told to nobody.
      wantAll();
      drawState();
    } else if (message.type === "changed") for (const name of message.what || []) [name, ...(ALSO[name] || [])].forEach(want);
  };
  mine.onclose = () => {
    if (stream !== mine) return;
    // One that ends at once counts as a failure, so that the waits grow.
    if (live && performance.now() - liveSince > 10 * SECOND) tries = 0;
    if (!live) checkSession();
    stream = null;
    live = false;
    lostAt ||= performance.now();
    const wait = Math.min(30 * SECOND, SECOND * 2 ** tries++) * (.5 + .5 * Math.random());
    retryAt = performance.now() + wait;
    retryTimer = setTimeout(openStream, wait);
    drawState();
  };
}
function closeStream() {
  clearTimeout(retryTimer);
  const old = stream;
  stream = null;
  live = false;
  // To close one that is not open yet would be an error in the browser's log.
  if (old?.readyState === WebSocket.CONNECTING) old.onopen = () => old.close();
  else old?.close();
}
// The station is in reach again. A connection from before may be dead without knowing.
function returned() {
  if (!role) return;
  if (stream?.readyState === WebSocket.OPEN) closeStream();
  lostAt ||= performance.now();
  tries = 0;
  openStream();
  setTimeout(wantAll);
}
// Why a WebSocket did not open is known only by asking without one.
function checkSession() {
  const mine = visit;
  get("api/session").catch(({ status }) => { if (status === 401 && mine === visit) leave("Your session has ended. Sign in again."); });
}

// Heading, facts, totals, banner
function oldest(list) {
  const times = list.map(part => part.at);
  return times.includes(null) ? null : times.reduce((a, b) => since(a) > since(b) ? a : b);
}
function tile(id, n, all, on) {
  if (all === 0) [n, all] = ["–", undefined];
  const node = $(id), [, value] = node.children, words = `${n}${all === undefined ? "" : ` of ${count(all)}`}`;
  node.classList.toggle("on", !!on);
  if (value.was === words) return;
  value.was = words;
  value.replaceChildren(n, ...(all === undefined ? [] : [make("small", "", ` of ${count(all)}`)]));
}
function drawState() {
  if (!role) return;
  const { incidents, clusters, agents, machines, channels } = parts, old = incidents.at && isStale(incidents);
  let tone = "soft", title = "Station";
  if (!incidents.data) put($("verdict"), incidents.error ? "The incidents are not known" : "Connecting…");
  else {
    const list = incidents.data.incidents, n = incidents.data.total, loose = list.filter(it => !it.acknowledged_at), more = n > list.length ? "+" : "";
    const at = old ? ` at ${clock(incidents.at.wall)}` : "";
    put($("verdict"), n ? `${many(n, "incident")} ${old ? (n === 1 ? "was" : "were") : n === 1 ? "is" : "are"} open${at}${!old && !loose.length && !more ? ", acknowledged" : ""}` : `No incident ${old ? "was" : "is"} open${at}`);
    tone = list.some(it => it.severity === "critical") ? "bad" : n ? "warn" : "";
    title = `${n || old ? `(${n ? `${count(n)} open` : "none open"}${old ? `, as of ${clock(incidents.at.wall)}` : ""}) ` : ""}Station`;
    tile("t-open", count(n), undefined, n);
    tile("t-unacknowledged", count(loose.length) + more, undefined, loose.length);
  }
  $("verdict").className = tone;
  document.title = title;
  drawIcon(!incidents.data || old ? "#8a8f96" : tone === "bad" ? "#d3302a" : tone ? "#c98a10" : "#2a9a64");
  const all = clusters.data?.clusters, sum = field => all.reduce((n, it) => n + it[field], 0);
  if (all) {
    tile("t-clusters", count(all.filter(it => it.state === "active").length), all.length);
    // Those that a collector hears are counted with its cluster.
    const here = (agents.data?.agents || []).filter(it => !it.elsewhere);
    tile("t-agents", count(sum("healthy_agent_count") + here.filter(it => verdictOf(it) === "healthy").length), sum("agent_count") + here.length);
  }
  if (machines.data) tile("t-machines", count(machines.data.filter(it => stateOf(it) === "online").length), machines.data.filter(it => stateOf(it) !== "off").length);
  if (channels.data) tile("t-channels", count(channels.data.filter(it => channelState(it) === "working").length), channels.data.length);

  const main = MAIN.map(name => parts[name]), stale = main.filter(isStale), from = oldest(stale.length ? stale : main);
  const gone = reached === false;
  $("page").classList.toggle("stale", gone);
  for (const section of document.querySelectorAll("[data-part]")) if (parts[section.dataset.part]) drawAge(parts[section.dataset.part], section);
  fact("f-live", ...(live && !gone ? ["● Live", "good"] : lostAt || gone ? ["✕ Lost", "warn"] : ["Connecting…", "soft"]));
  fact("f-fresh", ...(!from ? ["Not yet", "soft"] : stale.length ? [`✕ As of ${clock(from.wall)}`, "warn"] : [`${span(since(from))} ago`, ""]));
  const isSlow = !gone && stale.some(part => !part.error), isPolling = !live && lostAt && performance.now() - lostAt > 2 * SECOND;
  $("banner").hidden = !(gone || isSlow || isPolling);
  put($("b-text"), gone ? `The station is out of reach.${from ? ` What is shown is from ${clock(from.wall)}.` : ""}`
    : isSlow ? `What is shown is from ${clock(from.wall)}. The page is asking again.`
    : "There is no live connection. Until there is, the page asks every 10 seconds.");
  const next = gone ? Math.max(0, incidents.began + 10 * SECOND - performance.now()) : retryAt - performance.now();
  put($("b-count"), live && !gone || isSlow ? "" : (gone ? incidents.busy : stream) ? "Connecting…" : `Trying again in ${span(next + 999)}.`);
}
function fact(id, words, tone) {
  put($(id), words);
  $(id).className = `num ${tone}`;
}
function drawIcon(colour) {
  const icon = `data:image/svg+xml,${encode(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="${colour}"/></svg>`)}`;
  if ($("icon").href !== icon) $("icon").href = icon;
}

// Coming and going
function reset() {
  part("incidents", 30, () => get(`api/incidents?state=open&limit=${FETCH_MAX}`), takeIncidents);
  part("clusters", 10, loadClusters, drawClusters);
  part("agents", 30, () => get("api/agents"), drawAgents);
  part("machines", 10, () => get("machines"), drawMachines);
  part("channels", 30, loadChannels, drawChannels);
  met = null;
  busy.clear();
  for (const body of document.querySelectorAll("tbody")) { body.replaceChildren(); body.had = null; }
  for (const node of document.querySelectorAll(".more")) node.hidden = true;
  for (const node of document.querySelectorAll(".tile b")) { node.was = null; put(node, "–"); }
  for (const node of document.querySelectorAll(".tile")) node.classList.remove("on");
  put($("said"), "");
  put($("engine-said"), "");
  choose("open");
  MAIN.forEach(name => draw(parts[name]));
}
function enter(as) {
  if (!as) return leave("");
  visit++;
  role = as;
  reset();
  $("door").hidden = true;
  $("page").hidden = false;
  for (const node of document.querySelectorAll("[data-admin]")) node.hidden = role !== "admin";
  fact("f-role", role === "admin" ? "Admin" : "Viewer", "");
  lostAt = tries = 0;
  drawState();
  wantAll();
  openStream();
}
// Nothing of what the session had opened stays.
function leave(words) {
  visit++;
  role = "";
  closeStream();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const form of document.querySelectorAll(".adds form")) form.reset();
  reset();
  $("page").hidden = true;
  $("door").hidden = false;
  document.title = "Sign in · Station";
  drawIcon("#8a8f96");
  put($("door-wrong"), words);
  $("key").focus();
}
async function signIn(key) {
  $("door-do").disabled = true;
  put($("door-wrong"), "");
  try {
    await post("api/session", { key });
    enter((await get("api/session")).role);
    $("verdict").focus();
  } catch ({ status, message, wait }) {
    if (status === 429) return sayWait(performance.now() + (wait || 60) * SECOND);
    put($("door-wrong"), status === 401 ? "That key is not the right one." : message);
    $("key").focus();
  }
  $("door-do").disabled = false;
}
function sayWait(until) {
  const left = until - performance.now();
  $("door-do").disabled = left > 0;
  // Read out once, and not every second.
  put($("door-wrong"), left > 0 ? "There were too many wrong keys. Please wait." : "");
  put($("door-do"), left > 0 ? `Wait ${span(left + 999)}` : "Sign in");
  if (left > 0) setTimeout(sayWait, SECOND, until);
  else $("key").focus();
}
async function signOut() {
  $("sign-out").disabled = true;
  try {
    await ask("DELETE", "api/session");
    leave("You are signed out.");
  } catch (error) {
    if (error.status === 401) leave("You are signed out.");
    else notice("incidents", `You are still signed in. ${error.message}`, true);
  }
  $("sign-out").disabled = false;
}
let startTimer = 0;
async function start() {
  clearTimeout(startTimer);
  try { enter((await get("api/session")).role); } catch (error) {
    if (error.status === 401) return leave("");
    // The page is up before the station, or a proxy is alone.
    $("page").hidden = false;
    $("banner").hidden = false;
    put($("b-text"), `${error.message} The page tries again every few seconds.`);
    startTimer = setTimeout(start, 3 * SECOND + 2 * SECOND * Math.random());
  }
}

// Hands
$("sign-in").onsubmit = event => {
  event.preventDefault();
  const key = $("key").value.trim();
  $("key").value = "";
  signIn(key);
};
$("sign-out").onclick = signOut;
$("open-settings").onclick = () => $("settings").showModal();
$("settings-form").onchange = ({ target }) => changeSetting(target.name, target.type === "checkbox" ? target.checked : target.value);
$("settings-form").onsubmit = event => event.preventDefault();
$("t-unacknowledged").onclick = () => { choose("open"); changeSetting("unacknowledged", !own.unacknowledged); };
$("incidents-more").querySelector("button").onclick = () => { changeSetting("unacknowledged", false); $("incidents-title").focus(); };
$("view-open").onclick = () => choose("open");
$("view-closed").onclick = () => choose("closed");
$("retry").onclick = () => { tries = 0; if (role) { openStream(); wantAll(); } else start(); };
$("act-form").onsubmit = event => { event.preventDefault(); doDeed(); };
$("add-webhook").querySelector("form").onsubmit = event => {
  event.preventDefault();
  const form = event.target, { url, secret } = form.elements, size = new TextEncoder().encode(secret.value).length;
  if (size < 16 || size > 128) return put(form.querySelector(".bad"), `The secret has ${many(size, "byte")}. It must have 16 to 128.`);
  add(form, "notifications/webhooks", { url: url.value.trim(), secret: secret.value });
};
$("add-telegram").querySelector("form").onsubmit = event => {
  event.preventDefault();
  add(event.target, "notifications/telegram", { chat_id: event.target.elements.chat_id.value.trim() });
};
for (const field of document.querySelectorAll("[data-search]")) field.oninput = () => draw(parts[field.dataset.search]);
for (const node of document.querySelectorAll("[data-close]")) node.onclick = () => node.closest("dialog").close();
for (const dialog of document.querySelectorAll("dialog")) {
  // A click beside it closes it, unless there is something to lose.
  dialog.onclick = event => { if (event.target === dialog && dialog.id !== "act") dialog.close(); };
  dialog.onclose = () => {
    const { place } = { cluster: one, channel, act: deed }[dialog.id] || {};
    if (dialog.id === "cluster") { one = null; delete parts["one-agents"]; delete parts["one-alerts"]; }
    if (dialog.id === "channel") { channel = null; delete parts.deliveries; }
    if (dialog.id === "act") deed = null;
    // The browser gives the focus back, unless that button was drawn anew meanwhile.
    if (role && place && document.activeElement === document.body) refocus(place);
  };
}
for (const table of document.querySelectorAll("table")) {
  table.role = "table";
  for (const body of table.querySelectorAll("thead, tbody")) body.role = "rowgroup";
  table.tHead.rows[0].role = "row";
  for (const head of table.tHead.rows[0].cells) head.role = "columnheader";
}
document.onvisibilitychange = () => { if (!document.hidden && role) { if (!stream) openStream(); wantAll(); drawState(); tick(); } };
addEventListener("online", () => { if (role) { tries = 0; openStream(); wantAll(); } });
put($("host"), `Station at ${location.host}`);
applySettings();
setInterval(() => { if (role) { poll(); drawState(); tick(); } }, SECOND);
start();
