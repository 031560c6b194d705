//! What each of Enfold's duties needs in a database: the one list, from which the administrator's statements are printed
//! ([`super::roles`]) and by which the present role is examined (`enfold doctor`).

use std::collections::{BTreeMap, BTreeSet};

use enfold::Result;
use enfold::policy::{ColumnPolicy, DatabaseUrl, Document, Policy, Scheme, TablePolicy};

use super::ask::{Ask, p};
use super::inspect::table_name;
use super::{Limits, Postgres, Purpose, ident, qualified};
use crate::model::TableName;

/// What a role may be there for. One role may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Seals and opens.
    Application,
    /// Runs jobs and signs modes.
    Worker,
    /// Reads.
    Audit,
    /// Owns schema `enfold` and what is in it.
    Owner,
}

impl Duty {
    pub const ALL: [Self; 4] = [Self::Application, Self::Worker, Self::Audit, Self::Owner];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Worker => "worker",
            Self::Audit => "audit",
            Self::Owner => "owner of schema enfold",
        }
    }
}

/// How the present role stands to a duty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has every right.
    Complete,
    /// It has some of what sets the duty apart, or is complete for no duty at all.
    Lacks(Vec<Lack>),
    /// It is complete for another duty and has nothing of what sets this one apart.
    Without(Vec<Lack>),
}

/// A right that is missing, and the statement that gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub says: String,
    pub grant: String,
}

impl Lack {
    fn of_what_is_gone(object: &str) -> Self {
        let grant = "have a database administrator run what `enfold init --print-sql` prints".to_owned();
        Self { says: format!("{object}, which is not there"), grant }
    }
}

/// The standing of the role that the policy's URLs log in as, for every duty.
pub async fn examine(policy: &Policy) -> Result<Vec<(Duty, Standing)>> {
    let mut needs = jobs();
    needs.extend(policy.tables.values().flat_map(protected));
    needs.extend(pruned_tables(policy).into_iter().flat_map(pruned));
    needs.extend(keys_of_others(policy).into_values().flatten());
    let together = policy.catalog == policy.database;
    if together {
        needs.extend(catalog());
    }
    let mut items = look(&policy.database, needs).await?;
    if !together && policy.catalog.scheme() == Scheme::Postgres {
        items.extend(look(&policy.catalog, catalog()).await?);
    }
    Ok(standings(&items))
}

/// Privileges on an object, and who needs them.
pub(super) struct Need {
    pub(super) duties: &'static [Duty],
    pub(super) privileges: &'static [&'static str],
    pub(super) object: Object,
}

