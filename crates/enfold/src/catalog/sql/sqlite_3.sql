-- What is known of a root key besides its URI, for people: nothing here is believed, and nothing is called by it.
-- Ids that it had, 16 bytes each: envelopes that carry their own data key may name them.
ALTER TABLE enfold_root_keys ADD COLUMN other_ids BLOB;
ALTER TABLE enfold_root_keys ADD COLUMN alias TEXT;
-- The key itself, as the service names it: an ARN, a version, a path.
ALTER TABLE enfold_root_keys ADD COLUMN resolved TEXT;
ALTER TABLE enfold_root_keys ADD COLUMN service_state TEXT;
ALTER TABLE enfold_root_keys ADD COLUMN version INTEGER;
ALTER TABLE enfold_root_keys ADD COLUMN description TEXT;
ALTER TABLE enfold_root_keys ADD COLUMN created_ms INTEGER;
ALTER TABLE enfold_root_keys ADD COLUMN described_ms INTEGER;
ALTER TABLE enfold_root_keys ADD COLUMN rotated_ms INTEGER;

-- A column that is added later has no such default.
CREATE TRIGGER enfold_root_keys_created AFTER INSERT ON enfold_root_keys WHEN NEW.created_ms IS NULL BEGIN
    UPDATE enfold_root_keys SET created_ms = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) WHERE id = NEW.id;
END;

-- For people who look with sqlite3: one row a key. A root key is rotated in its service, a data key by its next version.
CREATE VIEW enfold_encryption_keys AS
SELECT 'root' AS kind, lower(hex(r.id)) AS key_id, NULL AS ring, NULL AS purpose, NULL AS scope,
       r.version AS version, r.service_state AS status, r.uri AS root_uri, r.alias AS root_alias, r.resolved AS root_arn,
       datetime(r.created_ms / 1000, 'unixepoch') AS created_at, datetime(r.rotated_ms / 1000, 'unixepoch') AS rotated_at,
       (SELECT count(*) FROM enfold_data_key_wraps w WHERE w.root = r.uri) AS wraps
FROM enfold_root_keys r
UNION ALL
SELECT 'data', lower(hex(k.id)), k.ring, k.purpose, k.scope, k.version, k.status,
       (SELECT group_concat(root, ', ') FROM (SELECT w.root FROM enfold_data_key_wraps w
            WHERE w.ring = k.ring AND w.key_id = k.id ORDER BY w.root)),
       (SELECT group_concat(alias, ', ') FROM (SELECT r.alias FROM enfold_data_key_wraps w JOIN enfold_root_keys r ON r.uri = w.root
            WHERE w.ring = k.ring AND w.key_id = k.id ORDER BY w.root)),
       (SELECT group_concat(resolved, ', ') FROM (SELECT r.resolved FROM enfold_data_key_wraps w JOIN enfold_root_keys r ON r.uri = w.root
            WHERE w.ring = k.ring AND w.key_id = k.id ORDER BY w.root)),
       datetime(k.created_ms / 1000, 'unixepoch'),
       (SELECT datetime(n.created_ms / 1000, 'unixepoch') FROM enfold_data_keys n WHERE n.ring = k.ring
            AND n.purpose = k.purpose AND n.scope = k.scope AND n.version = k.version + 1),
       (SELECT count(*) FROM enfold_data_key_wraps w WHERE w.ring = k.ring AND w.key_id = k.id)
FROM enfold_data_keys k;
