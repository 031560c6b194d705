//! The order of steps: for each operation a list that a plan shows and [`super::run`] carries out. Every step is
//! idempotent, so an operation that was interrupted is run again from the top.

use enfold::policy::{Member, Mode, TablePolicy};
use serde::{Deserialize, Serialize};

use crate::database::{Database, Dialect, IndexFacts, IndexKind, SchemaStep, ShadowChange, ShadowFacts, TableFacts};
use crate::generations::GenerationChange;
use crate::model::{Goal, Target, TargetColumn};

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Stops unless every registered reader of the columns is ready for the mode.
    CheckReaders {
        columns: Vec<String>,
        mode: Mode,
    },
    /// Has the operators' key sign the mode.
    SetMode {
        columns: Vec<String>,
        mode: Mode,
    },
    /// As [`Self::SetMode`], on the way back: where the mode is stronger now, or was signed with other readers.
    TakeModeBack {
        columns: Vec<String>,
        mode: Mode,
    },
    /// Waits until nobody writes any more by what was signed before.
    Settle,
    Schema {
        change: SchemaStep,
    },
    Sweep {
        goal: Goal,
    },
    /// Opens every value; what is not an envelope that opens stops here.
    Verify,
}

/// A step as a plan shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    /// One line for a person.
    pub says: String,
    /// What is sent to the database; empty for steps that are not SQL of one statement.
    pub sql: Vec<String>,
    /// What is locked against whom, and for how long.
    pub locks: String,
}

/// Steps for one table.
pub(super) struct Steps<'a> {
    pub(super) database: &'a dyn Database,
    pub(super) target: &'a Target,
    pub(super) facts: &'a TableFacts,
    pub(super) policy: &'a TablePolicy,
}

