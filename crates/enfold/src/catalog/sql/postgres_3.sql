-- What is known of a root key besides its URI, for people: nothing here is believed, and nothing is called by it.
ALTER TABLE enfold.root_keys
    -- Ids that it had, 16 bytes each: envelopes that carry their own data key may name them.
    ADD COLUMN other_ids     bytea,
    ADD COLUMN alias         text,
    -- The key itself, as the service names it: an ARN, a version, a path.
    ADD COLUMN resolved      text,
    ADD COLUMN service_state text,
    ADD COLUMN version       bigint,
    ADD COLUMN description   text,
    ADD COLUMN created_ms    bigint,
    ADD COLUMN described_ms  bigint,
    ADD COLUMN rotated_ms    bigint;
-- Not of those that are there: when they came is not known.
ALTER TABLE enfold.root_keys ALTER COLUMN created_ms SET DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- For people who look with psql: one row a key. A root key is rotated in its service, a data key by its next version.
CREATE VIEW enfold.encryption_keys AS
SELECT 'root' AS kind, encode(r.id, 'hex') AS key_id, NULL::text AS ring, NULL::text AS purpose, NULL::text AS scope,
       r.version, r.service_state AS status, r.uri AS root_uri, r.alias AS root_alias, r.resolved AS root_arn,
       to_timestamp(r.created_ms / 1000.0) AS created_at, to_timestamp(r.rotated_ms / 1000.0) AS rotated_at,
       (SELECT count(*) FROM enfold.data_key_wraps w WHERE w.root = r.uri) AS wraps
FROM enfold.root_keys r
UNION ALL
SELECT 'data', encode(k.id, 'hex'), k.ring, k.purpose, k.scope, k.version, k.status,
       w.uris, w.aliases, w.arns, to_timestamp(k.created_ms / 1000.0),
       to_timestamp((SELECT n.created_ms FROM enfold.data_keys n WHERE n.ring = k.ring AND n.purpose = k.purpose
                         AND n.scope = k.scope AND n.version = k.version + 1) / 1000.0),
       w.wraps
FROM enfold.data_keys k
CROSS JOIN LATERAL (
    SELECT count(*) AS wraps, string_agg(w.root, ', ' ORDER BY w.root) AS uris,
           string_agg(r.alias, ', ' ORDER BY w.root) AS aliases, string_agg(r.resolved, ', ' ORDER BY w.root) AS arns
    FROM enfold.data_key_wraps w LEFT JOIN enfold.root_keys r ON r.uri = w.root
    WHERE w.ring = k.ring AND w.key_id = k.id
) w;