pub(super) enum Object {
    Schema(String),
    /// Tables of schema `enfold`.
    Own(&'static [&'static str]),
    /// Columns of one of them.
    OwnColumns(&'static str, &'static [&'static str]),
    /// A table of the policy, with its partitions: jobs work on them by their own names, for which rights on the table
    /// above are not enough.
    Protected(TableName),
    /// Every row of such a table, whatever row-level security says.
    EveryRow(TableName),
    Database,
    /// To see what other sessions do, how far replicas are, and what the server's logs and statistics hold.
    Monitor,
    /// Schema `enfold` and every table in it.
    Ownership,
}

const LOOKS: &[Duty] = &[Duty::Worker, Duty::Audit];
const WORKS: &[Duty] = &[Duty::Worker];
const USES_KEYS: &[Duty] = &[Duty::Worker, Duty::Application];
const EVERYBODY: &[Duty] = &[Duty::Worker, Duty::Application, Duty::Audit];

pub(super) fn jobs() -> Vec<Need> {
    const ALL: &[&str] = &[
        "job_schema",
        "jobs",
        "job_chunks",
        "job_errors",
        "job_workers",
        "dropped_indexes",
        "column_notes",
        "column_counts",
        "disablings",
        "refused_keys",
        "encryption_rotation_jobs",
        "coverage",
    ];
    const WRITTEN: &[&str] = &[
        "jobs",
        "job_chunks",
        "job_errors",
        "job_workers",
        "dropped_indexes",
        "column_notes",
        "column_counts",
        "disablings",
        "refused_keys",
    ];
    vec![
        Need { duties: &[Duty::Owner], privileges: &["OWNER"], object: Object::Ownership },
        Need { duties: WORKS, privileges: &["MEMBER"], object: Object::Monitor },
        Need { duties: LOOKS, privileges: &["USAGE"], object: Object::Schema("enfold".to_owned()) },
        Need { duties: LOOKS, privileges: &["SELECT"], object: Object::Own(ALL) },
        Need { duties: WORKS, privileges: &["INSERT", "UPDATE", "DELETE"], object: Object::Own(WRITTEN) },
        Need { duties: WORKS, privileges: &["TEMPORARY"], object: Object::Database },
    ]
}

/// An application makes data keys and says that it is there; modes and the state of keys are for whoever holds the
/// operators' key.
pub(super) fn catalog() -> Vec<Need> {
    const ALL: &[&str] = &[
        "migrations",
        "root_keys",
        "data_keys",
        "data_key_wraps",
        "ring_states",
        "applications",
        "acknowledgements",
        "access_list",
        "events",
        "log_checkpoints",
    ];
    // For people: a program reads none of them.
    const VIEWS: &[&str] = &["encryption_keys"];
    const CHANGED: &[&str] = &["status", "mac", "customer_root", "customer_wrapped", "customer_sealed"];
    const MADE: &[&str] = &["root_keys", "data_keys", "data_key_wraps", "events"];
    vec![
        Need { duties: EVERYBODY, privileges: &["USAGE"], object: Object::Schema("enfold".to_owned()) },
        Need { duties: EVERYBODY, privileges: &["SELECT"], object: Object::Own(ALL) },
        Need { duties: LOOKS, privileges: &["SELECT"], object: Object::Own(VIEWS) },
        Need { duties: USES_KEYS, privileges: &["INSERT"], object: Object::Own(MADE) },
        Need {
            duties: USES_KEYS,
            privileges: &["INSERT", "UPDATE"],
            object: Object::Own(&["applications", "acknowledgements"]),
        },
        Need { duties: LOOKS, privileges: &["SELECT"], object: Object::Own(&["certificates"]) },
        Need { duties: WORKS, privileges: &["INSERT"], object: Object::Own(&["certificates"]) },
        Need { duties: WORKS, privileges: &["INSERT"], object: Object::Own(&["log_checkpoints"]) },
        // What processes said that are long gone.
        Need { duties: WORKS, privileges: &["DELETE"], object: Object::Own(&["acknowledgements"]) },
        Need { duties: WORKS, privileges: &["INSERT", "UPDATE"], object: Object::Own(&["ring_states", "access_list"]) },
        // Requests to the service that change something.
        Need {
            duties: WORKS,
            privileges: &["SELECT", "INSERT", "UPDATE", "DELETE"],
            object: Object::Own(&["named_requests"]),
        },
        // Access in emergencies.
        Need { duties: WORKS, privileges: &["SELECT", "INSERT", "UPDATE"], object: Object::Own(&["emergencies"]) },
        Need { duties: WORKS, privileges: &["UPDATE"], object: Object::OwnColumns("data_keys", CHANGED) },
        // What is known of a root key, and its former id where its record was deleted.
        Need { duties: WORKS, privileges: &["UPDATE"], object: Object::Own(&["root_keys"]) },
        Need { duties: WORKS, privileges: &["DELETE"], object: Object::Own(&["data_key_wraps"]) },
    ]
}

pub(super) fn protected(policy: &TablePolicy) -> Vec<Need> {
    let table = table_name(&policy.name);
    let usage = |schema: String| Need { duties: LOOKS, privileges: &["USAGE"], object: Object::Schema(schema) };
    // Functions of Apache AGE are there.
    let is_graph = |column: &ColumnPolicy| column.member.as_ref().is_some_and(|m| m.document == Document::Graph);
    let graph = policy.columns.values().any(is_graph).then(|| usage("ag_catalog".to_owned()));
    let mut needs = vec![
        usage(table.schema.clone()),
        Need { duties: WORKS, privileges: &["SELECT", "UPDATE"], object: Object::Protected(table.clone()) },
        Need { duties: &[Duty::Audit], privileges: &["SELECT"], object: Object::Protected(table.clone()) },
        Need { duties: LOOKS, privileges: &["BYPASSRLS"], object: Object::EveryRow(table) },
    ];
    needs.extend(graph);
    needs
}

/// Tables of which the policy's rules delete rows.
pub(super) fn pruned_tables(policy: &Policy) -> BTreeSet<&str> {
    policy.prune.values().map(|rule| rule.table.as_str()).collect()
}

pub(super) fn pruned(table: &str) -> Vec<Need> {
    let table = table_name(table);
    vec![
        Need { duties: WORKS, privileges: &["USAGE"], object: Object::Schema(table.schema.clone()) },
        // A row is locked before it goes, for which Postgres wants UPDATE.
        Need { duties: WORKS, privileges: &["SELECT", "UPDATE", "DELETE"], object: Object::Protected(table.clone()) },
        Need { duties: WORKS, privileges: &["BYPASSRLS"], object: Object::EveryRow(table) },
    ]
}

/// Tables that say by which keys other products' values open, by name: whoever opens these reads them.
pub(super) fn keys_of_others(policy: &Policy) -> BTreeMap<String, Vec<Need>> {
    let tables = policy.readers.values().filter_map(|reader| reader.table.as_ref());
    let needs = |name: &String| {
        let table = table_name(name);
        vec![
            Need { duties: USES_KEYS, privileges: &["USAGE"], object: Object::Schema(table.schema.clone()) },
            Need { duties: USES_KEYS, privileges: &["SELECT"], object: Object::Protected(table) },
        ]
    };
    tables.map(|table| (table.table.clone(), needs(&table.table))).collect()
}

/// The statement that gives a role a privilege on something named in full, as it is printed everywhere.
pub(super) fn grant(privileges: &str, on: &str, to: &str) -> String {
    format!("GRANT {privileges} ON {on} TO {to}")
}

/// A need, as the present role has it.
struct Item {
    duties: &'static [Duty],
    lacks: Vec<Lack>,
    /// It has a right, on something that is Enfold's own: applications and readers have rights on the rest anyway.
    tells: bool,
}

fn standings(items: &[Item]) -> Vec<(Duty, Standing)> {
    let of = |duty: Duty| items.iter().filter(move |item| item.duties.contains(&duty));
    let complete: Vec<Duty> =
        Duty::ALL.into_iter().filter(|duty| of(*duty).all(|item| item.lacks.is_empty())).collect();
    let standing = |duty: Duty| {
        if complete.contains(&duty) {
            return Standing::Complete;
        }
        let mut lacks: Vec<Lack> = Vec::new();
        for lack in of(duty).flat_map(|item| &item.lacks) {
            if !lacks.contains(lack) {
                lacks.push(lack.clone());
            }
        }
        let mut apart = of(duty).filter(|item| !item.duties.iter().any(|other| complete.contains(other)));
        match complete.is_empty() || apart.any(|item| item.tells) {
            true => Standing::Lacks(lacks),
            false => Standing::Without(lacks),
        }
    };
    Duty::ALL.into_iter().map(|duty| (duty, standing(duty))).collect()
}

async fn look(url: &DatabaseUrl, needs: Vec<Need>) -> Result<Vec<Item>> {
    let db = Postgres::open(url, Limits::default())?;
    let tx = db.begin(Purpose::Own).await?;
    let ask = Ask::new(&tx, db.doing("look up this role's rights in"));
    ask.set("SET LOCAL search_path = pg_catalog").await?;
    let row = ask
        .one(
            "SELECT current_user::text, CASE WHEN to_regnamespace('enfold') IS NULL \
                    THEN has_database_privilege(current_database(), 'CREATE') \
                    ELSE has_schema_privilege(to_regnamespace('enfold'), 'CREATE') END",
            &[],
        )
        .await?;
    let present = Present { ask: &ask, role: ident(row.get(0)), may_make: row.get(1) };
    let mut items = Vec::with_capacity(needs.len());
    for need in needs {
        items.push(present.item(need).await?);
    }
    tx.rollback().await?;
    Ok(items)
}

/// The role that is logged in.
struct Present<'a> {
    ask: &'a Ask<'a>,
    /// Quoted.
    role: String,
    /// What is not there in schema `enfold` yet, it makes when it is first needed.
    may_make: bool,
}

