-- Requests to the service that change something, by the name that their caller gave them, so that one that is repeated is done once.
-- What stands here are hashes of who asked what, what it was about to do, and its answer: no value, and no name of a tenant.
CREATE TABLE enfold_named_requests (
    id            BLOB PRIMARY KEY CHECK (length(id) = 32),
    content       BLOB NOT NULL CHECK (length(content) = 32),
    -- Milliseconds since 1970: until then whoever began it is at it, and until then it is kept.
    held_until_ms INTEGER NOT NULL,
    kept_until_ms INTEGER NOT NULL,
    intent        TEXT,
    answer        TEXT
) WITHOUT ROWID;
CREATE INDEX enfold_named_requests_kept ON enfold_named_requests (kept_until_ms);
