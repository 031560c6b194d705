//! Postgres 14 and later: the database of an application, as jobs and plans use it.
//!
//! Everything runs in short transactions begun by [`Postgres::begin`], whose settings are `SET LOCAL`: nothing is kept
//! in a session, so a pooler in transaction mode may stand between. Statements are sent unprepared for the same reason.
mod ask;
mod census;
mod counts;
mod coverage;
mod database;
mod disabling;
mod form;
mod held;
mod inspect;
mod prune;
mod quote;
mod recognise;
mod residue;
mod rights;
mod roles;
mod session;
mod shape;
mod steps;
mod store;
mod survey;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use enfold::Result;
use enfold::db::postgres::Endpoint;
use enfold::policy::{BackOff, DatabaseUrl, JobPolicy};
use tokio::sync::Semaphore;
use tokio_postgres::Client;

use shape::Shape;
use store::Gauge;

pub use form::{Look, key_ids, key_of};
pub use quote::{ident, literal, qualified};
pub use rights::{Duty, Lack, Standing, examine};
pub use roles::{RoleNames, setup};
use session::OWN;
pub use session::{Param, Purpose, Tx};

/// How long a transaction may wait and run, and how many there may be at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Waiting for any one lock. Below the server's `deadlock_timeout` (1 s by default), so that it is always we who
    /// give way and never the application that is chosen as a deadlock's victim.
    pub lock_timeout: Duration,
    /// One statement that moves rows. Counts and index builds take what they take.
    pub statement_timeout: Duration,
    /// When a job waits.
    pub back_off: BackOff,
    /// For how long a schema step tries to get its lock, in short tries.
    pub schema_patience: Duration,
    /// Connections at once.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_millis(250),
            statement_timeout: Duration::from_secs(30),
            back_off: BackOff::default(),
            schema_patience: Duration::from_secs(120),
            // A worker has a batch that is written and one that is read; there may be sixteen.
            connections: 40,
        }
    }
}

impl From<&JobPolicy> for Limits {
    fn from(policy: &JobPolicy) -> Self {
        Self {
            lock_timeout: policy.lock_timeout,
            statement_timeout: policy.statement_timeout,
            back_off: policy.back_off.clone(),
            ..Self::default()
        }
    }
}

/// A database on a Postgres server. Cheap to share behind an `Arc`; connects when it is first used.
pub struct Postgres {
    endpoint: Endpoint,
    limits: Limits,
    /// Connections without a transaction.
    idle: Arc<Mutex<Vec<Client>>>,
    permits: Arc<Semaphore>,
    /// By table and columns.
    shapes: Mutex<HashMap<String, (Instant, Arc<Shape>)>>,
    gauge: Gauge,
    started: Instant,
}

impl Postgres {
    pub fn open(url: &DatabaseUrl, limits: Limits) -> Result<Self> {
        Ok(Self::at(Endpoint::parse(url)?, limits))
    }

    pub fn at(endpoint: Endpoint, limits: Limits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.connections.max(1)));
        Self {
            endpoint,
            limits,
            idle: Arc::default(),
            permits,
            shapes: Mutex::default(),
            gauge: Gauge::default(),
            started: Instant::now(),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
