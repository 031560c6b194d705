//! `plan`: what an apply would do, what it costs, and what stands in its way. It changes nothing, and can be saved.

use std::collections::BTreeSet;

use enfold::policy::{Environment, IndexPolicy, Mode, Policy, TablePolicy};
use enfold::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, estimate};
use super::foreign::{SAMPLE, recognised};
use super::keys::Reader;
use super::run::same;
use super::session::Session;
use super::steps::{Step, Steps, plain_indexes};
use super::targets::{Selection, target};
use crate::database::{Connected, Counts, Dialect, Finding, Growth, TableFacts};
use crate::model::{Census, Goal, JobState, Storage, TableName, Target};
use crate::recognise::Recognised;
use crate::words::Word;

/// The layout of a saved plan; another one is stale.
const VERSION: u32 = 1;

#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    pub selection: Selection,
    /// On Postgres, rewrite each table at the end, so that old row versions leave the files. On SQLite it is always done.
    pub rewrite: bool,
}

/// Everything that was decided, as it was shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    /// RFC 3339.
    pub made: String,
    pub dialect: Dialect,
    /// Of what the policy says of the planned tables.
    pub policy_fingerprint: String,
    pub tables: Vec<TablePlan>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TablePlan {
    /// The policy's name of the table.
    pub name: String,
    pub table: TableName,
    /// See [`TableFacts::fingerprint`].
    pub fingerprint: String,
    pub rows: u64,
    pub bytes: u64,
    pub columns: Vec<ColumnPlan>,
    /// Empty when nothing is to be done, or something refuses.
    pub steps: Vec<Step>,
    pub refusals: Vec<Finding>,
    pub warnings: Vec<Finding>,
    pub readers: Readers,
    pub estimate: Estimate,
    /// What disk and write-ahead log need meanwhile, at most.
    pub growth: Growth,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ColumnPlan {
    pub name: String,
    pub id: String,
    pub class: Option<String>,
    pub sql_type: String,
    pub storage: Option<Storage>,
    /// As signed.
    pub mode: Mode,
    /// As the policy wants it; `kms` is reached by `enforce`.
    pub wanted: Mode,
    pub census: Census,
    /// What its readers of other products' formats make of the values that are no envelopes, in a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readers: Option<Recognised>,
    /// Whether its values are converted.
    pub converts: bool,
}

/// Who reads the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Readers {
    pub ready: Vec<Reader>,
    pub behind: Vec<Reader>,
    /// Connections by application name; those of no registered reader are for a person to look at.
    pub connected: Vec<Connected>,
}

impl Plan {
    /// Whether anything refuses.
    pub fn is_refused(&self) -> bool {
        self.tables.iter().any(|table| !table.refusals.is_empty())
    }

    /// Whether there is anything to do.
    pub fn has_changes(&self) -> bool {
        self.tables.iter().any(|table| !table.steps.is_empty())
    }

    /// Calls to the key service for all tables.
    pub fn kms_calls(&self) -> u64 {
        self.tables.iter().filter(|t| !t.steps.is_empty()).map(|t| t.estimate.kms.keys + t.estimate.kms.values).sum()
    }

    /// Reads a saved plan.
    pub fn from_json(text: &str) -> Result<Self> {
        let stale = || {
            Error::new(Code::PlanStale, "cannot use the saved plan")
                .cause("it was not written by this version of enfold")
                .hint("run `enfold plan` again")
        };
        let plan: Self = serde_json::from_str(text).map_err(|_| stale())?;
        if plan.version == VERSION { Ok(plan) } else { Err(stale()) }
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|_| Error::new(Code::Internal, "cannot write down a plan"))
    }
}

/// Looks at every selected table and says what an apply would do.
pub async fn plan(session: &Session, options: &PlanOptions) -> Result<Plan> {
    let mut tables = Vec::new();
    let readers = session.keys.readers().await?;
    let rewrite = options.rewrite || session.db.dialect() == Dialect::Sqlite;
    for (name, table, columns) in options.selection.of(&session.policy) {
        tables.push(plan_table(session, name, table, &columns, &readers, rewrite).await?);
    }
    Ok(Plan {
        version: VERSION,
        made: jiff::Timestamp::now().to_string(),
        dialect: session.db.dialect(),
        policy_fingerprint: policy_fingerprint(&session.policy, &tables),
        tables,
    })
}

