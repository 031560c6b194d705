-- Certificates of destructions, as they were signed: one for each ring and tenant, or ring.
CREATE TABLE enfold.certificates (
    ring        text NOT NULL,
    subject     text NOT NULL,
    certificate text NOT NULL,
    PRIMARY KEY (ring, subject)
);
