-- The layer that a customer's root key guards, where a data key has one: the root key's URI, what it wrapped, and the data
-- key under that and under ours. All of them or none.
ALTER TABLE enfold_data_keys ADD COLUMN customer_root TEXT;
ALTER TABLE enfold_data_keys ADD COLUMN customer_wrapped BLOB;
ALTER TABLE enfold_data_keys ADD COLUMN customer_sealed BLOB;
