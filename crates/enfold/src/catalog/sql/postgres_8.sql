-- Requests to the service that change something, by the name that their caller gave them, so that one that is repeated is done once.
-- What stands here are hashes of who asked what, what it was about to do, and its answer: no value, and no name of a tenant.
CREATE TABLE enfold.named_requests (
    id            bytea PRIMARY KEY CHECK (length(id) = 32),
    content       bytea NOT NULL CHECK (length(content) = 32),
    -- Milliseconds since 1970 by the server's clock: until then whoever began it is at it, and until then it is kept.
    held_until_ms bigint NOT NULL,
    kept_until_ms bigint NOT NULL,
    intent        text,
    answer        text
);
CREATE INDEX named_requests_kept ON enfold.named_requests (kept_until_ms);
