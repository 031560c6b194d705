-- Who is let in by the service with a key of its own: one document, signed by the operators, and replaced as a whole.
CREATE TABLE enfold.access_list (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch     bigint NOT NULL,
    document  bytea NOT NULL,
    signature bytea NOT NULL
);