impl Steps<'_> {
    /// Readers ready, room for envelopes, writers hybrid, blind indexes filled and unique before the first value is
    /// sealed, then values, then proof and the indexes that still hold plaintext.
    pub(super) fn protect(&self, rewrite: bool) -> Vec<Step> {
        let mut steps = vec![self.step(Action::CheckReaders { columns: self.names(), mode: Mode::Hybrid })];
        for column in self.target.columns.iter().filter(|c| self.needs_widening(&c.name)) {
            steps.push(self.schema(SchemaStep::Widen { table: self.table(), column: column.name.clone() }));
        }
        for index in &self.target.indexes {
            steps.push(self.schema(SchemaStep::AddIndexColumn { table: self.table(), column: index.column.clone() }));
        }
        // Before the first writer seals: from then on nobody changes one of the two behind the other's back.
        steps.extend(self.shadows(|column, facts| Some(adds(column, facts))));
        steps.push(self.step(Action::SetMode { columns: self.names(), mode: Mode::Hybrid }));
        if !self.target.indexes.is_empty() {
            steps.push(self.step(Action::Sweep { goal: Goal::Index }));
        }
        for index in &self.target.indexes {
            steps.push(self.schema(SchemaStep::BuildIndex {
                table: self.table(),
                column: index.column.clone(),
                unique: index.unique,
                tenant: self.index_tenant(&index.name),
                partitions: self.facts.partitions.clone(),
            }));
        }
        steps.extend(plain_indexes(self.facts, self.target).filter(|i| i.drop_first).map(|i| self.drop_index(i)));
        let bound = self.bound();
        if !bound.is_empty() {
            let whole = self.target.columns.iter().filter(|c| c.member.is_none());
            let sealed = whole.map(|c| c.holder().to_owned()).collect();
            let members = self.target.columns.iter().filter_map(|c| c.member.clone()).collect();
            steps.push(self.schema(SchemaStep::GuardBinding { table: self.table(), bound, sealed, members }));
        }
        steps.push(self.step(Action::Sweep { goal: Goal::Protect }));
        let drops = plain_indexes(self.facts, self.target).filter(|i| !i.drop_first).map(|i| self.drop_index(i));
        let rewrites = rewrite.then(|| self.schema(SchemaStep::Rewrite { table: self.table() }));
        let verifies = self.step(Action::Verify);
        if self.is_sqlite() {
            // What was verified last is what is there last: see `plan::interrupted`.
            steps.extend(drops.chain(rewrites).chain([verifies]));
        } else {
            steps.extend([verifies].into_iter().chain(drops).chain(rewrites));
        }
        steps
    }

    /// The database refuses plaintext: in front of the proof the check that drains older writers, after it the rest.
    pub(super) fn enforce(&self) -> (Vec<Step>, Vec<Step>) {
        let mut before = self.each(|column, table| match column.member.clone() {
            Some(member) => {
                SchemaStep::AddMemberCheck { table, column: column.name.clone(), member, key_ids: Vec::new() }
            }
            None => SchemaStep::AddFormCheck {
                table,
                column: column.holder().to_owned(),
                storage: column.storage,
                key_ids: Vec::new(),
            },
        });
        before.extend(self.shadows(|_, _| Some(ShadowChange::Refuse)));
        let mut after = self.each(|column, table| SchemaStep::ValidateFormCheck { table, column: checked(column) });
        after.extend(self.shadows(|_, _| Some(ShadowChange::Validate)));
        after.push(self.step(Action::SetMode { columns: self.names(), mode: Mode::Kms }));
        (before, after)
    }

    /// What stands between the check and its validation.
    pub(super) fn proof(&self) -> Vec<Step> {
        vec![self.step(Action::Sweep { goal: Goal::Protect }), self.step(Action::Verify)]
    }

    /// Takes the checks off again.
    pub(super) fn drop_checks(&self) -> Vec<Step> {
        let mut steps = self.each(|column, table| SchemaStep::DropFormCheck { table, column: checked(column) });
        steps.extend(self.shadows(|_, _| Some(ShadowChange::Allow)));
        steps
    }

    /// The sources go whose values are in their shadows.
    pub(super) fn drop_sources(&self) -> Vec<Step> {
        self.shadows(|_, facts| Some(ShadowChange::DropSource { required: facts.required }))
    }

    /// A step of the way back: nothing refuses what is no envelope, the mode is this one, and everybody reads what may come.
    /// Values stay as they are.
    pub(super) fn step_back(&self, mode: Mode) -> Vec<Step> {
        let mut steps = self.weaken(mode);
        steps.push(self.step(Action::Settle));
        steps
    }

    fn weaken(&self, mode: Mode) -> Vec<Step> {
        let mut steps = self.drop_checks();
        // Somebody may have dropped a source and added it again, or taken its trigger away.
        steps.extend(self.shadows(|column, facts| facts.there.then(|| adds(column, facts))));
        steps.push(self.step(Action::TakeModeBack { columns: self.names(), mode }));
        steps
    }

    /// The way back: writers write as before, every value is what it was before, and what Enfold added goes. Last come the
    /// indexes that protecting dropped.
    pub(super) fn unprotect(&self) -> Vec<Step> {
        let mut steps = self.weaken(Mode::Legacy);
        // Whoever reads the other format cannot read an envelope that comes after the last look.
        if self.target.columns.iter().any(|column| column.writes.is_some()) {
            steps.push(self.step(Action::Settle));
        }
        steps.push(self.step(Action::Sweep { goal: Goal::Unprotect }));
        if !self.bound().is_empty() {
            steps.push(self.schema(SchemaStep::DropBindingGuard { table: self.table() }));
            // Other columns of the table may stay sealed: the guard comes back for them.
            let (sealed, members) = self.others();
            if !sealed.is_empty() || !members.is_empty() {
                let bound = self.policy.tenant.iter().chain(&self.policy.row_key).cloned().collect();
                steps.push(self.schema(SchemaStep::GuardBinding { table: self.table(), bound, sealed, members }));
            }
        }
        for index in &self.target.indexes {
            steps.push(self.schema(SchemaStep::DropIndexColumn { table: self.table(), column: index.column.clone() }));
        }
        steps.extend(self.shadows(|_, facts| facts.there.then_some(ShadowChange::Drop { required: facts.required })));
        steps.push(self.schema(SchemaStep::RestorePlainIndexes { table: self.table(), sealed: self.still_sealed() }));
        steps
    }

    /// `table.column` of every column, as the policy names both.
    pub(super) fn names(&self) -> Vec<String> {
        let table = &self.target.policy_table;
        self.target.columns.iter().map(|column| format!("{table}.{}", column.name)).collect()
    }

    fn table(&self) -> crate::model::TableName {
        self.target.table.clone()
    }

    /// The columns that hold what the policy protects of the table and this operation is not about.
    fn others(&self) -> (Vec<String>, Vec<Member>) {
        let ours = |name: &String| self.target.columns.iter().any(|column| column.name == *name);
        let protected = self.policy.columns.iter().filter(|(name, c)| c.mode > Mode::Legacy && !ours(name));
        let (parts, whole): (Vec<_>, Vec<_>) = protected.partition(|(_, c)| c.member.is_some());
        let whole = whole.into_iter().map(|(name, c)| c.shadow.as_ref().unwrap_or(name).clone());
        (whole.collect(), parts.into_iter().filter_map(|(_, c)| c.member.clone()).collect())
    }

    /// Other columns of the policy that hold envelopes now, whatever mode the policy wants for them.
    fn still_sealed(&self) -> Vec<String> {
        let ours = |name: &String| self.target.columns.iter().any(|column| column.name == *name);
        let sealed = self.facts.columns.iter().filter(|fact| fact.census.envelopes > 0 && !ours(&fact.name));
        let member = |name: &str| self.policy.columns.get(name)?.member.as_ref().map(|member| member.column.clone());
        sealed.map(|fact| member(&fact.name).unwrap_or_else(|| fact.name.clone())).collect()
    }

    fn needs_widening(&self, column: &str) -> bool {
        self.facts.columns.iter().any(|facts| facts.name == column && facts.widen)
    }

    fn bound(&self) -> Vec<String> {
        self.target.tenant.iter().chain(&self.target.row_key).cloned().collect()
    }

    /// The tenant column that belongs into the database index of a blind index.
    fn index_tenant(&self, name: &str) -> Option<String> {
        let mut own = self.policy.columns.values().flat_map(|c| &c.indexes).chain(&self.policy.indexes);
        let crosses = own.any(|(index, policy)| index == name && policy.cross_tenant);
        if crosses { None } else { self.policy.tenant.clone() }
    }

    fn each(&self, change: impl Fn(&TargetColumn, crate::model::TableName) -> SchemaStep) -> Vec<Step> {
        self.target.columns.iter().map(|column| self.schema(change(column, self.table()))).collect()
    }

    /// A step for each column with a shadow whose source is there, if `change` says one.
    fn shadows(&self, change: impl Fn(&TargetColumn, &ShadowFacts) -> Option<ShadowChange>) -> Vec<Step> {
        let paired = self.target.columns.iter().filter_map(|column| {
            let fact = self.facts.columns.iter().find(|fact| fact.name == column.name)?;
            let shadow = fact.shadow.as_ref().filter(|shadow| !shadow.alone)?;
            let (table, change, shadow) = (self.table(), change(column, shadow)?, shadow.column.clone());
            Some(self.schema(SchemaStep::Shadow { table, column: column.name.clone(), shadow, change }))
        });
        paired.collect()
    }

    fn drop_index(&self, index: &IndexFacts) -> Step {
        let (index, kind) = (index.name.clone(), index.kind.clone());
        self.schema(SchemaStep::DropPlainIndex { table: self.table(), index, kind })
    }

    fn schema(&self, change: SchemaStep) -> Step {
        let sql = self.database.sql(&change);
        let (says, locks) = (says_schema(&change), locks(&change, self.database.dialect()));
        Step { action: Action::Schema { change }, says, sql, locks: locks.to_owned() }
    }

    fn step(&self, action: Action) -> Step {
        let (says, locks) = match &action {
            Action::CheckReaders { mode, .. } => {
                (format!("check that registered readers are ready for mode {}", mode.word()), "none")
            }
            Action::SetMode { columns, mode } | Action::TakeModeBack { columns, mode } => {
                (format!("sign mode {} for {}", mode.word(), columns.join(", ")), "none")
            }
            Action::Settle => ("wait until every process goes by that mode".to_owned(), "none"),
            Action::Sweep { goal } => (says_sweep(*goal, self.target), row_locks(self.is_sqlite())),
            Action::Verify => ("open every value and compare its blind indexes".to_owned(), "none"),
            Action::Schema { change } => (says_schema(change), locks(change, self.database.dialect())),
        };
        Step { action, says, sql: Vec::new(), locks: locks.to_owned() }
    }

    fn is_sqlite(&self) -> bool {
        self.database.dialect() == Dialect::Sqlite
    }
}

