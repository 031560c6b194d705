-- Who is let in by the service with a key of its own: one document, signed by the operators, and replaced as a whole.
CREATE TABLE enfold_access_list (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    epoch     INTEGER NOT NULL,
    document  BLOB NOT NULL,
    signature BLOB NOT NULL
);
