-- By which state of a ring each running process goes, and until when that can be (milliseconds since 1970): what a process
-- says of itself, for whoever wants to know that all of them have seen a state.
CREATE TABLE enfold_acknowledgements (
    ring           TEXT NOT NULL,
    process        TEXT NOT NULL,
    application    TEXT,
    epoch          INTEGER NOT NULL,
    holds_until_ms INTEGER NOT NULL,
    PRIMARY KEY (ring, process)
) WITHOUT ROWID;