/// Indexes that hold plaintext of the target's columns. Those of columns that the policy leaves alone stay.
pub(super) fn plain_indexes<'f>(facts: &'f TableFacts, target: &'f Target) -> impl Iterator<Item = &'f IndexFacts> {
    let ours = |index: &&IndexFacts| index.columns.iter().any(|name| target.columns.iter().any(|c| c.name == *name));
    facts.indexes.iter().filter(ours)
}

/// Of a batch, on Postgres and on SQLite.
const ROW_LOCKS: [&str; 2] = [
    "rows of a batch, about 100 ms; rows that others hold are left for later",
    "the database's write lock, about 100 ms a batch",
];

pub(super) fn row_locks(is_sqlite: bool) -> &'static str {
    ROW_LOCKS[usize::from(is_sqlite)]
}

fn says_sweep(goal: Goal, target: &Target) -> String {
    match goal {
        Goal::Unprotect if target.columns.iter().any(|column| column.writes.is_some()) => {
            let becomes = |column: &TargetColumn| match &column.writes {
                Some(reader) => format!("`{}` in the format of reader `{reader}`", column.name),
                None => format!("`{}` as plaintext", column.name),
            };
            let each: Vec<String> = target.columns.iter().map(becomes).collect();
            return format!("open every envelope and store {}, until none is left sealed", each.join(", "));
        }
        Goal::Protect => "seal every value, until none is left plain",
        Goal::Unprotect => "open every value and store it as plaintext, until none is left sealed",
        Goal::Index => "fill the blind indexes; values stay as they are",
        Goal::Verify => "open every value",
        Goal::Reencrypt => "seal what is under former data keys under those of now, until nothing is",
        Goal::Prune => "delete the rows that a rule dooms",
    }
    .to_owned()
}