/// Of each object whether it is there, and of each privilege on it whether the role has it.
const OWN: &str = "SELECT format('enfold.%I', t.name), p.name, c.oid IS NOT NULL, coalesce(has_table_privilege(c.oid, p.name), false) \
     FROM unnest($1) t (name) CROSS JOIN unnest($2) p (name) \
     LEFT JOIN pg_class c ON c.relname = t.name AND c.relnamespace = to_regnamespace('enfold')";
const OWN_COLUMNS: &str = "SELECT format('enfold.%I', t.name), format('%s (%I)', p.name, a.name), at.attnum IS NOT NULL, \
            coalesce(has_column_privilege(c.oid, at.attnum, p.name), false) \
     FROM unnest($1) t (name) CROSS JOIN unnest($2) p (name) CROSS JOIN unnest($3) a (name) \
     LEFT JOIN pg_class c ON c.relname = t.name AND c.relnamespace = to_regnamespace('enfold') \
     LEFT JOIN pg_attribute at ON at.attrelid = c.oid AND at.attname = a.name AND NOT at.attisdropped";
const SCHEMAS: &str = "SELECT format('SCHEMA %I', t.name), p.name, n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, p.name), false) \
     FROM unnest($1) t (name) CROSS JOIN unnest($2) p (name) LEFT JOIN pg_namespace n ON n.nspname = t.name";
const PROTECTED: &str = "SELECT format('%I.%I', n.nspname, c.relname), p.name, true, has_table_privilege(c.oid, p.name) \
     FROM unnest($2) p (name) CROSS JOIN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1[1] AND c.relname = $1[2]) t \
     CROSS JOIN LATERAL (SELECT t.oid UNION SELECT relid FROM pg_partition_tree(t.oid)) l (oid) \
     JOIN pg_class c ON c.oid = l.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1";
