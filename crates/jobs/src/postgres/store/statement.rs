//! The statement that checks and writes rows, and what it sends. It has two forms.
//!
//! Rows that nobody held when they were read, and nobody holds now:
//! ```sql
//! UPDATE … FROM (typed arrays or a copied table) l WHERE place and transaction are l's and the row is free
//!   RETURNING whether what was stored is what was sent
//! ```
//! Each row is looked at and written in one step, so somebody can come between only in the moment from the look to the
//! write; then this waits for him, no longer than `lock_timeout`, which is below the time after which Postgres looks for
//! deadlocks. Locking the rows first would cost a third of the whole (a write to the log and a second visit for each).
//!
//! Rows that somebody may hold (a lock that was given up leaves the same traces), and tables with triggers that may
//! swallow a row:
//! ```sql
//! WITH v AS (the same), locked AS (… JOIN on place and transaction … SKIP LOCKED),
//!      written AS (UPDATE … FROM locked …)
//! ```
//! A pruning has a DELETE in the place of each UPDATE.
//!
//! A row that is not in the answer was not that version any more or is held by somebody; one that was locked and not
//! updated was swallowed by a trigger. Values go as parameters only when they are envelopes: parameters end in the
//! server's log.

use std::collections::BTreeSet;

use enfold::policy::Mark;
use enfold_core::stored::{Form, Stored, detect};
use postgres_types::{ToSql, Type};

use super::wire::{Raw, Tid, Xid};
use crate::model::Target;
use crate::postgres::held::{self, Held, Within};
use crate::postgres::ident;
use crate::postgres::shape::{Base, PartType, Shape};
use crate::store::{Cell, Change, RowVersion};

/// One column that the batch sets in at least one row.
struct Assigned<'a> {
    /// Quoted.
    column: String,
    base: Base,
    /// The column is the source of a shadow: what is sent is text, and what is stored is read from it.
    source: Option<&'a held::Source>,
    /// Only this member of the document in the column is set.
    within: Option<&'a Within>,
    /// And these beside it, with the version of each envelope's data key; NULL beside plaintext.
    marks: &'a [(Mark, Within)],
    versions: Vec<Option<i64>>,
    values: Vec<Option<Raw<'a>>>,
    /// Rows that keep what they have; empty when all are set.
    kept: Vec<bool>,
}

/// What a batch leaves alone.
struct Guarded {
    read: String,
    /// Position of the assigned column that says of each row whether it is left alone; `None` where all rows are.
    kept: Option<usize>,
}

/// A batch in the order in which it is sent: that of the tuples' places.
pub(super) struct Sent<'a> {
    places: Vec<Tid>,
    xmins: Vec<Xid>,
    assigned: Vec<Assigned<'a>>,
    /// Protected, tenant and bound columns that the batch leaves alone, as the database compares them: a trigger must
    /// not change them either.
    guarded: Vec<Guarded>,
    pub(super) plaintext: bool,
    /// The rows go, whatever is in them.
    deletes: bool,
}

/// How the values reach the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Parameters,
    /// The temporary table of [`Sent::table`], filled with COPY, whose data no log setting writes down.
    Copied,
}

/// Whether a row is looked at and written in one step, or locked first. See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    AtOnce,
    LockedFirst,
}

pub(super) const COPIED: &str = "pg_temp.enfold_batch";

/// A column of it: see [`Sent::try_texts`].
pub(super) const READABLE: &str = "readable";

/// Nobody has locked the row or begun to change it since it was written.
pub(super) const FREE: &str = "t.xmax = '0'::pg_catalog.xid";

