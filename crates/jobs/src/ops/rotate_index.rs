//! Rotating a blind index: another key, or other rules, while the application looks rows up and writes them.
//!
//! Both generations live until the cut: writers store both, lookups match either, and each has its own unique index from
//! before it counts. The order is what keeps it so. The database takes apart what writers store before anybody stores both;
//! every process stores and looks for both before a row is filled; every row has both, under a unique index that is
//! complete, before the next generation takes the column's name. Every step is idempotent, so a rotation that was
//! interrupted is run again from the top, and what was done is found done. Whatever a writer stores that is of no generation in
//! force is refused by the database.

use enfold::policy::{IndexPolicy, TablePolicy};
use enfold::state::IndexRules;
use enfold::{CallContext, Code, Enfold, Error, IndexStanding, Result};
use enfold_core::index::GENERATION_LEN;
use serde::{Deserialize, Serialize};

use super::observer::{Observer, StepState};
use super::run::{Pace, Run, is_open};
use super::session::Session;
use super::steps::{locks, row_locks, says_schema};
use super::targets::target;
use crate::codec::Verdict;
use crate::database::{Counts, Dialect, SchemaStep, TableFacts};
use crate::generations::{GenerationChange, IndexPlace, Stored, next_column};
use crate::model::{Goal, Target, TargetIndex};
use crate::store::Cell;

/// Rows by which the rules in force are tried before anything is changed.
const TRIED: u32 = 200;

/// How often rows that somebody left with the present generation alone are filled before the cut is given up for now.
const CUTS: u32 = 5;

const GENERATION_BYTES: u16 = 2;
const _: () = assert!(GENERATION_BYTES as usize == GENERATION_LEN);

/// A blind index with everything that its rotation depends on, as it is now.
pub struct IndexRotation<'s> {
    session: &'s Session,
    enfold: &'s Enfold,
    pub standing: IndexStanding,
    place: IndexPlace,
    index: &'s IndexPolicy,
    tenant: Option<String>,
    facts: TableFacts,
    /// The index's columns, with the next generation as their one index.
    target: Target,
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationStage {
    /// One generation lives.
    Settled,
    /// Two do.
    Begun,
    /// The next one has the column's name, and the former one is still there.
    TakenOver,
}

/// A step of a rotation, as a person is shown it.
#[derive(Clone, Debug, Serialize)]
pub struct RotationStep {
    pub says: String,
    /// What is sent to the database; empty for steps that are not SQL of one statement.
    pub sql: Vec<String>,
    /// What is locked against whom, and for how long.
    pub locks: String,
    #[serde(skip)]
    does: Does,
}

#[derive(Clone, Debug)]
enum Does {
    Schema(SchemaStep),
    /// Has two generations live.
    Begin,
    /// Waits until every process goes by the state that is signed now, or has stopped.
    Wait,
    Fill,
    Cut(SchemaStep),
    /// Has the next generation be the only one.
    TakeOver,
}

/// What a rotation came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRotated {
    /// `table.column.index`.
    pub index: String,
    pub former_generation: u16,
    pub generation: u16,
    /// Rows that the sweep filled; writers filled the others.
    pub rows_filled: u64,
}

impl<'s> IndexRotation<'s> {
    /// Looks at a blind index of the policy, by its owner (`table.column`, or the table if it covers several columns) and its
    /// name.
    pub async fn look(session: &'s Session, enfold: &'s Enfold, owner: &str, name: &str) -> Result<Self> {
        let standing = enfold.index_standing(owner, name).await?;
        let (table_name, table, index) = find(session, owner, name)?;
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        let columns: Vec<&str> = index.over.iter().map(String::as_str).collect();
        let mut target = target(table_name, table, &facts, &columns)?;
        let place = session.db.look_at_index(&target.table, &index.column).await?;
        let over = index.over.iter().filter_map(|name| target.columns.iter().position(|column| column.name == *name));
        target.indexes = vec![TargetIndex {
            name: name.to_owned(),
            column: next_column(&index.column),
            over: over.collect(),
            unique: index.unique,
            generation: None,
        }];
        let tenant = if index.cross_tenant { None } else { table.tenant.clone() };
        let mut rotation = Self { session, enfold, standing, place, index, tenant, facts, target };
        rotation.target.indexes[0].generation = Some(rotation.next().generation);
        Ok(rotation)
    }

