-- Access in an emergency: what was asked, approved, used and reviewed. A MAC under a ring's key says that a process with keys wrote it.
CREATE TABLE enfold_emergencies (
    id       TEXT PRIMARY KEY,
    revision INTEGER NOT NULL CHECK (revision > 0),
    -- When it was asked for: milliseconds since 1970.
    at_ms    INTEGER NOT NULL,
    document BLOB NOT NULL,
    mac      BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX enfold_emergencies_newest ON enfold_emergencies (at_ms);
