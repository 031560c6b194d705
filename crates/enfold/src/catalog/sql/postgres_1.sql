CREATE TABLE enfold.root_keys (
    id          bytea PRIMARY KEY CHECK (length(id) = 16),
    uri         text NOT NULL UNIQUE
);

CREATE TABLE enfold.data_keys (
    ring        text NOT NULL,
    id          bytea NOT NULL CHECK (length(id) = 16),
    purpose     text NOT NULL,
    scope       text NOT NULL,
    version     bigint NOT NULL CHECK (version > 0),
    status      text NOT NULL,
    created_ms  bigint NOT NULL,
    mac         bytea NOT NULL,
    PRIMARY KEY (ring, id),
    -- Concurrent makers of one version: one of them wins, the others use its key.
    UNIQUE (ring, purpose, scope, version)
);

CREATE TABLE enfold.data_key_wraps (
    ring        text NOT NULL,
    key_id      bytea NOT NULL,
    root        text NOT NULL,
    wrapped     bytea NOT NULL,
    PRIMARY KEY (ring, key_id, root),
    FOREIGN KEY (ring, key_id) REFERENCES enfold.data_keys (ring, id)
);

CREATE TABLE enfold.ring_states (
    ring        text PRIMARY KEY,
    epoch       bigint NOT NULL,
    document    bytea NOT NULL,
    signature   bytea NOT NULL
);

CREATE TABLE enfold.applications (
    name         text NOT NULL,
    instance     text NOT NULL,
    version      text NOT NULL,
    columns      text NOT NULL,
    ready        text NOT NULL,
    last_seen_ms bigint NOT NULL,
    PRIMARY KEY (name, instance)
);

CREATE TABLE enfold.events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms       bigint NOT NULL,
    event       text NOT NULL
);