    pub fn stage(&self) -> RotationStage {
        match (&self.place, &self.standing.next) {
            (IndexPlace { next: false, former: true, .. }, _) => RotationStage::TakenOver,
            (IndexPlace { next: true, .. }, _) | (_, Some(_)) => RotationStage::Begun,
            _ => RotationStage::Settled,
        }
    }

    /// What [`Self::rotate`] does from here, in order.
    pub fn steps(&self) -> Vec<RotationStep> {
        let (now, next) = (stored(&self.standing.now), self.next());
        let take_over = self.step(Does::TakeOver);
        if self.stage() == RotationStage::TakenOver {
            return if self.standing.next.is_some() { vec![take_over] } else { Vec::new() };
        }
        let column = next_column(&self.index.column);
        let cut = GenerationChange::Cut { now, next, unique: self.index.unique, tenant: self.tenant.clone() };
        let wait = Does::Wait;
        let does = [
            // What a process stores by the state before the present one, the database would not know how to take apart.
            wait.clone(),
            Does::Schema(self.change(GenerationChange::Begin { now, next })),
            Does::Begin,
            wait,
            Does::Fill,
            Does::Schema(SchemaStep::BuildIndex {
                table: self.target.table.clone(),
                column,
                unique: self.index.unique,
                tenant: self.tenant.clone(),
                partitions: self.facts.partitions.clone(),
            }),
            Does::Schema(self.change(GenerationChange::Watch)),
            Does::Cut(self.change(cut)),
        ];
        does.into_iter().map(|does| self.step(does)).chain([take_over]).collect()
    }

    /// Rotates the index, or goes on with a rotation that was interrupted. The former generation stays in the table until
    /// [`Self::drop_former`].
    ///
    /// # Errors
    /// `PlanRefused` where the index cannot be rotated as things stand, or two rows have one value by the new rules, which a
    /// unique index forbids; `Busy` where writers keep storing the present generation alone.
    pub async fn rotate(&self, pace: &Pace, context: &CallContext, observer: &dyn Observer) -> Result<IndexRotated> {
        if self.stage() == RotationStage::Settled {
            self.can_begin().await?;
        }
        let steps = self.steps();
        if steps.is_empty() {
            return Err(self
                .refused("its former generation is still in the table")
                .hint(format!("drop that with `enfold index drop-former {}` first", self.standing.full_name())));
        }
        let run = self.run(pace, observer);
        let mut filled = 0;
        for step in &steps {
            run.may_go_on()?;
            run.tell(&step.says, StepState::Started);
            let done = self.take(&run, &step.does, context).await;
            let doing = || format!("cannot {} (`{}`)", step.says, self.standing.full_name());
            filled += done.map_err(|error| error.while_doing(doing()))?;
            run.tell(&step.says, StepState::Done);
        }
        Ok(IndexRotated {
            index: self.standing.full_name(),
            former_generation: self.standing.now.generation,
            generation: self.next().generation,
            rows_filled: filled,
        })
    }

    /// Gives up a rotation before its cut: lookups and writers go on with the present generation alone.
    pub async fn give_up(&self, context: &CallContext) -> Result<()> {
        if self.stage() != RotationStage::Begun {
            return Err(Error::new(Code::Usage, format!("`{}` has no rotation to give up", self.standing.full_name()))
                .cause(match self.stage() {
                    RotationStage::TakenOver => "its next generation has taken over, and lookups use it",
                    _ => "one generation of it lives",
                })
                .hint("to take another key or other rules, rotate it again"));
        }
        let (owner, name, next) = (&self.standing.owner, &self.standing.name, self.next());
        let (pace, silent) = (Pace::default(), super::observer::Silent);
        self.run(&pace, &silent).cancel(&[Goal::Index]).await?;
        self.enfold.operator()?.give_up_index(owner, name, next.generation, context).await?;
        let change = GenerationChange::GiveUp { now: stored(&self.standing.now), next };
        self.session.db.run(&self.change(change)).await
    }