async fn plan_table(
    session: &Session,
    name: &str,
    table: &TablePolicy,
    columns: &[&str],
    readers: &[Reader],
    rewrite: bool,
) -> Result<TablePlan> {
    let facts = session.db.inspect(table, Counts::Taken).await?;
    let names: Vec<String> = columns.iter().map(|column| format!("{name}.{column}")).collect();
    let modes = session.keys.modes(&names).await?;
    let planned = columns.iter().zip(modes).map(|(column, mode)| column_plan(table, &facts, column, mode));
    let planned = planned.collect::<Result<Vec<_>>>()?;
    let refusals = relevant(&facts.refusals, columns);
    let mut warnings = relevant(&facts.warnings, columns);
    warnings.extend(single_roots(&session.policy, table, columns));
    warnings.extend(customers(&session.policy, table, columns));
    let mut plan = TablePlan {
        name: name.to_owned(),
        table: facts.table.clone(),
        fingerprint: facts.fingerprint.clone(),
        rows: facts.rows,
        bytes: facts.bytes,
        columns: planned,
        steps: Vec::new(),
        refusals,
        warnings,
        readers: who_reads(readers, &names, &facts),
        estimate: Estimate::default(),
        growth: facts.growth.clone(),
    };
    if plan.refusals.is_empty() && plan.columns.iter().any(|column| column.wanted > Mode::Legacy) {
        let target = planned_target(name, table, &facts, Mode::Hybrid)?;
        let mut readers = recognised(session.db.as_ref(), &session.policy, table, &target, Some(SAMPLE)).await?;
        plan.columns.iter_mut().for_each(|column| column.readers = readers.remove(&column.name));
        let converts = plan.columns.iter().any(|column| column.converts);
        if !converts && plain_indexes(&facts, &target).next().is_none() && !interrupted(session, &target).await? {
            return Ok(plan);
        }
        let steps = Steps { database: session.db.as_ref(), target: &target, facts: &facts, policy: table };
        plan.steps = steps.protect(rewrite);
        plan.estimate = estimate(session.db.as_ref(), &session.policy, table, &facts, &target).await?;
    }
    Ok(plan)
}

/// Whether an apply converted every value and was stopped before it had verified them, or somebody verified them since and
/// found one that was not in order: its last steps are to do.
async fn interrupted(session: &Session, target: &Target) -> Result<bool> {
    let jobs = session.db.store().jobs().await?;
    let ours = |goal: Goal| jobs.iter().filter(move |job| job.goal == goal && same(&job.target, target));
    let protected = ours(Goal::Protect).filter(|job| job.state != JobState::Cancelled).map(|job| job.id).max();
    let ended = [JobState::Completed, JobState::CompletedWithErrors];
    let verified = ours(Goal::Verify).filter(|job| ended.contains(&job.state)).max_by_key(|job| job.id);
    let in_order = verified.filter(|job| job.state == JobState::Completed).map(|job| job.id);
    Ok(protected.is_some_and(|protected| in_order.is_none_or(|verified| verified < protected)))
}

/// All columns of the table that the policy wants in mode `least` or a stronger one: they are converted in one pass.
pub(super) fn planned_target(name: &str, table: &TablePolicy, facts: &TableFacts, least: Mode) -> Result<Target> {
    let wanted: Vec<&str> =
        table.columns.iter().filter(|(_, c)| c.mode >= least).map(|(name, _)| name.as_str()).collect();
    target(name, table, facts, &wanted)
}

fn column_plan(table: &TablePolicy, facts: &TableFacts, name: &str, mode: Mode) -> Result<ColumnPlan> {
    let missing = || {
        Error::new(Code::TableMissing, format!("the policy names column `{}.{name}`, which is not there", table.name))
            .hint("correct its name in the policy and keep its `id`, or remove it")
    };
    let policy = table.columns.get(name).ok_or_else(missing)?;
    let fact = facts.columns.iter().find(|column| column.name == name).ok_or_else(missing)?;
    let leaks = fact.census.plaintext > 0 || fact.census.lookalikes > 0;
    Ok(ColumnPlan {
        name: name.to_owned(),
        id: policy.id.clone(),
        class: policy.class.clone(),
        sql_type: fact.sql_type.clone(),
        storage: fact.storage,
        mode,
        wanted: policy.mode,
        census: fact.census.clone(),
        readers: None,
        converts: policy.mode > Mode::Legacy && (mode == Mode::Legacy || leaks),
    })
}

