-- Times are milliseconds since 1970, by the station's clock unless said otherwise.

CREATE TABLE about (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE cluster (
    id INTEGER PRIMARY KEY,
    cluster_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    description TEXT,
    collector_url TEXT,
    -- The key its collector is asked with, and for which origin it was set.
    collector_key TEXT,
    collector_key_origin TEXT,
    version TEXT,
    region TEXT,
    metadata TEXT,
    -- By hand or by itself, not by an alert or a heartbeat alone.
    is_registered INTEGER NOT NULL,
    agent_count INTEGER NOT NULL DEFAULT 0,
    healthy_agent_count INTEGER NOT NULL DEFAULT 0,
    last_alert_at INTEGER,
    last_seen_at INTEGER,
    last_beat_at INTEGER,
    -- A tombstone.
    deleted_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE key (
    -- SHA-256: the key itself is not kept.
    hash BLOB PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('cluster', 'agent')),
    -- The cluster's or the agent's id.
    subject TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    hash BLOB PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('admin', 'viewer')),
    -- Of the key it was got for: it ends with it.
    key_hash BLOB NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE machine (
    -- Never used again: filters and receivers name it.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    hostname TEXT NOT NULL DEFAULT '',
    description TEXT NOT NULL DEFAULT '',
    key_hash BLOB NOT NULL UNIQUE,
    -- The key before the last rotation, and until when it is taken.
    former_key_hash BLOB,
    former_key_until INTEGER,
    is_enabled INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL DEFAULT 'unknown' CHECK (status IN ('unknown', 'online', 'offline')),
    last_seen INTEGER,
    cpu_pct REAL,
    mem_used_pct REAL,
    disk_used_pct REAL,
    net_rx_bytes INTEGER,
    net_tx_bytes INTEGER,
    uptime_s REAL,
    platform TEXT,
    platform_version TEXT,
    kernel_version TEXT,
    cpu_cores INTEGER,
    memory_total_mb INTEGER,
    disk_total_gb INTEGER,
    last_boot_time TEXT,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE incident (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    -- The name of the event with which it opened.
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    cluster INTEGER REFERENCES cluster (id) ON DELETE CASCADE,
    machine INTEGER REFERENCES machine (id) ON DELETE SET NULL,
    -- The agent's id; empty where there is none.
    agent TEXT NOT NULL DEFAULT '',
    agent_name TEXT NOT NULL DEFAULT '',
    -- JSON.
    details TEXT NOT NULL DEFAULT '{}',
    opened_at INTEGER NOT NULL,
    acknowledged_at INTEGER,
    acknowledged_by TEXT,
    note TEXT,
    closed_at INTEGER,
    closed_by TEXT
) STRICT;

CREATE UNIQUE INDEX incident_open
    ON incident (kind, ifnull(cluster, 0), ifnull(machine, 0), agent) WHERE closed_at IS NULL;
CREATE INDEX incident_cluster ON incident (cluster, agent) WHERE closed_at IS NULL;
CREATE INDEX incident_closed ON incident (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX incident_machine ON incident (machine) WHERE machine IS NOT NULL;

CREATE TABLE alert (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    cluster INTEGER NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
    event_id TEXT,
    type TEXT NOT NULL,
    agent TEXT NOT NULL,
    agent_name TEXT NOT NULL,
    severity TEXT NOT NULL,
    -- JSON, as it came.
    details TEXT,
    -- By the collector's clock.
    timestamp INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    incident INTEGER REFERENCES incident (id) ON DELETE SET NULL,
    acknowledged_at INTEGER,
    acknowledged_by TEXT,
    note TEXT
) STRICT;

CREATE UNIQUE INDEX alert_event ON alert (cluster, event_id) WHERE event_id IS NOT NULL;
CREATE UNIQUE INDEX alert_content ON alert (cluster, agent, type, timestamp) WHERE event_id IS NULL;
CREATE INDEX alert_agent ON alert (cluster, agent, timestamp);
CREATE INDEX alert_received ON alert (received_at);
CREATE INDEX alert_incident ON alert (incident) WHERE incident IS NOT NULL;
CREATE INDEX alert_cluster ON alert (cluster, id);

CREATE TABLE channel (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('webhook', 'telegram')),
    -- A URL, or the id of a chat.
    target TEXT NOT NULL,
    -- What signs must be readable.
    secret TEXT,
    secret_last_four TEXT,
    -- Whether X-LunaSentri-Signature is sent, too; and its key, where the secret is not known.
    signs_as_original INTEGER NOT NULL DEFAULT 0,
    original_key BLOB,
    is_active INTEGER NOT NULL DEFAULT 1,
    -- JSON.
    filters TEXT,
    quiet_hours TEXT,
    failure_count INTEGER NOT NULL DEFAULT 0,
    last_attempt_at INTEGER,
    last_success_at INTEGER,
    last_error_at INTEGER,
    last_error TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (kind, target)
) STRICT;

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    incident INTEGER REFERENCES incident (id) ON DELETE CASCADE,
    -- The body of a webhook, to the byte, and a line for people.
    body TEXT NOT NULL,
    line TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

CREATE INDEX event_incident ON event (incident) WHERE incident IS NOT NULL;
CREATE INDEX event_at ON event (at);

CREATE TABLE delivery (
    id INTEGER PRIMARY KEY,
    -- The same at each attempt.
    uuid TEXT NOT NULL UNIQUE,
    event INTEGER NOT NULL REFERENCES event (id) ON DELETE CASCADE,
    channel INTEGER NOT NULL REFERENCES channel (id) ON DELETE CASCADE,
    -- Deliveries with the same subject go out in the order of their ids.
    subject TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'owed' CHECK (state IN ('owed', 'delivered', 'refused', 'given_up')),
    attempts INTEGER NOT NULL DEFAULT 0,
    -- How long it has been tried, hours of quiet and the station's own absence not counted.
    tried_ms INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    ended_at INTEGER
) STRICT;

CREATE INDEX delivery_owed ON delivery (channel, id) WHERE state = 'owed';
CREATE INDEX delivery_order ON delivery (channel, subject, id) WHERE state = 'owed';
CREATE INDEX delivery_event ON delivery (event, channel);
CREATE INDEX delivery_channel ON delivery (channel, id);

-- What an agent said of itself last, besides heartbeats.
CREATE TABLE report (
    agent TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('lifecycle', 'metrics', 'state')),
    -- JSON.
    body TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (agent, kind)
) STRICT, WITHOUT ROWID;

-- The agents that beat here, as they were at some moment.
CREATE TABLE snapshot (
    name TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    -- JSON.
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What the document on heartbeats of machines tells people to look at.
CREATE VIEW machines AS
    SELECT id, name, hostname, description, is_enabled, status,
        strftime('%Y-%m-%d %H:%M:%S', last_seen / 1000, 'unixepoch') AS last_seen,
        strftime('%Y-%m-%d %H:%M:%S', created_at / 1000, 'unixepoch') AS created_at
    FROM machine;
CREATE VIEW machine_offline_notifications AS
    SELECT machine AS machine_id,
        strftime('%Y-%m-%d %H:%M:%S', opened_at / 1000, 'unixepoch') AS notified_at
    FROM incident WHERE kind = 'machine.offline' AND closed_at IS NULL;
