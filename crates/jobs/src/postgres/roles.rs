//! The SQL by which a database administrator makes Enfold's roles, its tables and the rights of each role.
//!
//! The roles are groups that nobody logs in with; the administrator makes the roles that do, and their passwords, and
//! puts them in. Everything may be run again: after a change of the policy, or for a newer Enfold.

use enfold::catalog::PostgresCatalog;
use enfold::policy::{Policy, Scheme};
use enfold::{Code, Error, Result};

use super::rights::{self, Duty, Need, Object, grant};
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

    fn of(&self, duty: Duty) -> &String {
        match duty {
            Duty::Owner => &self.owner,
            Duty::Worker => &self.worker,
            Duty::Application => &self.app,
            Duty::Audit => &self.audit,
        }
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
    let granted = |needs: Vec<Need>| needs.iter().flat_map(|need| statements(need, names)).collect::<Vec<_>>();
    parts.push(("jobs".to_owned(), granted(rights::jobs())));
    if together {
        parts.push(("catalog".to_owned(), granted(rights::catalog())));
    }
    for table in policy.tables.values() {
        let title = format!("protected table {}", one_line(&table.name));
        parts.push((title, granted(rights::protected(table))));
    }
    for table in rights::pruned_tables(policy) {
        let title = format!("table {}, of which rows are deleted", one_line(table));
        parts.push((title, granted(rights::pruned(table))));
    }
    for (table, needs) in rights::keys_of_others(policy) {
        parts.push((format!("table of keys {}", one_line(&table)), granted(needs)));
    }
    if !together && policy.catalog.scheme() == Scheme::Postgres {
        let mut tables = PostgresCatalog::script();
        tables.push(belongs(names));
        tables.extend(granted(rights::catalog()));
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
    make.to_vec()
}

/// Schema `enfold` and every table and view in it are the owner's.
fn belongs(names: &RoleNames) -> String {
    let owner = literal(&names.owner);
    block(&format!(
        "DECLARE t regclass; BEGIN EXECUTE pg_catalog.format('ALTER SCHEMA enfold OWNER TO %I', {owner}); \
         FOR t IN SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = 'enfold'::regnamespace AND relkind IN ('r', 'v') LOOP \
         EXECUTE pg_catalog.format('ALTER TABLE %s OWNER TO %I', t, {owner}); END LOOP; END;"
    ))
}

/// What a need is for the administrator; nothing where it does not come from a group, or from [`belongs`].
fn statements(need: &Need, names: &RoleNames) -> Vec<String> {
    let groups: Vec<&String> = need.duties.iter().map(|duty| names.of(*duty)).collect();
    let to = groups.iter().map(|group| ident(group)).collect::<Vec<_>>().join(", ");
    let privileges = need.privileges.join(", ");
    match &need.object {
        Object::Schema(schema) => vec![grant(&privileges, &format!("SCHEMA {}", ident(schema)), &to)],
        Object::Own(tables) => {
            let on: Vec<String> = tables.iter().map(|table| format!("enfold.{table}")).collect();
            vec![grant(&privileges, &on.join(", "), &to)]
        }
        Object::OwnColumns(table, columns) => {
            vec![grant(&format!("{privileges} ({})", columns.join(", ")), &format!("enfold.{table}"), &to)]
        }
        Object::Protected(table) => {
            let name = qualified(table);
            let partitions = groups.iter().map(|group| {
                block(&format!(
                    "DECLARE t regclass; BEGIN FOR t IN SELECT relid FROM pg_catalog.pg_partition_tree({}) LOOP \
                     EXECUTE pg_catalog.format('GRANT {privileges} ON %s TO %I', t, {}); END LOOP; END;",
                    literal(&name),
                    literal(group)
                ))
            });
            std::iter::once(grant(&privileges, &name, &to)).chain(partitions).collect()
        }
        Object::Database => {
            let each = groups.iter().map(|group| {
                block(&format!(
                    "EXECUTE pg_catalog.format('GRANT {privileges} ON DATABASE %I TO %I', pg_catalog.current_database(), {});",
                    literal(group)
                ))
            });
            each.collect()
        }
        Object::Monitor => vec![format!("GRANT pg_monitor TO {to}")],
        Object::EveryRow(_) | Object::Ownership => Vec::new(),
    }
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
