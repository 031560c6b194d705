//! The SQL by which a database administrator makes Enfold's roles, its tables and the rights of each role.
//!
//! The roles are groups that nobody logs in with; the administrator makes the roles that do, and their passwords, and
//! puts them in. Everything may be run again: after a change of the policy, or for a newer Enfold.

use enfold::catalog::PostgresCatalog;
use enfold::policy::{Policy, Scheme};
use enfold::{Code, Error, Result};

use super::inspect::table_name;
use super::store::schema;
use super::{ident, literal, qualified};

/// Postgres cuts names at 63 bytes; the longest ending is `_worker`.
const LONGEST_PREFIX: usize = 63 - "_worker".len();

/// The groups, by what they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleNames {
    /// Owns schema `enfold` and what is in it.
    pub owner: String,
    /// Runs jobs and signs modes: it has the operators' key.
    pub worker: String,
    /// Seals and opens.
    pub app: String,
    /// Reads.
    pub audit: String,
}

impl RoleNames {
    pub fn new(prefix: &str) -> Result<Self> {
        if prefix.is_empty() || prefix.len() > LONGEST_PREFIX || prefix.contains('\0') || prefix.starts_with("pg_") {
            return Err(Error::new(Code::Usage, "roles cannot be named so")
                .cause(format!("a prefix has 1 to {LONGEST_PREFIX} bytes and does not begin with `pg_`")));
        }
        let name = |of: &str| format!("{prefix}_{of}");
        Ok(Self { owner: name("owner"), worker: name("worker"), app: name("app"), audit: name("audit") })
    }
}

/// Statements for the databases that the policy names.
pub fn setup(policy: &Policy, names: &RoleNames) -> Result<String> {
    if policy.database.scheme() != Scheme::Postgres {
        return Err(Error::new(Code::Usage, "only Postgres has roles and rights")
            .cause(format!("the policy's database is {}", policy.database.display())));
    }
    let together = policy.catalog == policy.database;
    let mut parts = vec![("roles, once for the server".to_owned(), roles(names))];
    let mut tables = schema::script();
    if together {
        tables.extend(PostgresCatalog::script());
    }
    tables.push(belongs(names));
    parts.push((format!("schema enfold, in {}", policy.database.display()), tables));
    parts.push(("jobs".to_owned(), jobs(names)));
    if together {
        parts.push(("catalog".to_owned(), catalog(names)));
    }
    for table in policy.tables.values() {
        parts.push((format!("protected table {}", one_line(&table.name)), protected(&table.name, names)));
    }
    if !together && policy.catalog.scheme() == Scheme::Postgres {
        let mut tables = PostgresCatalog::script();
        tables.push(belongs(names));
        tables.extend(catalog(names));
        parts.push((format!("catalog, in {}", policy.catalog.display()), tables));
    }
    let mut out = String::new();
    for (says, statements) in parts {
        out.push_str(&format!("-- {says}\n"));
        statements.iter().for_each(|sql| out.push_str(&format!("{sql};\n")));
        out.push('\n');
    }
    out.push_str("-- BYPASSRLS does not come from a group. Where row-level security is on: ALTER ROLE … BYPASSRLS for the role\n");
    out.push_str("-- that the worker logs in as.\n");
    Ok(out)
}

fn roles(names: &RoleNames) -> Vec<String> {
    let make = [&names.owner, &names.worker, &names.app, &names.audit].map(|name| {
        block(&format!(
            "IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {}) THEN CREATE ROLE {} NOLOGIN; END IF;",
            literal(name),
            ident(name)
        ))
    });
    // To see what other sessions do, how far replicas are, and what the server's logs and statistics hold.
    make.into_iter().chain([format!("GRANT pg_monitor TO {}", ident(&names.worker))]).collect()
}

