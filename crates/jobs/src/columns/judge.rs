//! Judging a batch: column by column, every key used once for all rows.

use enfold::policy::Lookalikes;
use enfold::{Code, Companion, Error, Result};
use enfold_core::stored::{Stored, detect};
use enfold_core::{Envelope, Error as Core, Form, Part, PayloadType};
use zeroize::Zeroizing;

use super::{CellItem, ColumnCodec, IndexItem, Place, Protected, concerns_one_row};
use crate::codec::Verdict;
use crate::model::{Goal, RowError, Target, TargetColumn, TargetIndex};
use crate::store::{Cell, Change, Origin, Row};

/// A row on its way to a verdict.
struct Judged<'a> {
    row: &'a Row,
    parts: Vec<Part<'a>>,
    /// What stands beside each cell.
    beside: Vec<Vec<(Companion, &'a [u8])>>,
    /// The plaintext of each cell, where it is known.
    values: Vec<Option<Zeroizing<Vec<u8>>>>,
    cells: Vec<Cell>,
    indexed: Vec<Cell>,
    /// Of the data key of each envelope that is set, where the column has marks beside it; empty where none of the target has.
    versions: Vec<Option<u32>>,
    /// What is wrong with each cell, where something is: that cell is left as it is, and so is every index over it. The
    /// row's other cells are none the worse for it.
    failed: Vec<Option<RowError>>,
}

pub(super) async fn judge(codec: &ColumnCodec, goal: Goal, target: &Target, rows: &[Row]) -> Result<Vec<Verdict>> {
    if goal == Goal::Prune {
        // No row was read but those that go.
        return Ok(rows.iter().map(|row| Verdict::Convert(Change::gone(row))).collect());
    }
    let mut judged: Vec<Judged<'_>> = rows.iter().map(|row| Judged::new(row, target)).collect();
    for (at, column) in target.columns.iter().enumerate() {
        let protected = codec.column(target, at)?;
        let to_seal = match goal {
            Goal::Reencrypt => leave_former_keys(protected, target, (at, column), &mut judged).await?,
            _ => read(protected, goal, (at, column), &mut judged).await?,
        };
        if matches!(goal, Goal::Protect | Goal::Reencrypt) || column.writes.is_some() {
            seal(protected, (at, column), &to_seal, &mut judged).await?;
        }
    }
    // A blind index has a key of its own, which the rotation of data keys leaves alone.
    if !matches!(goal, Goal::Unprotect | Goal::Reencrypt) {
        for (at, index) in target.indexes.iter().enumerate() {
            fill(codec, goal, target, (at, index), &mut judged).await?;
        }
    }
    Ok(judged.into_iter().map(|row| row.verdict(goal, target)).collect())
}

/// A row whose value is to be sealed, and as what.
type ToSeal = (usize, PayloadType);