pub(super) fn says_schema(change: &SchemaStep) -> String {
    match change {
        SchemaStep::Widen { column, .. } => format!("widen `{column}` so that envelopes fit"),
        SchemaStep::AddIndexColumn { column, .. } => format!("add `{column}` for a blind index"),
        SchemaStep::BuildIndex { column, unique: true, .. } => format!("build the unique index on `{column}`"),
        SchemaStep::BuildIndex { column, .. } => format!("build the index on `{column}`"),
        SchemaStep::DropIndexColumn { column, .. } => format!("drop `{column}`"),
        SchemaStep::DropPlainIndex { index, .. } => format!("drop index `{index}`, which holds plaintext"),
        SchemaStep::RestorePlainIndexes { .. } => "make the indexes again that protecting dropped".to_owned(),
        SchemaStep::GuardBinding { bound, .. } => {
            format!("refuse changes of `{}` that leave envelopes behind", bound.join("`, `"))
        }
        SchemaStep::DropBindingGuard { .. } => "allow changes of tenant and key again".to_owned(),
        SchemaStep::AddFormCheck { column, .. } | SchemaStep::AddMemberCheck { column, .. } => {
            format!("refuse new plaintext in `{column}`")
        }
        SchemaStep::ValidateFormCheck { column, .. } => format!("check the old rows of `{column}` as well"),
        SchemaStep::DropFormCheck { column, .. } => format!("allow plaintext in `{column}`"),
        SchemaStep::Shadow { column, shadow, change, .. } => says_shadow(column, shadow, change),
        SchemaStep::Generations { column, change, .. } => says_generation(column, change),
        SchemaStep::RefuseKeys { .. } => "refuse new values under data keys that go out of use".to_owned(),
        SchemaStep::AllowKeys { .. } => "take values under any data key again".to_owned(),
        SchemaStep::Rewrite { .. } => "rewrite the table, so that old row versions leave the files".to_owned(),
    }
}

