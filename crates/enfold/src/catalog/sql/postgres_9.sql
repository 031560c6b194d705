-- Access in an emergency: what was asked, approved, used and reviewed. A MAC under a ring's key says that a process with keys wrote it.
CREATE TABLE enfold.emergencies (
    id       text PRIMARY KEY,
    revision bigint NOT NULL CHECK (revision > 0),
    -- When it was asked for: milliseconds since 1970.
    at_ms    bigint NOT NULL,
    document bytea NOT NULL,
    mac      bytea NOT NULL
);
CREATE INDEX emergencies_newest ON enfold.emergencies (at_ms);