impl<'a> Sent<'a> {
    pub(super) fn new(target: &Target, shape: &'a Shape, changes: &[&'a Change]) -> Self {
        let mut assigned = Vec::new();
        let mut guarded = Vec::new();
        for (at, held) in shape.columns.iter().enumerate() {
            let mut columns = Assigned::held(held, changes.iter().map(|c| &c.cells[at]));
            if let Some(column) = columns.first_mut().filter(|_| !held.marks.is_empty()) {
                let version = |change: &&Change| change.versions.get(at).copied().flatten().map(i64::from);
                (column.marks, column.versions) = (&held.marks, changes.iter().map(version).collect());
            }
            match columns.first() {
                None => guarded.push(Guarded { read: held.stored(), kept: None }),
                Some(column) if !column.kept.is_empty() => {
                    guarded.push(Guarded { read: held.stored(), kept: Some(assigned.len()) });
                }
                Some(_) => {}
            }
            assigned.extend(columns);
        }
        let plaintext = assigned.iter().any(Assigned::holds_plaintext);
        for (at, index) in target.indexes.iter().enumerate() {
            let cells = changes.iter().map(|c| &c.indexed[at]);
            assigned.extend(Assigned::new(ident(&index.column), Base::Bytea, cells, |_| true));
        }
        let beside = shape.columns.iter().flat_map(|held| &held.companions).enumerate();
        assigned.extend(beside.filter_map(|(at, beside)| {
            Assigned::beside(beside, changes.iter().map(|change| change.beside.get(at).unwrap_or(&Cell::Keep)))
        }));
        let bound = target.tenant.iter().zip(&shape.tenant).chain(target.row_key.iter().zip(&shape.row_key));
        let read = |(name, part): (&String, &PartType)| part.read(&format!("t.{}", ident(name)));
        guarded.extend(bound.map(|bound| Guarded { read: read(bound), kept: None }));
        if !shape.triggers_before {
            guarded.clear();
        }
        let (places, xmins) = changes.iter().map(|change| version(&change.version)).unzip();
        Self { places, xmins, assigned, guarded, plaintext, deletes: target.prune.is_some() }
    }

    /// Nothing is to be written: every cell of every change is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.assigned.is_empty() && !self.deletes
    }

    pub(super) fn sql(&self, relation: &str, shape: &Shape, source: Source, way: Way) -> String {
        let fields = self.fields();
        let names: Vec<&str> = fields.iter().map(|(name, _, _)| name.as_str()).collect();
        // What is sent, under the alias that the form has for it.
        let from = |alias: &str| match source {
            Source::Copied => format!("(SELECT * FROM {COPIED} WHERE {READABLE}) AS {alias}"),
            Source::Parameters => {
                let arrays: Vec<String> =
                    fields.iter().enumerate().map(|(at, (_, kind, _))| format!("${}::{kind}[]", at + 1)).collect();
                format!("unnest({}) WITH ORDINALITY AS {alias} ({}, ord)", arrays.join(", "), names.join(", "))
            }
        };
        let unchanged = shape.unwritten.iter().map(|column| format!("{0} = t.{0}", ident(column)));
        let whole = self.assigned.iter().enumerate().filter(|(_, column)| column.within.is_none());
        let set: Vec<String> =
            whole.map(|(at, column)| column.set(at)).chain(self.documents()).chain(unchanged).collect();
        let set = set.join(", ");
        let mut same: Vec<String> = self.assigned.iter().enumerate().map(|(at, column)| column.same(at)).collect();
        same.extend(self.guarded.iter().enumerate().map(|(at, guarded)| {
            let unless = guarded.kept.map_or(String::new(), |column| format!("NOT l.k{column} OR "));
            format!("({unless}{} IS NOT DISTINCT FROM l.o{at})", guarded.read)
        }));
        // What goes is what was read, for it is the same version.
        let same = if self.deletes { "true".to_owned() } else { same.join(" AND ") };
        let written = |from: &str| match self.deletes {
            true => format!("DELETE FROM ONLY {relation} t USING {from}"),
            false => format!("UPDATE ONLY {relation} t SET {set} FROM {from}"),
        };
        if way == Way::AtOnce {
            return format!(
                "{} WHERE t.ctid = l.tid AND t.xmin = l.version AND {FREE} RETURNING l.ord, {same} AS same, t.ctid AS tid",
                written(&from("l"))
            );
        }
        let carried = names[2..].iter().map(|name| format!("v.{name}"));
        let old = self.guarded.iter().enumerate().map(|(at, guarded)| format!("{} AS o{at}", guarded.read));
        let carried: Vec<String> =
            ["t.ctid AS tid".to_owned(), "v.ord".to_owned()].into_iter().chain(carried).chain(old).collect();
        format!(
            "WITH v AS (SELECT * FROM {from}), \
             locked AS MATERIALIZED (SELECT {carried} FROM v JOIN ONLY {relation} t ON t.ctid = v.tid AND t.xmin = v.version \
                                     ORDER BY v.ord {lock} OF t SKIP LOCKED), \
             written AS ({written} WHERE t.ctid = l.tid RETURNING l.ord, {same} AS same, t.ctid AS tid) \
             SELECT ord, NULL::bool AS same, NULL::tid AS tid FROM locked UNION ALL SELECT ord, same, tid FROM written",
            written = written("locked l"),
            from = from("u"),
            carried = carried.join(", "),
            lock = shape.lock,
        )
    }

    /// Documents of which members are set: all members of a column in one assignment.
    fn documents(&self) -> Vec<String> {
        let members = || self.assigned.iter().enumerate().filter_map(|(at, column)| Some((at, column, column.within?)));
        let columns: BTreeSet<&String> = members().map(|(_, column, _)| &column.column).collect();
        let document = |name: &String| {
            let mut document = format!("t.{name}");
            let mut all_kept = Vec::new();
            for (at, column, place) in members().filter(|(_, column, _)| column.column == *name) {
                let kept = (!column.kept.is_empty()).then(|| format!("l.k{at}"));
                // NULL would make NULL of the document.
                let value =
                    format!("coalesce({}, 'null'::pg_catalog.jsonb)", column.base.assigned(&format!("l.c{at}")));
                document = place.set(&document, &value, kept.as_deref());
                for (mark, place) in column.marks {
                    document = place.add(&document, &marked(*mark, at), kept.as_deref());
                }
                all_kept.push(kept.unwrap_or_else(|| "false".to_owned()));
            }
            // Of a scalar no member can be set, and no member is there to be set.
            format!("{name} = CASE WHEN {} THEN t.{name} ELSE {document} END", all_kept.join(" AND "))
        };
        columns.into_iter().map(document).collect()
    }

    pub(super) fn params(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let mut params: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&self.places, Type::TID_ARRAY), (&self.xmins, Type::XID_ARRAY)];
        for column in &self.assigned {
            params.push((&column.values, column.base.array()));
            if !column.marks.is_empty() {
                params.push((&column.versions, Type::INT8_ARRAY));
            }
            if !column.kept.is_empty() {
                params.push((&column.kept, Type::BOOL_ARRAY));
            }
        }
        params
    }

    /// The temporary table for [`Source::Copied`].
    pub(super) fn table(&self) -> String {
        let columns: Vec<String> = self.fields().iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
        format!(
            "CREATE TEMPORARY TABLE enfold_batch (ord bigint, {}, {READABLE} bool NOT NULL DEFAULT true) ON COMMIT DROP",
            columns.join(", ")
        )
    }

    /// Fills it.
    pub(super) fn copy(&self) -> String {
        let names: Vec<String> = self.fields().into_iter().map(|(name, ..)| name).collect();
        format!("COPY {COPIED} (ord, {}) FROM STDIN BINARY", names.join(", "))
    }

    /// Marks the rows of which a text is no value of the type that it goes to; `None` where all goes as text. The update
    /// would say so in the server's log, with the text in it. An error that plpgsql catches is not logged.
    pub(super) fn try_texts(&self) -> Option<String> {
        let reads: Vec<String> = self.assigned.iter().enumerate().filter_map(|(at, column)| column.read(at)).collect();
        (!reads.is_empty()).then(|| {
            format!(
                "DO $enfold$ DECLARE sent record; BEGIN FOR sent IN SELECT * FROM {COPIED} LOOP BEGIN {} \
                 EXCEPTION WHEN data_exception OR program_limit_exceeded THEN \
                 UPDATE {COPIED} SET {READABLE} = false WHERE ord = sent.ord; END; END LOOP; END $enfold$",
                reads.concat()
            )
        })
    }

    pub(super) fn copy_types(&self) -> Vec<Type> {
        std::iter::once(Type::INT8).chain(self.fields().into_iter().map(|(_, _, ty)| ty)).collect()
    }

    /// The rows for COPY, in the order of [`Self::copy_types`].
    pub(super) fn copy_row<'s>(&'s self, at: usize, ord: &'s i64) -> Vec<&'s (dyn ToSql + Sync)> {
        let mut row: Vec<&(dyn ToSql + Sync)> = vec![ord, &self.places[at], &self.xmins[at]];
        for column in &self.assigned {
            row.push(&column.values[at]);
            if !column.marks.is_empty() {
                row.push(&column.versions[at]);
            }
            if !column.kept.is_empty() {
                row.push(&column.kept[at]);
            }
        }
        row
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Name, SQL type and wire type of what is sent for a row.
    fn fields(&self) -> Vec<(String, &'static str, Type)> {
        // A system column's name cannot be a table's column, so xmin is called otherwise.
        let mut fields = vec![("tid".to_owned(), "tid", Type::TID), ("version".to_owned(), "xid", Type::XID)];
        for (at, column) in self.assigned.iter().enumerate() {
            let ty = if column.base == Base::Bytea { Type::BYTEA } else { Type::TEXT };
            fields.push((format!("c{at}"), column.base.sent(), ty));
            if !column.marks.is_empty() {
                fields.push((format!("v{at}"), "int8", Type::INT8));
            }
            if !column.kept.is_empty() {
                fields.push((format!("k{at}"), "bool", Type::BOOL));
            }
        }
        fields
    }
}