    /// Drops the former generation from the table, and disables its keys. There is no way back from it but another rotation.
    pub async fn drop_former(&self, context: &CallContext) -> Result<()> {
        let taken_over = self.stage() == RotationStage::TakenOver;
        if !taken_over || self.standing.next.is_some() {
            return Err(Error::new(
                Code::Usage,
                format!("`{}` has no former generation to drop", self.standing.full_name()),
            )
            .hint(if taken_over {
                format!("end its rotation first: `enfold index rotate {}`", self.standing.full_name())
            } else {
                "a rotation leaves one when it has taken over".to_owned()
            }));
        }
        self.session.db.run(&self.change(GenerationChange::DropFormer)).await?;
        let (owner, name) = (&self.standing.owner, &self.standing.name);
        self.enfold.operator()?.disable_former_indexes(owner, name, context).await.map(|_| ())
    }

    async fn take(&self, run: &Run<'_>, does: &Does, context: &CallContext) -> Result<u64> {
        let (owner, name) = (&self.standing.owner, &self.standing.name);
        match does {
            Does::Schema(change) => self.session.db.run(change).await.map(|()| 0),
            Does::Begin => self.enfold.operator()?.begin_index(owner, name, context).await.map(|_| 0),
            Does::Wait => run.until_followed(std::iter::once(&*self.standing.ring)).await.map(|()| 0),
            Does::Fill => self.fill(run).await,
            Does::Cut(change) => self.cut(run, change).await,
            Does::TakeOver => {
                let generation = self.next().generation;
                self.enfold.operator()?.cut_index(owner, name, generation, context).await.map(|_| 0)
            }
        }
    }

    async fn fill(&self, run: &Run<'_>) -> Result<u64> {
        let Some(report) = run.sweep_to_zero(Goal::Index).await? else { return Ok(0) };
        // Rows that somebody left since are seen to at the cut.
        if report.progress.rows_failed > 0 {
            run.settled(report.job, Goal::Index, &report).await?;
        }
        Ok(report.progress.rows_changed)
    }

    /// Fills what somebody has left since, and tries again.
    async fn cut(&self, run: &Run<'_>, change: &SchemaStep) -> Result<u64> {
        let mut filled = 0;
        for _ in 1..CUTS {
            match self.session.db.run(change).await {
                Ok(()) => return Ok(filled),
                Err(error) if error.code() == Code::Busy => filled += self.fill(run).await?,
                Err(error) => return Err(error),
            }
            run.may_go_on()?;
        }
        let patient = self.session.db.run(change).await;
        patient.map(|()| filled).map_err(|error| {
            error.hint("a writer that stores what it computed long ago, or writes the column by itself, stores one generation alone")
        })
    }

    /// What stands in the way is said before anything is changed.
    async fn can_begin(&self) -> Result<()> {
        if !self.place.there {
            return Err(self.refused("its column is not there").hint("`enfold apply` makes and fills it"));
        }
        if !self.place.others.is_empty() {
            let refused = self.refused("what hangs on its column would stay with the former generation");
            let named = self.place.others.iter().fold(refused, |error, other| error.cause(other.clone()));
            return Err(named.hint("drop these first, and make them again after the rotation"));
        }
        let moves = |goal| matches!(goal, Goal::Protect | Goal::Unprotect | Goal::Index);
        let open = self.session.db.store().open_jobs().await?;
        let at_work =
            open.iter().find(|job| is_open(job.state) && moves(job.goal) && job.target.table == self.target.table);
        if let Some(job) = at_work {
            return Err(self.refused("another job fills the table's blind indexes").hint(format!(
                "wait for the end of job {0}, or run what began it again (`enfold jobs show {0}`)",
                job.id.0
            )));
        }
        self.rules_hold().await
    }