/// Learns the value of every cell of a column, and returns which rows hold it in another form than an envelope: as
/// plaintext, or as another product encrypted it. On the way back to a format of another product's those that hold an
/// envelope: the others are as somebody else wrote them.
async fn read(
    protected: &Protected,
    goal: Goal,
    (at, column): (usize, &TargetColumn),
    judged: &mut [Judged<'_>],
) -> Result<Vec<ToSeal>> {
    let form = column.storage.form();
    let (mut plain, mut sealed, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    for (n, row) in judged.iter_mut().enumerate() {
        let Some(cell) = row.row.cells[at].as_deref() else { continue };
        match row.row.origin(at) {
            Origin::Holder => {}
            Origin::Both => {
                row.fail((at, column), Code::ValueInvalid, &"both the column and its shadow hold a value");
                continue;
            }
            Origin::Inexact if goal != Goal::Unprotect => {
                row.fail((at, column), Code::ValueInvalid, &"what the database prints of it is not read as the same");
                continue;
            }
            Origin::Source | Origin::Inexact => {
                plain.push(n);
                continue;
            }
        }
        let reader = || protected.cells.reader_of(form, cell, &row.beside[at]);
        match detect(form, cell) {
            Stored::Plain if reader().is_some() => foreign.push(n),
            Stored::Plain if !row.beside[at].is_empty() => {
                let reason = &"something stands beside the value, and no reader has parts there";
                row.fail((at, column), Code::ValueInvalid, reason);
            }
            Stored::Plain => plain.push(n),
            Stored::Envelope(_) => sealed.push(n),
            // What a newer program wrote is no text of a user's, whatever the policy says of lookalikes.
            Stored::Lookalike(error @ Core::NewerVersion { .. }) => row.fail((at, column), Code::EnvelopeNewer, &error),
            Stored::Lookalike(_) if protected.lookalikes == Lookalikes::Plaintext => match reader() {
                Some(_) => foreign.push(n),
                None => plain.push(n),
            },
            Stored::Lookalike(error) => row.fail((at, column), Code::EnvelopeMalformed, &error),
        }
    }
    let payload = column.payload();
    if column.writes.is_some() {
        open(protected, goal, (at, column), &sealed, judged).await?;
        sealed.retain(|&n| judged[n].values[at].is_some());
        return Ok(sealed.into_iter().map(|n| (n, payload)).collect());
    }
    if goal == Goal::Verify {
        for n in std::mem::take(&mut foreign) {
            judged[n].fail_as_foreign(protected, (at, column));
        }
    }
    sealed.extend(&foreign);
    open(protected, goal, (at, column), &sealed, judged).await?;
    for &n in &plain {
        let row = &mut judged[n];
        if goal == Goal::Verify {
            row.fail((at, column), Code::PlaintextFound, &"the value is not an envelope");
        } else {
            row.values[at] = row.row.cells[at].clone().map(Zeroizing::new);
        }
    }
    plain.extend(foreign.into_iter().filter(|&n| judged[n].values[at].is_some()));
    Ok(if goal == Goal::Verify { Vec::new() } else { plain.into_iter().map(|n| (n, payload)).collect() })
}

/// Opens the envelopes of a column that are under a former data key, and returns their rows. The others are not looked at:
/// they are as they should be, and so is plaintext as far as a re-encryption goes.
async fn leave_former_keys(
    protected: &Protected,
    target: &Target,
    (at, column): (usize, &TargetColumn),
    judged: &mut [Judged<'_>],
) -> Result<Vec<ToSeal>> {
    let former = protected.cells.former_keys(&target.leaving).await?;
    let mut leaving = Vec::new();
    for (n, row) in judged.iter().enumerate() {
        let cell = row.row.cells[at].as_deref();
        if let Some(Stored::Envelope(bytes)) = cell.map(|cell| detect(column.storage.form(), cell))
            && let Ok(envelope) = Envelope::parse(&bytes)
            && former.contains(&envelope.key_id())
        {
            leaving.push((n, envelope.payload()));
        }
    }
    let rows: Vec<usize> = leaving.iter().map(|(n, _)| *n).collect();
    open(protected, Goal::Reencrypt, (at, column), &rows, judged).await?;
    leaving.retain(|(n, _)| judged[*n].values[at].is_some());
    Ok(leaving)
}

/// Opens the envelopes of these rows, and what other products encrypted.
async fn open(
    protected: &Protected,
    goal: Goal,
    (at, column): (usize, &TargetColumn),
    sealed: &[usize],
    judged: &mut [Judged<'_>],
) -> Result<()> {
    let form = column.storage.form();
    let opened = {
        let items: Vec<CellItem<'_>> = sealed.iter().map(|&n| judged[n].item(at)).collect();
        if items.is_empty() { Vec::new() } else { protected.cells.open_many(form, &items).await }
    };
    same_number(opened.len(), sealed.len())?;
    for (&n, opened) in sealed.iter().zip(opened) {
        match opened {
            // As for envelopes in `Judged::open`: stored as it is, it would be taken for another product's.
            Ok(value)
                if goal == Goal::Unprotect
                    && column.writes.is_none()
                    && protected.cells.reader_of(form, &value, &[]).is_some() =>
            {
                let reason = &"the value itself has a form that a reader recognises";
                judged[n].fail((at, column), Code::ValueInvalid, reason);
            }
            Ok(value) => judged[n].open(goal, (at, column), value),
            // Whatever the policy says of lookalikes: it may be stolen, or its key withheld, and sealing it again would
            // hide that.
            Err(error) => judged[n].fail_or_stop((at, column), error)?,
        }
    }
    Ok(())
}

/// Seals known values, or writes them in another product's format, opens what came out, and compares: what cannot be opened
/// again must never replace a value.
async fn seal(
    protected: &Protected,
    (at, column): (usize, &TargetColumn),
    to_seal: &[ToSeal],
    judged: &mut [Judged<'_>],
) -> Result<()> {
    let form = column.storage.form();
    let mut done = Vec::with_capacity(to_seal.len());
    // Nearly always all of them are of one type.
    for same in to_seal.chunk_by(|(_, one), (_, other)| one == other) {
        let sealed = {
            let items: Vec<CellItem<'_>> = same.iter().map(|(n, _)| judged[*n].value(at)).collect();
            match &column.writes {
                Some(reader) => protected.cells.write_back_many(reader, form, &items).await,
                None => protected.cells.seal_many(form, same[0].1, &items).await,
            }
        };
        same_number(sealed.len(), same.len())?;
        for ((n, _), sealed) in same.iter().zip(sealed) {
            match sealed {
                Ok(bytes) => done.push((*n, bytes)),
                Err(error) => judged[*n].fail_or_stop((at, column), error)?,
            }
        }
    }
    if done.is_empty() {
        return Ok(());
    }
    let opened = {
        let items: Vec<CellItem<'_>> =
            done.iter().map(|(n, bytes)| CellItem { place: judged[*n].place(), bytes, beside: &[] }).collect();
        protected.cells.open_many(form, &items).await
    };
    same_number(opened.len(), done.len())?;
    for ((n, bytes), opened) in done.into_iter().zip(opened) {
        let row = &mut judged[n];
        match opened {
            Ok(value) if row.values[at].as_ref().is_some_and(|known| **known == *value) => {
                if column.has_marks() && column.writes.is_none() {
                    row.versions[at] = Some(version_of(protected, form, &bytes).await?);
                }
                row.cells[at] = Cell::Set(Some(bytes));
            }
            Ok(_) => row.fail((at, column), Code::Internal, &"what was made of it opens to another value"),
            Err(error) => row.fail_or_stop((at, column), error)?,
        }
    }
    Ok(())
}

/// The version of the data key that an envelope is under.
async fn version_of(protected: &Protected, form: Form, envelope: &[u8]) -> Result<u32> {
    let key = match detect(form, envelope) {
        Stored::Envelope(bytes) => Envelope::parse(&bytes).ok().map(|envelope| envelope.key_id()),
        _ => None,
    };
    let key = key.ok_or_else(|| Error::new(Code::Internal, "what was sealed is no envelope"))?;
    protected.cells.version_of(key).await
}

/// Computes one blind index, and sets it where the row holds another. A row with something wrong in one of the index's
/// columns keeps what it has.
async fn fill(
    codec: &ColumnCodec,
    goal: Goal,
    target: &Target,
    (at, index): (usize, &TargetIndex),
    judged: &mut [Judged<'_>],
) -> Result<()> {
    let Some(&first) = index.over.first() else { return Ok(()) };
    let column = &target.columns[first];
    let protected = codec.column(target, first)?;
    // A row with a NULL among the values has no index value: nothing equals NULL.
    let whole = |row: &Judged<'_>| index.over.iter().all(|&over| row.values[over].is_some());
    let sound = |n: &usize| index.over.iter().all(|&over| judged[*n].failed[over].is_none());
    let sound: Vec<usize> = (0..judged.len()).filter(sound).collect();
    let (with, without): (Vec<usize>, Vec<usize>) = sound.into_iter().partition(|&n| whole(&judged[n]));
    let computed = {
        let value =
            |n: usize, over: usize| judged[n].values[over].as_ref().map(|v| indexable(&target.columns[over], v));
        let values: Vec<Vec<Indexable<'_>>> =
            with.iter().map(|&n| index.over.iter().filter_map(|&over| value(n, over)).collect()).collect();
        let mut items = Vec::with_capacity(with.len());
        for (&n, values) in with.iter().zip(&values) {
            let values = values.iter().map(Indexable::bytes).collect();
            items.push(IndexItem { place: judged[n].place(), values });
        }
        if items.is_empty() { Vec::new() } else { protected.cells.index_many(index, &items).await }
    };
    same_number(computed.len(), with.len())?;
    for (n, computed) in with.into_iter().zip(computed) {
        match computed {
            Ok(value) => judged[n].index(goal, at, (first, column), Some(value)),
            Err(error) => judged[n].fail_or_stop((first, column), error)?,
        }
    }
    for n in without {
        judged[n].index(goal, at, (first, column), None);
    }
    Ok(())
}

impl<'a> Judged<'a> {
    fn new(row: &'a Row, target: &Target) -> Self {
        Self {
            row,
            parts: row.row_key.iter().map(|part| part.as_part()).collect(),
            beside: beside(row, target),
            values: vec![None; target.columns.len()],
            cells: vec![Cell::Keep; target.columns.len()],
            indexed: vec![Cell::Keep; target.indexes.len()],
            versions: if target.columns.iter().any(TargetColumn::has_marks) {
                vec![None; target.columns.len()]
            } else {
                Vec::new()
            },
            failed: vec![None; target.columns.len()],
        }
    }

    fn place(&self) -> Place<'_> {
        Place { tenant: self.row.tenant.as_ref().map(|part| part.as_part()), row: &self.parts }
    }

    /// The stored bytes of a cell that is not NULL.
    fn item(&self, at: usize) -> CellItem<'_> {
        CellItem {
            place: self.place(),
            bytes: self.row.cells[at].as_deref().unwrap_or_default(),
            beside: &self.beside[at],
        }
    }

    /// The value of a cell, where it is known.
    fn value(&self, at: usize) -> CellItem<'_> {
        let bytes = self.values[at].as_ref().map_or(&[][..], |value| &value[..]);
        CellItem { place: self.place(), bytes, beside: &[] }
    }

    /// An envelope opened, or what another product encrypted.
    fn open(&mut self, goal: Goal, (at, column): (usize, &TargetColumn), value: Zeroizing<Vec<u8>>) {
        if goal == Goal::Unprotect && column.writes.is_none() {
            // Stored as plaintext it would be taken for an envelope again, by every reader and by the next run.
            if !matches!(detect(column.storage.form(), &value), Stored::Plain | Stored::Lookalike(Core::Malformed(_))) {
                return self.fail((at, column), Code::ValueInvalid, &"the value itself has the form of an envelope");
            }
            self.cells[at] = Cell::Set(Some(value.to_vec()));
        }
        self.values[at] = Some(value);
    }

    /// `wanted`: the first is to be stored. Another is as good while an index is rotated: the column may hold it already.
    fn index(&mut self, goal: Goal, at: usize, column: (usize, &TargetColumn), wanted: Option<Vec<Vec<u8>>>) {
        let held = &self.row.indexed[at];
        let as_wanted = match (held, &wanted) {
            (Some(held), Some(wanted)) => wanted.contains(held),
            (held, wanted) => held.is_none() && wanted.is_none(),
        };
        if as_wanted {
            return;
        }
        if goal == Goal::Verify {
            return self.fail(column, Code::ValueInvalid, &"the blind index is not that of the value");
        }
        self.indexed[at] = Cell::Set(wanted.and_then(|living| living.into_iter().next()));
    }

    /// The first error of a cell stands for it. A value whose index cannot be computed stays as it is too: sealed, nobody
    /// would find it.
    fn fail(&mut self, (at, column): (usize, &TargetColumn), code: Code, reason: &dyn std::fmt::Display) {
        self.cells[at] = Cell::Keep;
        self.failed[at].get_or_insert(RowError {
            row: self.row.label.clone(),
            column: column.name.clone(),
            code: code.word().to_owned(),
            reason: reason.to_string(),
        });
    }

    fn fail_as_foreign(&mut self, protected: &Protected, (at, column): (usize, &TargetColumn)) {
        let stored = self.row.cells[at].as_deref().unwrap_or_default();
        let beside = &self.beside[at];
        let reader = protected.cells.reader_of(column.storage.form(), stored, beside).unwrap_or_default();
        let reason = format!("the value is in the format of reader `{reader}`, and no envelope");
        self.fail((at, column), Code::PlaintextFound, &reason);
    }

    fn fail_or_stop(&mut self, column: (usize, &TargetColumn), error: Error) -> Result<()> {
        if !concerns_one_row(error.code()) {
            return Err(error);
        }
        self.fail(column, error.code(), &error);
        Ok(())
    }

    fn verdict(self, goal: Goal, target: &Target) -> Verdict {
        let beside = self.emptied(goal, target);
        let errors: Vec<RowError> = self.failed.into_iter().flatten().collect();
        let unchanged = self.cells.iter().chain(&self.indexed).chain(&beside).all(|cell| *cell == Cell::Keep);
        match (unchanged, errors.is_empty()) {
            (true, true) => Verdict::Satisfied,
            (true, false) => Verdict::Failed(errors),
            (false, _) => Verdict::Convert(Change {
                version: self.row.version.clone(),
                label: self.row.label.clone(),
                cells: self.cells,
                indexed: self.indexed,
                beside,
                versions: self.versions,
                errors,
            }),
        }
    }

    /// What stands beside a value goes with the form that needed it, and where somebody sealed a value and left it.
    fn emptied(&self, goal: Goal, target: &Target) -> Vec<Cell> {
        let converts = matches!(goal, Goal::Protect | Goal::Unprotect);
        let emptied = target.columns.iter().enumerate().flat_map(|(at, column)| {
            let stays = column.writes.is_some() && self.cells[at] == Cell::Keep;
            let goes = converts && !stays && self.failed[at].is_none() && self.row.cells[at].is_some();
            column.companions.keys().map(move |companion| {
                let held = self.beside[at].iter().any(|(is, _)| is == companion);
                if goes && held { Cell::Set(None) } else { Cell::Keep }
            })
        });
        emptied.collect()
    }
}

/// What stands beside each cell of a row, without what is NULL.
fn beside<'a>(row: &'a Row, target: &Target) -> Vec<Vec<(Companion, &'a [u8])>> {
    let mut held = row.beside.iter();
    let of = |column: &TargetColumn| {
        let each = column.companions.keys().zip(held.by_ref());
        each.filter_map(|(companion, held)| Some((*companion, held.as_deref()?))).collect()
    };
    target.columns.iter().map(of).collect()
}

/// The value as a blind index takes it. Of a member that is a string, its characters: so that a lookup need not write JSON.
fn indexable<'v>(column: &TargetColumn, value: &'v [u8]) -> Indexable<'v> {
    let characters = column.member.as_ref().and_then(|_| serde_json::from_slice::<String>(value).ok());
    match characters {
        Some(text) => Indexable::Made(Zeroizing::new(text.into_bytes())),
        None => Indexable::Value(value),
    }
}

enum Indexable<'v> {
    Value(&'v [u8]),
    Made(Zeroizing<Vec<u8>>),
}

impl Indexable<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Value(value) => value,
            Self::Made(text) => text,
        }
    }
}

fn same_number(got: usize, wanted: usize) -> Result<()> {
    if got == wanted {
        return Ok(());
    }
    Err(Error::new(Code::Internal, "a column gave another number of results than it was given values"))
}