/// Schema `enfold` and every table in it are the owner's.
fn belongs(names: &RoleNames) -> String {
    let owner = literal(&names.owner);
    block(&format!(
        "DECLARE t regclass; BEGIN EXECUTE pg_catalog.format('ALTER SCHEMA enfold OWNER TO %I', {owner}); \
         FOR t IN SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = 'enfold'::regnamespace AND relkind = 'r' LOOP \
         EXECUTE pg_catalog.format('ALTER TABLE %s OWNER TO %I', t, {owner}); END LOOP; END;"
    ))
}

fn jobs(names: &RoleNames) -> Vec<String> {
    let (worker, audit) = (ident(&names.worker), ident(&names.audit));
    let tables = "enfold.jobs, enfold.job_chunks, enfold.job_errors, enfold.dropped_indexes";
    vec![
        format!("GRANT USAGE ON SCHEMA enfold TO {worker}, {audit}"),
        format!("GRANT SELECT ON enfold.job_schema, {tables} TO {worker}, {audit}"),
        format!("GRANT INSERT, UPDATE, DELETE ON {tables} TO {worker}"),
        block(&format!(
            "EXECUTE pg_catalog.format('GRANT TEMPORARY ON DATABASE %I TO %I', pg_catalog.current_database(), {});",
            literal(&names.worker)
        )),
    ]
}

/// An application makes data keys and says that it is there; modes and the state of keys are for whoever holds the
/// operators' key.
fn catalog(names: &RoleNames) -> Vec<String> {
    let (worker, app, audit) = (ident(&names.worker), ident(&names.app), ident(&names.audit));
    let all = "enfold.migrations, enfold.root_keys, enfold.data_keys, enfold.data_key_wraps, enfold.ring_states, \
               enfold.applications, enfold.events";
    vec![
        format!("GRANT USAGE ON SCHEMA enfold TO {worker}, {app}, {audit}"),
        format!("GRANT SELECT ON {all} TO {worker}, {app}, {audit}"),
        format!(
            "GRANT INSERT ON enfold.root_keys, enfold.data_keys, enfold.data_key_wraps, enfold.events TO {worker}, {app}"
        ),
        format!("GRANT INSERT, UPDATE ON enfold.applications TO {worker}, {app}"),
        format!("GRANT INSERT, UPDATE ON enfold.ring_states TO {worker}"),
        format!("GRANT UPDATE (status, mac) ON enfold.data_keys TO {worker}"),
        format!("GRANT DELETE ON enfold.data_key_wraps TO {worker}"),
    ]
}

/// Jobs work on partitions by their own names, for which rights on the table above are not enough.
fn protected(table: &str, names: &RoleNames) -> Vec<String> {
    let table = table_name(table);
    let (worker, audit) = (ident(&names.worker), ident(&names.audit));
    let name = qualified(&table);
    vec![
        format!("GRANT USAGE ON SCHEMA {} TO {worker}, {audit}", ident(&table.schema)),
        format!("GRANT SELECT, UPDATE ON {name} TO {worker}"),
        format!("GRANT SELECT ON {name} TO {audit}"),
        block(&format!(
            "DECLARE t regclass; BEGIN FOR t IN SELECT relid FROM pg_catalog.pg_partition_tree({}) LOOP \
             EXECUTE pg_catalog.format('GRANT SELECT, UPDATE ON %s TO %I', t, {}); \
             EXECUTE pg_catalog.format('GRANT SELECT ON %s TO %I', t, {}); END LOOP; END;",
            literal(&name),
            literal(&names.worker),
            literal(&names.audit)
        )),
    ]
}

/// A name cannot end the comment that it stands in.
fn one_line(name: &str) -> String {
    name.replace(['\n', '\r'], " ")
}

/// As a quoted string, so that no name in it can end it.
fn block(body: &str) -> String {
    let whole = if body.starts_with("DECLARE") { body.to_owned() } else { format!("BEGIN {body} END;") };
    format!("DO {}", literal(&whole))
}
