-- The control plane.

-- When it was registered or removed last, by that word's own time: an older one changes nothing.
ALTER TABLE cluster ADD COLUMN registry_at INTEGER;
-- Its last sign of life: a heartbeat, or a registration that was new when it came.
ALTER TABLE cluster ADD COLUMN last_sign_at INTEGER;
-- Silent for so long that its workers are parked.
ALTER TABLE cluster ADD COLUMN died_at INTEGER;
UPDATE cluster SET registry_at = coalesce(deleted_at, iif(is_registered, created_at, NULL)),
    last_sign_at = last_beat_at;

CREATE INDEX cluster_present ON cluster (id) WHERE deleted_at IS NULL;
CREATE INDEX cluster_removed ON cluster (registry_at) WHERE deleted_at IS NOT NULL;

-- The role of the worker that it is of; empty where it is of none.
ALTER TABLE incident ADD COLUMN worker TEXT NOT NULL DEFAULT '';
DROP INDEX incident_open;
CREATE UNIQUE INDEX incident_open
    ON incident (kind, ifnull(cluster, 0), ifnull(machine, 0), agent, worker) WHERE closed_at IS NULL;

-- Containers that somebody else made and that are kept as they are, whose worker each is, and the
-- template's hash at that moment: when it changes, they are replaced.
CREATE TABLE adopted (
    container TEXT PRIMARY KEY,
    cluster_id TEXT NOT NULL,
    role TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What was done to clusters and workers, and by whom.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    cluster_id TEXT NOT NULL,
    action TEXT NOT NULL,
    -- JSON.
    details TEXT NOT NULL
) STRICT;

CREATE INDEX audit_at ON audit (at);

-- Which of the stations that share this file acts. It counts its renewals.
CREATE TABLE lease (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    holder TEXT NOT NULL,
    renewals INTEGER NOT NULL
) STRICT;

-- The last word that was said here about each cluster and that Kafka's registry does not have yet.
CREATE TABLE registry_outbox (
    cluster_id TEXT PRIMARY KEY,
    -- The cluster's registry_at at that moment.
    at INTEGER NOT NULL,
    -- JSON; null is a tombstone.
    value TEXT
) STRICT, WITHOUT ROWID;

-- Records of Kafka's registry whose time was ahead of our clock, and when they were read first:
-- they are never later than that.
CREATE TABLE registry_ahead (
    partition INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    -- The record's time.
    at INTEGER NOT NULL,
    read_at INTEGER NOT NULL,
    PRIMARY KEY (partition, "offset", at)
) STRICT, WITHOUT ROWID;

CREATE INDEX registry_ahead_read ON registry_ahead (read_at);

-- The consumer groups of the workers of removed clusters, until Kafka has deleted them.
CREATE TABLE consumer_group (
    name TEXT PRIMARY KEY,
    cluster_id TEXT NOT NULL,
    removed_at INTEGER NOT NULL,
    tried_at INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX consumer_group_cluster ON consumer_group (cluster_id);
