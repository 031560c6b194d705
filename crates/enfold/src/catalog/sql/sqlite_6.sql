-- An entry's place in the chain of the process that wrote it. Lines of before have none.
ALTER TABLE enfold_events ADD COLUMN writer BLOB CHECK (length(writer) = 16);
ALTER TABLE enfold_events ADD COLUMN seq INTEGER CHECK (seq > 0);
-- One that comes twice, because an answer was lost, is kept once.
CREATE UNIQUE INDEX enfold_events_chain ON enfold_events (writer, seq) WHERE writer IS NOT NULL;
CREATE INDEX enfold_events_at ON enfold_events (at_ms);

-- What vouches for the chains, as it was signed.
CREATE TABLE enfold_log_checkpoints (
    number      INTEGER PRIMARY KEY CHECK (number > 0),
    document    TEXT NOT NULL,
    signature   TEXT NOT NULL
);