impl<'a> Assigned<'a> {
    /// The column that holds the envelopes, and the source of a shadow beside it: of the two one gets the value, by its
    /// form, and the other is emptied. Nothing where every row keeps what it has.
    fn held(held: &'a Held, cells: impl Iterator<Item = &'a Cell> + Clone) -> Vec<Self> {
        let Some(source) = &held.source else {
            let column = Self::new(held.holder.clone(), held.base, cells, |_| true);
            return column.map(|column| Self { within: held.within.as_ref(), ..column }).into_iter().collect();
        };
        let is_sealed = |bytes: &[u8]| matches!(detect(form(held.base), bytes), Stored::Envelope(_));
        let holder = Self::new(held.holder.clone(), held.base, cells.clone(), is_sealed);
        let source_column = Self::new(source.column.clone(), Base::Text, cells, |bytes| !is_sealed(bytes));
        let source_column = source_column.map(|column| Self { source: Some(source), ..column });
        holder.into_iter().chain(source_column).collect()
    }

    /// A column beside a value.
    fn beside(beside: &'a held::Beside, cells: impl Iterator<Item = &'a Cell> + Clone) -> Option<Self> {
        let base = if beside.is_bytes { Base::Bytea } else { Base::Text };
        let column = Self::new(beside.source.column.clone(), base, cells, |_| true)?;
        Some(Self { source: (!beside.is_bytes).then_some(&beside.source), ..column })
    }

