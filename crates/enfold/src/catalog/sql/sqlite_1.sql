CREATE TABLE enfold_root_keys (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    uri         TEXT NOT NULL UNIQUE
);

CREATE TABLE enfold_data_keys (
    ring        TEXT NOT NULL,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    purpose     TEXT NOT NULL,
    scope       TEXT NOT NULL,
    version     INTEGER NOT NULL CHECK (version > 0),
    status      TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    mac         BLOB NOT NULL,
    PRIMARY KEY (ring, id),
    -- Concurrent makers of one version: one of them wins, the others use its key.
    UNIQUE (ring, purpose, scope, version)
);

CREATE TABLE enfold_data_key_wraps (
    ring        TEXT NOT NULL,
    key_id      BLOB NOT NULL,
    root        TEXT NOT NULL,
    wrapped     BLOB NOT NULL,
    PRIMARY KEY (ring, key_id, root),
    FOREIGN KEY (ring, key_id) REFERENCES enfold_data_keys (ring, id)
);

CREATE TABLE enfold_ring_states (
    ring        TEXT PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    document    BLOB NOT NULL,
    signature   BLOB NOT NULL
);

CREATE TABLE enfold_applications (
    name         TEXT NOT NULL,
    instance     TEXT NOT NULL,
    version      TEXT NOT NULL,
    columns      TEXT NOT NULL,
    ready        TEXT NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    PRIMARY KEY (name, instance)
);

CREATE TABLE enfold_events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms       INTEGER NOT NULL,
    event       TEXT NOT NULL
);