/// Findings about the table, or about one of the chosen columns.
fn relevant(findings: &[Finding], columns: &[&str]) -> Vec<Finding> {
    let about = |finding: &&Finding| finding.column.as_deref().is_none_or(|column| columns.contains(&column));
    findings.iter().filter(about).cloned().collect()
}

/// Rings of the columns that hang on one root key. On a developer's machine that is as it should be.
fn single_roots(policy: &Policy, table: &TablePolicy, columns: &[&str]) -> Vec<Finding> {
    if policy.environment != Environment::Production {
        return Vec::new();
    }
    let single =
        rings_of(table, columns).into_iter().filter_map(|name| match policy.rings.get(name)?.roots.as_slice() {
            [only] => {
                Some(Word::SingleRoot.finding(format!("every value of ring `{name}` hangs on the root key `{only}`")))
            }
            _ => None,
        });
    single.collect()
}

fn rings_of<'a>(table: &'a TablePolicy, columns: &[&str]) -> BTreeSet<&'a str> {
    columns.iter().filter_map(|name| table.columns.get(*name)).map(|column| column.ring.as_str()).collect()
}

/// Tenants that hold a root key of their own, and what that does not reach.
fn customers(policy: &Policy, table: &TablePolicy, columns: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in rings_of(table, columns) {
        let Some(ring) = policy.rings.get(name).filter(|ring| !ring.tenants.is_empty()) else { continue };
        for (tenant, held) in &ring.tenants {
            let root = &held.customer_key;
            let says =
                format!("values of tenant `{tenant}` in ring `{name}` need the customer's root key `{root}` as well");
            findings.push(Word::CustomerKey.finding(says));
        }
        let crosses = |index: &str| {
            format!("the index `{index}` crosses tenants, so no customer's root key guards its index key")
        };
        let ours: Vec<_> = table.columns.iter().filter(|(_, column)| column.ring == name).collect();
        for (column, policy) in ours.iter().filter(|(column, _)| columns.contains(&column.as_str())) {
            let crossing = policy.indexes.iter().filter(|(_, index)| index.cross_tenant);
            findings.extend(crossing.map(|(index, _)| Word::IndexCrosses.about(column, crosses(index))));
        }
        let over_ours =
            |index: &IndexPolicy| index.over.iter().any(|over| ours.iter().any(|(column, _)| *column == over));
        let crossing = table.indexes.iter().filter(|(_, index)| index.cross_tenant && over_ours(index));
        findings.extend(crossing.map(|(index, _)| Word::IndexCrosses.finding(crosses(index))));
    }
    findings
}

fn who_reads(readers: &[Reader], columns: &[String], facts: &TableFacts) -> Readers {
    let of_these = readers.iter().filter(|reader| reader.columns.iter().any(|column| columns.contains(column)));
    let (ready, behind) = of_these.cloned().partition(|reader| reader.ready >= Mode::Hybrid);
    Readers { ready, behind, connected: facts.connected.clone() }
}

/// Changes with anything that the policy says of the planned tables and their rings.
fn policy_fingerprint(policy: &Policy, tables: &[TablePlan]) -> String {
    let mut text = String::new();
    for planned in tables {
        let table = policy.tables.get(&planned.name);
        let columns: Vec<&str> = planned.columns.iter().map(|column| column.name.as_str()).collect();
        let rings = table.into_iter().flat_map(|t| t.columns.values()).map(|column| policy.rings.get(&column.ring));
        text.push_str(&format!("{} {columns:?} {table:?} {:?}\n", planned.name, rings.collect::<Vec<_>>()));
        let reads = table.into_iter().flat_map(|t| t.columns.values()).flat_map(|column| &column.reads);
        reads.for_each(|reader| text.push_str(&format!("{reader} {:?}\n", policy.readers.get(reader))));
    }
    // Not against forgery: whoever can change a saved plan can change the policy beside it. FNV-1a, 128 bits.
    let hash = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{hash:032x}")
}

/// Whether the policy still says what it said when the plan was made.
pub(super) fn check_policy(plan: &Plan, policy: &Policy) -> Result<()> {
    if policy_fingerprint(policy, &plan.tables) == plan.policy_fingerprint {
        return Ok(());
    }
    Err(Error::new(Code::PlanStale, "the plan was made for another policy")
        .cause("what enfold.toml says of the planned tables, or of their rings, has changed since")
        .hint("run `enfold plan` again"))
}