const DATABASE: &str = "SELECT format('DATABASE %I', current_database()), p.name, true, has_database_privilege(current_database(), p.name) \
     FROM unnest($1) p (name)";

impl Present<'_> {
    async fn item(&self, need: Need) -> Result<Item> {
        let Need { duties, privileges, object } = need;
        let own = matches!(object, Object::Own(_) | Object::OwnColumns(..) | Object::Ownership);
        let privileges = texts(privileges);
        let (held, lacks) = match object {
            Object::Schema(name) => self.privileges(SCHEMAS, &[vec![name], privileges]).await?,
            Object::Own(tables) => self.privileges(OWN, &[texts(tables), privileges]).await?,
            Object::OwnColumns(table, columns) => {
                self.privileges(OWN_COLUMNS, &[texts(&[table]), privileges, texts(columns)]).await?
            }
            Object::Protected(table) => {
                self.privileges(PROTECTED, &[vec![table.schema, table.table], privileges]).await?
            }
            Object::Database => self.privileges(DATABASE, &[privileges]).await?,
            Object::EveryRow(table) => self.every_row(&table).await?,
            Object::Monitor => self.monitor().await?,
            Object::Ownership => self.ownership().await?,
        };
        // What it would make itself tells nothing of what the role is for.
        Ok(Item { duties, lacks, tells: own && held })
    }

    /// Whether it has any of the privileges, and those that it lacks.
    async fn privileges(&self, sql: &str, params: &[Vec<String>]) -> Result<(bool, Vec<Lack>)> {
        let params: Vec<_> = params.iter().map(p).collect();
        let mut held = false;
        let (mut lacking, mut gone) = (BTreeMap::<String, Vec<String>>::new(), Vec::new());
        for row in self.ask.rows(sql, &params).await? {
            let (object, privilege, there, has): (String, String, bool, bool) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            held |= has;
            match (there, has) {
                (true, false) => lacking.entry(object).or_default().push(privilege),
                (false, _) if !self.may_make && !gone.contains(&object) => gone.push(object),
                _ => {}
            }
        }
        // Objects of which the same is lacking are one statement.
        let mut statements = BTreeMap::<String, Vec<String>>::new();
        for (object, privileges) in lacking {
            statements.entry(privileges.join(", ")).or_default().push(object);
        }
        let lacks = statements.into_iter().map(|(privileges, objects)| {
            let on = objects.join(", ");
            Lack { says: format!("{privileges} on {on}"), grant: grant(&privileges, &on, &self.role) }
        });
        let gone = gone.into_iter().map(|object| Lack::of_what_is_gone(&object));
        Ok((held, lacks.chain(gone).collect()))
    }

    async fn every_row(&self, table: &TableName) -> Result<(bool, Vec<Lack>)> {
        let sql = "SELECT row_security_active(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relname = $2";
        let rows = self.ask.rows(sql, &[p(&table.schema), p(&table.table)]).await?;
        let hides = rows.first().is_some_and(|row| row.get(0));
        let lack = Lack {
            says: format!("every row of {}, where row-level security is on", qualified(table)),
            grant: format!("ALTER ROLE {} BYPASSRLS", self.role),
        };
        Ok((!hides, if hides { vec![lack] } else { Vec::new() }))
    }

    async fn monitor(&self) -> Result<(bool, Vec<Lack>)> {
        let has = self.ask.one("SELECT pg_has_role(current_user, 'pg_monitor', 'USAGE')", &[]).await?.get(0);
        let lack =
            Lack { says: "membership in pg_monitor".to_owned(), grant: format!("GRANT pg_monitor TO {}", self.role) };
        Ok((has, if has { Vec::new() } else { vec![lack] }))
    }

    async fn ownership(&self) -> Result<(bool, Vec<Lack>)> {
        let sql = "SELECT pg_get_userbyid(o.owner)::text, pg_has_role(o.owner, 'USAGE') FROM ( \
                     SELECT nspowner FROM pg_namespace WHERE nspname = 'enfold' \
                     UNION SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace('enfold') AND relkind IN ('r', 'v')) o (owner) \
                   ORDER BY 1";
        let rows = self.ask.rows(sql, &[]).await?;
        if rows.is_empty() && !self.may_make {
            return Ok((false, vec![Lack::of_what_is_gone("schema enfold")]));
        }
        let held = rows.iter().any(|row| row.get(1));
        let lacks = rows.iter().filter(|row| !row.get::<_, bool>(1)).map(|row| {
            let owner: String = row.get(0);
            Lack {
                says: format!("what {} owns in schema enfold", ident(&owner)),
                grant: format!("GRANT {} TO {}", ident(&owner), self.role),
            }
        });
        Ok((held, lacks.collect()))
    }
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
