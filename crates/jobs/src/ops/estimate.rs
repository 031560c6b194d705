//! What a conversion will cost: bytes, calls to the key service, time. Estimates, and called so.

use std::collections::BTreeSet;
use std::time::Duration;

use enfold::policy::{Policy, RecordWrap, Scope, TablePolicy};
use enfold::{Code, Error, Result};
use enfold_core::{Binding, DataKey, KeyId, Opener, Padding, PayloadType, Sealer, sealed_len};
use serde::{Deserialize, Serialize};

use crate::database::{Database, TableFacts};
use crate::model::{Storage, Target, TargetColumn};

/// Rows whose tenants are counted, and that are read to measure how fast that goes.
const SAMPLE: u32 = 2_000;

/// Values sealed and opened to measure how fast that goes.
const VALUES: u32 = 500;

/// A row that is written costs about this many reads: batches over loopback read 1.5 million rows a second and wrote
/// 0.15 million when the project chose its drivers (Postgres 15). Other indexes and disks differ: an estimate.
const WRITE_PER_READ: f64 = 10.0;

/// Calls to the key service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsCalls {
    /// To make data keys, index keys among them; every root key wraps each. Those that are there already count as well.
    pub keys: u64,
    /// To wrap and unwrap the key of every value (scope `record` under `record_wrap = "kms"`).
    pub values: u64,
    /// False where tenants were counted in a sample only: there may be more.
    pub exact: bool,
}

/// Costs of one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub kms: KmsCalls,
    /// What the stored values grow by for good, in bytes.
    pub grows: u64,
    /// Rows a second that this machine read and sealed just now, less what writing them costs as a rule.
    pub rows_per_second: u64,
    /// How long the sweep takes at that rate, or at the policy's if that is lower.
    pub seconds: u64,
}

pub(super) async fn estimate(
    database: &dyn Database,
    policy: &Policy,
    table: &TablePolicy,
    facts: &TableFacts,
    target: &Target,
) -> Result<Estimate> {
    let (tenants, exact) = tenants(database, table, facts).await?;
    let rows_per_second = rows_per_second(database, facts, target).await?.max(1);
    let rate = policy.jobs.rate.map_or(rows_per_second, |limit| u64::from(limit).min(rows_per_second)).max(1);
    let seconds = facts.rows.div_ceil(rate);
    Ok(Estimate {
        kms: kms_calls(policy, table, facts, target, tenants, exact),
        grows: grows(table, facts, target),
        rows_per_second,
        seconds,
    })
}

/// How many tenants there are, and whether that is all of them.
async fn tenants(database: &dyn Database, table: &TablePolicy, facts: &TableFacts) -> Result<(u64, bool)> {
    let Some(tenant) = &table.tenant else { return Ok((1, true)) };
    let sampled = database.sample(&facts.table, std::slice::from_ref(tenant), SAMPLE).await?;
    let distinct: BTreeSet<&str> = sampled.iter().flatten().flatten().map(String::as_str).collect();
    Ok((distinct.len() as u64, facts.rows <= u64::from(SAMPLE)))
}

fn kms_calls(
    policy: &Policy,
    table: &TablePolicy,
    facts: &TableFacts,
    target: &Target,
    tenants: u64,
    tenants_exact: bool,
) -> KmsCalls {
    let mut calls = KmsCalls { exact: true, ..KmsCalls::default() };
    let mut whole_rings = BTreeSet::new();
    let mut tenant_rings = BTreeSet::new();
    for column in &target.columns {
        let Some(ring_name) = table.columns.get(&column.name).map(|c| c.ring.as_str()) else { continue };
        let Some(ring) = policy.rings.get(ring_name) else { continue };
        let roots = ring.roots.len() as u64;
        match ring.scope {
            Scope::Column => calls.keys += roots,
            Scope::Tenant if tenant_rings.insert(ring_name) => {
                calls.keys += roots * tenants;
                calls.exact &= tenants_exact;
            }
            Scope::Ring if whole_rings.insert(ring_name) => calls.keys += roots,
            Scope::Record if ring.record_wrap == RecordWrap::Ring && whole_rings.insert(ring_name) => {
                calls.keys += roots;
            }
            // A call to wrap, and one to open what was sealed before it is written.
            Scope::Record if ring.record_wrap == RecordWrap::Kms => {
                calls.values += 2 * plain_values(facts, &column.name);
            }
            Scope::Tenant | Scope::Ring | Scope::Record => {}
        }
    }
    for index in &target.indexes {
        let first = index.over.first().map(|&at| target.columns[at].name.as_str());
        let ring = first.and_then(|name| table.columns.get(name)).and_then(|c| policy.rings.get(&c.ring));
        let roots = ring.map_or(1, |ring| ring.roots.len() as u64);
        let own = table.columns.values().flat_map(|c| &c.indexes).chain(&table.indexes);
        let crosses = own.into_iter().any(|(name, index_policy)| *name == index.name && index_policy.cross_tenant);
        calls.keys += if crosses { roots } else { roots * tenants };
        calls.exact &= crosses || tenants_exact;
    }
    calls
}

