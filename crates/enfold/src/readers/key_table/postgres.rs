//! The table of keys in Postgres.

use std::collections::HashMap;

use tokio_postgres::types::Type;
use zeroize::Zeroizing;

use super::{Row, columns};
use crate::db::postgres::{Endpoint, Link, failure};
use crate::policy::{DatabaseUrl, KeyTablePolicy};
use crate::{Code, Error, Result};

const DOING: &str = "cannot read the table of keys";

/// One connection, used by one call at a time: the table is read on misses only.
pub(super) struct Source(Link);

impl Source {
    pub(super) fn new(url: &DatabaseUrl) -> Result<Self> {
        Ok(Self(Link::new(Endpoint::parse(url)?)))
    }

    pub(super) async fn read(&self, policy: &KeyTablePolicy, wanted: &[String]) -> Result<Vec<(String, Row)>> {
        let table = match policy.table.split_once('.') {
            Some((schema, table)) => format!("{}.{}", quoted(schema), quoted(table)),
            None => quoted(&policy.table),
        };
        self.0
            .with(DOING, async |client| {
                let types = types(client, &table, policy).await?;
                let sql = select(&table, policy, &types)?;
                let wanted: Vec<&String> = wanted.iter().filter(|text| may_be(&types[by(policy)], text)).collect();
                let rows = client.query_typed(&sql, &[(&wanted, Type::TEXT_ARRAY)]).await;
                let rows = rows.map_err(|error| failure(DOING, &error))?;
                let secret = |bytes: Option<Vec<u8>>| bytes.map(Zeroizing::new);
                let row = |row: &tokio_postgres::Row| {
                    let found = Row {
                        version: row.get(1),
                        root: row.get(2),
                        data_key: secret(row.get(3)),
                        key: secret(row.get(4)),
                    };
                    (row.get(0), found)
                };
                Ok(rows.iter().map(row).collect())
            })
            .await
    }
}

/// The types of its columns, under their domains.
async fn types(
    client: &tokio_postgres::Client,
    table: &str,
    policy: &KeyTablePolicy,
) -> Result<HashMap<String, String>> {
    let sql = "SELECT a.attname::text, coalesce(b.typname, t.typname)::text FROM pg_catalog.pg_attribute a \
               JOIN pg_catalog.pg_type t ON t.oid = a.atttypid LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype \
               WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = client.query_typed(sql, &[(&table, Type::TEXT)]).await.map_err(|error| failure(DOING, &error))?;
    let types: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    match columns(policy).into_iter().flatten().find(|name| !types.contains_key(*name)) {
        None => Ok(types),
        Some(name) => Err(Error::new(Code::TableMissing, DOING)
            .cause(format!("there is no column `{name}` in `{}`", policy.table))
            .hint("correct `key_table` of the reader in the policy")),
    }
}

fn select(table: &str, policy: &KeyTablePolicy, types: &HashMap<String, String>) -> Result<String> {
    let text = |name: &&String| format!("{}::text", quoted(name));
    let bytes = |name: &&String| match types[*name].as_str() {
        "bytea" => quoted(name),
        _ => format!("pg_catalog.convert_to({}::text, 'UTF8')", quoted(name)),
    };
    let [found_by, version, root, data_key, key] = columns(policy);
    let or_null = |read: Option<String>, none: &str| read.unwrap_or_else(|| format!("NULL::{none}"));
    let list = [
        or_null(found_by.as_ref().map(text), "text"),
        or_null(version.as_ref().map(text), "text"),
        or_null(root.as_ref().map(text), "text"),
        or_null(data_key.as_ref().map(bytes), "bytea"),
        or_null(key.as_ref().map(bytes), "bytea"),
    ];
    let name = by(policy);
    let kind = &types[name];
    if !["int2", "int4", "int8", "uuid", "text", "varchar", "bpchar", "citext"].contains(&kind.as_str()) {
        return Err(Error::new(Code::TypeRefused, DOING)
            .cause(format!("`{}.{name}` is of type `{kind}`", policy.table))
            .hint("rows are found by text, a whole number or a uuid"));
    }
    // citext belongs to an extension, whose schema is not known here.
    let kind = if kind == "citext" { "text" } else { kind };
    Ok(format!(
        "SELECT {} FROM {table} WHERE {} = ANY ($1::pg_catalog.text[]::pg_catalog.{kind}[])",
        list.join(", "),
        quoted(name)
    ))
}

/// Whether a text can be one of the type: one that cannot would be an error of all.
fn may_be(kind: &str, text: &str) -> bool {
    match kind {
        "int2" => text.parse::<i16>().is_ok(),
        "int4" => text.parse::<i32>().is_ok(),
        "int8" => text.parse::<i64>().is_ok(),
        "uuid" => text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'),
        _ => !text.contains('\0'),
    }
}

fn by(policy: &KeyTablePolicy) -> &String {
    let [found_by, ..] = columns(policy);
    found_by.unwrap_or(&policy.table)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
