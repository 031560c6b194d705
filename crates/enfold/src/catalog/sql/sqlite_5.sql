-- Certificates of destructions, as they were signed: one for each ring and tenant, or ring.
CREATE TABLE enfold_certificates (
    ring        TEXT NOT NULL,
    subject     TEXT NOT NULL,
    certificate TEXT NOT NULL,
    PRIMARY KEY (ring, subject)
) WITHOUT ROWID;
