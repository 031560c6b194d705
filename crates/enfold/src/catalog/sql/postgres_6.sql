-- An entry's place in the chain of the process that wrote it. Lines of before have none.
ALTER TABLE enfold.events
    ADD COLUMN writer bytea CHECK (length(writer) = 16),
    ADD COLUMN seq    bigint CHECK (seq > 0);
-- One that comes twice, because an answer was lost, is kept once.
CREATE UNIQUE INDEX events_chain ON enfold.events (writer, seq) WHERE writer IS NOT NULL;
CREATE INDEX events_at ON enfold.events (at_ms);

-- What vouches for the chains, as it was signed.
CREATE TABLE enfold.log_checkpoints (
    number      bigint PRIMARY KEY CHECK (number > 0),
    document    text NOT NULL,
    signature   text NOT NULL
);