    /// The rules in force must be those by which the column was filled: a policy that was changed before its rules were signed
    /// would have lookups find nothing from here on.
    async fn rules_hold(&self) -> Result<()> {
        let mut target = self.target.clone();
        target.indexes[0].column.clone_from(&self.index.column);
        target.indexes[0].generation = None;
        let rows = self.session.db.peek(&target, TRIED).await?;
        let verdicts = self.session.keys.codec().judge(Goal::Index, &target, &rows).await?;
        let filled = rows.iter().filter(|row| row.indexed[0].is_some()).count();
        let differs = |(row, verdict): &(&crate::store::Row, &Verdict)| match verdict {
            Verdict::Convert(change) => row.indexed[0].is_some() && matches!(change.indexed[0], Cell::Set(Some(_))),
            _ => false,
        };
        let different = rows.iter().zip(&verdicts).filter(differs).count();
        if different * 2 <= filled {
            return Ok(());
        }
        Err(self
            .refused("its column was filled by other rules, or with another key, than those in force")
            .cause(format!("{different} of {filled} rows that were looked at have another value than these give"))
            .hint(
                "put the former rules back into the policy, sign them with `enfold index sign`, and change them then",
            ))
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(Code::PlanRefused, format!("cannot rotate the blind index `{}`", self.standing.full_name()))
            .cause(why)
    }

    /// The generation that is to take over, as it is signed or will be.
    fn next(&self) -> Stored {
        match &self.standing.next {
            Some(rules) => stored(rules),
            None if self.stage() == RotationStage::TakenOver => stored(&self.standing.now),
            None => {
                Stored { generation: self.standing.latest.saturating_add(1), bytes: bytes(self.standing.policy_bits) }
            }
        }
    }

    fn change(&self, change: GenerationChange) -> SchemaStep {
        SchemaStep::Generations {
            table: self.target.table.clone(),
            column: self.index.column.clone(),
            change,
            partitions: self.facts.partitions.clone(),
        }
    }

    fn run<'a>(&'a self, pace: &'a Pace, observer: &'a dyn Observer) -> Run<'a> {
        Run { session: self.session, observer, pace, target: &self.target, stop_after: None }
    }

    fn step(&self, does: Does) -> RotationStep {
        let dialect = self.session.db.dialect();
        let none = || "none".to_owned();
        let generation = self.next().generation;
        let (says, sql, locks) = match &does {
            Does::Schema(change) | Does::Cut(change) => {
                (says_schema(change), self.session.db.sql(change), locks(change, dialect).to_owned())
            }
            Does::Begin => {
                (format!("sign that generation {generation} lives beside the present one"), Vec::new(), none())
            }
            Does::Wait => ("wait until every process goes by the state that is signed".to_owned(), Vec::new(), none()),
            Does::Fill => {
                ("fill the next generation".to_owned(), Vec::new(), row_locks(dialect == Dialect::Sqlite).to_owned())
            }
            Does::TakeOver => (format!("sign that generation {generation} alone lives"), Vec::new(), none()),
        };
        RotationStep { says, sql, locks, does }
    }
}

/// Refuses what fills or removes blind indexes of a table while one of them is rotated: it would know of one generation.
pub(super) async fn none_under_way(session: &Session, target: &Target) -> Result<()> {
    for index in &target.indexes {
        if session.db.look_at_index(&target.table, &index.column).await?.next {
            return Err(Error::new(
                Code::PlanRefused,
                format!("the blind index `{}` of `{}` is being rotated", index.name, target.policy_table),
            )
            .hint("end that with `enfold index rotate`, or take it back with `enfold index give-up`")
            .hint("nothing was changed"));
        }
    }
    Ok(())
}

fn find<'p>(session: &'p Session, owner: &str, name: &str) -> Result<(&'p str, &'p TablePolicy, &'p IndexPolicy)> {
    let of_table = session
        .policy
        .tables
        .get_key_value(owner)
        .and_then(|(table_name, table)| table.indexes.get(name).map(|index| (table_name.as_str(), table, index)));
    let of_column = || {
        let (table, column) = session.policy.column(owner)?;
        Some((table.name.as_str(), table, column.indexes.get(name)?))
    };
    of_table
        .or_else(of_column)
        .ok_or_else(|| Error::new(Code::UnknownColumn, format!("the policy has no blind index `{owner}.{name}`")))
}

fn stored(rules: &IndexRules) -> Stored {
    Stored { generation: rules.generation, bytes: bytes(rules.bits) }
}

/// At most 256 bits.
fn bytes(bits: u16) -> u16 {
    GENERATION_BYTES + bits.div_ceil(8)
}
