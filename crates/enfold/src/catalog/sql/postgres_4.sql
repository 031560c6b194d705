-- By which state of a ring each running process goes, and until when that can be (milliseconds since 1970, by the server's
-- clock): what a process says of itself, for whoever wants to know that all of them have seen a state.
CREATE TABLE enfold.acknowledgements (
    ring           text NOT NULL,
    process        text NOT NULL,
    application    text,
    epoch          bigint NOT NULL,
    holds_until_ms bigint NOT NULL,
    PRIMARY KEY (ring, process)
);