fn plain_values(facts: &TableFacts, column: &str) -> u64 {
    let census = facts.columns.iter().find(|c| c.name == column).map(|c| &c.census);
    // The census may be a sample: scale it to the table.
    census.map_or(0, |c| match c.rows {
        0 => 0,
        rows => (c.plaintext + c.lookalikes) * facts.rows / rows,
    })
}

/// Envelope instead of value, and the blind indexes beside it.
fn grows(table: &TablePolicy, facts: &TableFacts, target: &Target) -> u64 {
    let values: u64 = target
        .columns
        .iter()
        .map(|column| {
            let Some(fact) = facts.columns.iter().find(|c| c.name == column.name) else { return 0 };
            let padding = match table.columns.get(&column.name).and_then(|c| c.padding) {
                Some(block) => Padding::Block(block),
                None => Padding::None,
            };
            let plain = u64::from(fact.average_bytes);
            let sealed = sealed_len(None, padding, fact.average_bytes as usize).map_or(plain, |bytes| bytes as u64);
            let stored = match column.storage {
                Storage::Bytes => sealed,
                // Prefix and unpadded base64; JSON has its quotes as well.
                Storage::Text => 5 + (sealed * 4).div_ceil(3),
                Storage::Json => 7 + (sealed * 4).div_ceil(3),
            };
            stored.saturating_sub(plain) * plain_values(facts, &column.name)
        })
        .sum();
    let indexes: u64 = target.indexes.len() as u64 * facts.rows * 34;
    values + indexes
}

/// Reads a sample and seals and opens as many values of the columns' average length, under a key made for this.
pub(super) async fn rows_per_second(database: &dyn Database, facts: &TableFacts, target: &Target) -> Result<u64> {
    let alone = |name: &str| facts.columns.iter().any(|c| c.name == name && c.shadow.as_ref().is_some_and(|s| s.alone));
    let there =
        |c: &TargetColumn| if c.member.is_some() || alone(&c.name) { c.holder().to_owned() } else { c.name.clone() };
    let names: Vec<String> = target.columns.iter().map(there).collect();
    let began = std::time::Instant::now();
    let read = database.sample(&facts.table, &names, SAMPLE).await?.len();
    let reading = began.elapsed();
    let sealing = seal_and_open(facts, target)?;
    if read == 0 {
        return Ok(1_000);
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand rows")]
    let for_each = reading.as_secs_f64() / read as f64 * (1.0 + WRITE_PER_READ) + sealing.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before")]
    Ok((1.0 / for_each).clamp(1.0, 1e9) as u64)
}

/// The time that one row's values take.
fn seal_and_open(facts: &TableFacts, target: &Target) -> Result<Duration> {
    let internal = |_| Error::new(Code::Internal, "cannot measure how fast values are sealed");
    let key = DataKey::generate().map_err(internal)?;
    let id = KeyId::random().map_err(internal)?;
    let (sealer, opener) = (Sealer::new(&key, id).map_err(internal)?, Opener::new(&key, id));
    let began = std::time::Instant::now();
    for column in &target.columns {
        let len = facts.columns.iter().find(|c| c.name == column.name).map_or(32, |c| c.average_bytes as usize);
        let value = vec![b'x'; len.min(1 << 20)];
        let binding = Binding::new("estimate", &column.id);
        for _ in 0..VALUES {
            let sealed = sealer.seal(&binding, PayloadType::Text, Padding::None, &value).map_err(internal)?;
            let envelope = enfold_core::Envelope::parse(&sealed).map_err(internal)?;
            opener.open(&envelope, &binding).map_err(internal)?;
        }
    }
    Ok(began.elapsed() / VALUES)
}