/// By what the form check of a column is named.
fn checked(column: &TargetColumn) -> String {
    if column.member.is_some() { column.name.clone() } else { column.holder().to_owned() }
}

fn adds(column: &TargetColumn, facts: &ShadowFacts) -> ShadowChange {
    ShadowChange::Add { storage: column.storage, required: facts.required }
}

fn says_generation(column: &str, change: &GenerationChange) -> String {
    match change {
        GenerationChange::Begin { next, .. } => {
            format!(
                "add a column beside `{column}` for generation {}, and have the database put its part there",
                next.generation
            )
        }
        GenerationChange::Watch => format!("index the rows of `{column}` that lack the next generation"),
        GenerationChange::Cut { next, .. } => {
            format!("have generation {} take the name `{column}`, if no row lacks it", next.generation)
        }
        GenerationChange::GiveUp { now, .. } => {
            format!("keep generation {} alone in `{column}`, and drop the column beside it", now.generation)
        }
        GenerationChange::DropFormer => format!("drop the former generation of `{column}`"),
    }
}

fn says_shadow(column: &str, shadow: &str, change: &ShadowChange) -> String {
    match change {
        ShadowChange::Add { required: false, .. } => {
            format!("add `{shadow}` for the envelopes of `{column}`; of the two one at most holds a value")
        }
        ShadowChange::Add { required: true, .. } => format!(
            "add `{shadow}` for the envelopes of `{column}`; that either holds a value takes the place of NOT NULL"
        ),
        ShadowChange::Refuse => format!("refuse new values in `{column}`"),
        ShadowChange::Validate => format!("check that the old rows of `{column}` are empty as well"),
        ShadowChange::Allow => format!("allow values in `{column}`"),
        ShadowChange::Drop { required: false } => format!("drop `{shadow}`, in which nothing is"),
        ShadowChange::Drop { required: true } => {
            format!("drop `{shadow}`, in which nothing is, and make `{column}` NOT NULL again")
        }
        ShadowChange::DropSource { .. } => format!("drop `{column}`, in which nothing is"),
    }
}

pub(super) fn locks(change: &SchemaStep, dialect: Dialect) -> &'static str {
    match (dialect, change) {
        (Dialect::Sqlite, SchemaStep::Rewrite { .. }) => "the whole database, for as long as the rewrite takes",
        (Dialect::Sqlite, _) => "the database's write lock, briefly",
        (_, SchemaStep::Rewrite { .. }) => "ACCESS EXCLUSIVE for as long as the rewrite takes",
        (
            _,
            SchemaStep::BuildIndex { .. }
            | SchemaStep::ValidateFormCheck { .. }
            | SchemaStep::Generations { change: GenerationChange::Watch, .. }
            | SchemaStep::Shadow { change: ShadowChange::Validate, .. }
            | SchemaStep::DropPlainIndex { kind: IndexKind::Plain, .. },
        ) => "SHARE UPDATE EXCLUSIVE: reads and writes go on",
        (_, SchemaStep::DropPlainIndex { kind: IndexKind::Partitioned, .. }) => {
            "ACCESS EXCLUSIVE on the table and its partitions, briefly, in short tries"
        }
        (_, SchemaStep::RestorePlainIndexes { .. }) => {
            "SHARE UPDATE EXCLUSIVE: reads and writes go on; for a unique constraint ACCESS EXCLUSIVE, briefly"
        }
        (
            _,
            SchemaStep::GuardBinding { .. }
            | SchemaStep::DropBindingGuard { .. }
            | SchemaStep::RefuseKeys { .. }
            | SchemaStep::AllowKeys { .. },
        ) => "SHARE ROW EXCLUSIVE or stronger, briefly, in short tries",
        (_, _) => "ACCESS EXCLUSIVE, briefly, in short tries",
    }
}
