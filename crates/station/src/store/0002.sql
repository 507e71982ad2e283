-- The control plane.

-- When it was registered or removed last, by that word's own time: an older one changes nothing.
ALTER TABLE cluster ADD COLUMN registry_at INTEGER;
-- Its last sign of life: a heartbeat, or a registration that was new when it came.
ALTER TABLE cluster ADD COLUMN last_sign_at INTEGER;
-- Silent for so long that its workers are parked.
ALTER TABLE cluster ADD COLUMN died_at INTEGER;
UPDATE cluster SET registry_at = coalesce(deleted_at, iif(is_registered, created_at, NULL)),
    last_sign_at = last_beat_at;

-- The role of the worker that it is of; empty where it is of none.
ALTER TABLE incident ADD COLUMN worker TEXT NOT NULL DEFAULT '';
DROP INDEX incident_open;
CREATE UNIQUE INDEX incident_open
    ON incident (kind, ifnull(cluster, 0), ifnull(machine, 0), agent, worker) WHERE closed_at IS NULL;

-- Containers that somebody else made and that are kept as they are, and the template's hash at
-- that moment: when it changes, they are replaced.
CREATE TABLE adopted (
    container TEXT PRIMARY KEY,
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