    /// `takes`: whether a value goes into this column; otherwise it gets NULL.
    fn new(
        column: String,
        base: Base,
        cells: impl Iterator<Item = &'a Cell> + Clone,
        takes: impl Fn(&[u8]) -> bool,
    ) -> Option<Self> {
        let kept: Vec<bool> = cells.clone().map(|cell| matches!(cell, Cell::Keep)).collect();
        if kept.iter().all(|kept| *kept) {
            return None;
        }
        let values = cells
            .map(|cell| match cell {
                Cell::Set(Some(bytes)) => Some(Raw(bytes)).filter(|_| takes(bytes)),
                Cell::Set(None) | Cell::Keep => None,
            })
            .collect();
        let kept = if kept.contains(&true) { kept } else { Vec::new() };
        let (marks, versions): (&[_], _) = (&[], Vec::new());
        Some(Self { column, base, source: None, within: None, marks, versions, values, kept })
    }

    fn set(&self, at: usize) -> String {
        let sent = format!("l.c{at}");
        let value = self.source.map_or_else(|| self.base.assigned(&sent), |source| source.read(&sent));
        if self.kept.is_empty() {
            format!("{} = {value}", self.column)
        } else {
            format!("{0} = CASE WHEN l.k{at} THEN t.{0} ELSE {value} END", self.column)
        }
    }

    /// Has plpgsql read what is sent in a row, where it is read at all.
    fn read(&self, at: usize) -> Option<String> {
        let sent = format!("sent.c{at}");
        let read = match (self.source, self.base) {
            (Some(source), _) => source.read(&sent),
            (None, Base::Json | Base::Jsonb) => self.base.assigned(&sent),
            (None, Base::Text | Base::Bytea) => return None,
        };
        Some(format!("PERFORM {read}; "))
    }

    fn same(&self, at: usize) -> String {
        let whole = format!("t.{}", self.column);
        let column = self.within.map_or(whole.clone(), |place| place.read(&whole));
        let sent = format!("l.c{at}");
        let mut same = match self.source {
            None => self.base.same(&column, &sent),
            Some(source) => source.same(&sent),
        };
        for (mark, place) in self.marks {
            same.push_str(&format!(" AND {} IS NOT DISTINCT FROM {}", place.read(&whole), marked(*mark, at)));
        }
        if self.kept.is_empty() { format!("({same})") } else { format!("(l.k{at} OR {same})") }
    }

    fn holds_plaintext(&self) -> bool {
        let form = form(self.base);
        self.values.iter().flatten().any(|value| !matches!(detect(form, value.0), Stored::Envelope(_)))
    }
}

/// What a mark beside the assigned column `at` becomes, as jsonb.
fn marked(mark: Mark, at: usize) -> String {
    match mark {
        Mark::Sealed => format!("pg_catalog.to_jsonb(l.v{at} IS NOT NULL)"),
        Mark::Version => format!("coalesce(pg_catalog.to_jsonb(l.v{at}), 'null'::pg_catalog.jsonb)"),
    }
}

fn form(base: Base) -> Form {
    match base {
        Base::Text => Form::Text,
        Base::Bytea => Form::Bytes,
        Base::Json | Base::Jsonb => Form::Json,
    }
}

fn version(version: &RowVersion) -> (Tid, Xid) {
    match version {
        RowVersion::Tuple { block, offset, xmin, .. } => (Tid { block: *block, offset: *offset }, Xid(*xmin)),
        // Refused before a batch is made of it.
        RowVersion::Digest { .. } => (Tid { block: u32::MAX, offset: 0 }, Xid(0)),
    }
}
