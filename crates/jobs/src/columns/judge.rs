//! Judging a batch: column by column, every key used once for all rows.

use enfold::policy::Lookalikes;
use enfold::{Code, Error, Result};
use enfold_core::stored::{Stored, detect};
use enfold_core::{Error as Core, Part};
use zeroize::Zeroizing;

use super::{CellItem, ColumnCodec, IndexItem, Place, Protected, concerns_one_row};
use crate::codec::Verdict;
use crate::model::{Goal, RowError, Target, TargetColumn, TargetIndex};
use crate::store::{Cell, Change, Origin, Row};

/// A row on its way to a verdict.
struct Judged<'a> {
    row: &'a Row,
    parts: Vec<Part<'a>>,
    /// What blind indexes are over: the plaintext of each cell, where it is known.
    values: Vec<Option<Zeroizing<Vec<u8>>>>,
    cells: Vec<Cell>,
    indexed: Vec<Cell>,
    /// What is wrong with each cell, where something is: that cell is left as it is, and so is every index over it. The
    /// row's other cells are none the worse for it.
    failed: Vec<Option<RowError>>,
}

pub(super) async fn judge(codec: &ColumnCodec, goal: Goal, target: &Target, rows: &[Row]) -> Result<Vec<Verdict>> {
    let mut judged: Vec<Judged<'_>> = rows.iter().map(|row| Judged::new(row, target)).collect();
    for (at, column) in target.columns.iter().enumerate() {
        let protected = codec.column(target, at)?;
        let plain = read(protected, goal, (at, column), &mut judged).await?;
        if goal == Goal::Protect {
            seal(protected, (at, column), &plain, &mut judged).await?;
        }
    }
    if goal != Goal::Unprotect {
        for (at, index) in target.indexes.iter().enumerate() {
            fill(codec, goal, target, (at, index), &mut judged).await?;
        }
    }
    Ok(judged.into_iter().map(Judged::verdict).collect())
}

/// Learns the value of every cell of a column, and returns which rows hold it as plaintext.
async fn read(
    protected: &Protected,
    goal: Goal,
    (at, column): (usize, &TargetColumn),
    judged: &mut [Judged<'_>],
) -> Result<Vec<usize>> {
    let form = column.storage.form();
    let (mut plain, mut sealed) = (Vec::new(), Vec::new());
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
        match detect(form, cell) {
            Stored::Plain => plain.push(n),
            Stored::Envelope(_) => sealed.push(n),
            // What a newer program wrote is no text of a user's, whatever the policy says of lookalikes.
            Stored::Lookalike(error @ Core::NewerVersion { .. }) => row.fail((at, column), Code::EnvelopeNewer, &error),
            Stored::Lookalike(_) if protected.lookalikes == Lookalikes::Plaintext => plain.push(n),
            Stored::Lookalike(error) => row.fail((at, column), Code::EnvelopeMalformed, &error),
        }
    }
    let opened = {
        let items: Vec<CellItem<'_>> = sealed.iter().map(|&n| judged[n].item(at)).collect();
        if items.is_empty() { Vec::new() } else { protected.cells.open_many(form, &items).await }
    };
    same_number(opened.len(), sealed.len())?;
    for (n, opened) in sealed.into_iter().zip(opened) {
        match opened {
            Ok(value) => judged[n].open(goal, (at, column), value),
            // Whatever the policy says of lookalikes: it may be stolen, or its key withheld, and sealing it again would
            // hide that.
            Err(error) => judged[n].fail_or_stop((at, column), error)?,
        }
    }
    for &n in &plain {
        let row = &mut judged[n];
        if goal == Goal::Verify {
            row.fail((at, column), Code::PlaintextFound, &"the value is not an envelope");
        } else {
            row.values[at] = row.row.cells[at].clone().map(|value| indexable(column, Zeroizing::new(value)));
        }
    }
    Ok(if goal == Goal::Verify { Vec::new() } else { plain })
}

/// Seals plaintext cells, opens what came out, and compares: what cannot be opened again must never replace a value.
async fn seal(
    protected: &Protected,
    (at, column): (usize, &TargetColumn),
    plain: &[usize],
    judged: &mut [Judged<'_>],
) -> Result<()> {
    let (form, payload) = (column.storage.form(), column.payload());
    if plain.is_empty() {
        return Ok(());
    }
    let sealed = {
        let items: Vec<CellItem<'_>> = plain.iter().map(|&n| judged[n].item(at)).collect();
        protected.cells.seal_many(form, payload, &items).await
    };
    same_number(sealed.len(), plain.len())?;
    let mut done = Vec::with_capacity(plain.len());
    for (&n, sealed) in plain.iter().zip(sealed) {
        match sealed {
            Ok(bytes) => done.push((n, bytes)),
            Err(error) => judged[n].fail_or_stop((at, column), error)?,
        }
    }
    let opened = {
        let items: Vec<CellItem<'_>> =
            done.iter().map(|(n, bytes)| CellItem { place: judged[*n].place(), bytes }).collect();
        protected.cells.open_many(form, &items).await
    };
    same_number(opened.len(), done.len())?;
    for ((n, bytes), opened) in done.into_iter().zip(opened) {
        let row = &mut judged[n];
        match opened {
            Ok(value) if Some(value.as_slice()) == row.row.cells[at].as_deref() => {
                row.cells[at] = Cell::Set(Some(bytes));
            }
            Ok(_) => row.fail((at, column), Code::Internal, &"what was sealed opens to another value"),
            Err(error) => row.fail_or_stop((at, column), error)?,
        }
    }
    Ok(())
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
        let item = |&n: &usize| {
            let row = &judged[n];
            let values = index.over.iter().filter_map(|&over| row.values[over].as_ref().map(|v| &v[..]));
            IndexItem { place: row.place(), values: values.collect() }
        };
        let items: Vec<IndexItem<'_>> = with.iter().map(item).collect();
        if items.is_empty() { Vec::new() } else { protected.cells.index_many(&index.name, &items).await }
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
            values: vec![None; target.columns.len()],
            cells: vec![Cell::Keep; target.columns.len()],
            indexed: vec![Cell::Keep; target.indexes.len()],
            failed: vec![None; target.columns.len()],
        }
    }

    fn place(&self) -> Place<'_> {
        Place { tenant: self.row.tenant.as_ref().map(|part| part.as_part()), row: &self.parts }
    }

    /// The stored bytes of a cell that is not NULL.
    fn item(&self, at: usize) -> CellItem<'_> {
        CellItem { place: self.place(), bytes: self.row.cells[at].as_deref().unwrap_or_default() }
    }

    /// An envelope opened.
    fn open(&mut self, goal: Goal, (at, column): (usize, &TargetColumn), value: Zeroizing<Vec<u8>>) {
        if goal == Goal::Unprotect {
            // Stored as plaintext it would be taken for an envelope again, by every reader and by the next run.
            if !matches!(detect(column.storage.form(), &value), Stored::Plain | Stored::Lookalike(Core::Malformed(_))) {
                return self.fail((at, column), Code::ValueInvalid, &"the value itself has the form of an envelope");
            }
            self.cells[at] = Cell::Set(Some(value.to_vec()));
        }
        self.values[at] = Some(indexable(column, value));
    }

    fn index(&mut self, goal: Goal, at: usize, column: (usize, &TargetColumn), wanted: Option<Vec<u8>>) {
        if self.row.indexed[at] == wanted {
            return;
        }
        if goal == Goal::Verify {
            return self.fail(column, Code::ValueInvalid, &"the blind index is not that of the value");
        }
        self.indexed[at] = Cell::Set(wanted);
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

    fn fail_or_stop(&mut self, column: (usize, &TargetColumn), error: Error) -> Result<()> {
        if !concerns_one_row(error.code()) {
            return Err(error);
        }
        self.fail(column, error.code(), &error);
        Ok(())
    }

    fn verdict(self) -> Verdict {
        let errors: Vec<RowError> = self.failed.into_iter().flatten().collect();
        let unchanged = self.cells.iter().chain(&self.indexed).all(|cell| *cell == Cell::Keep);
        match (unchanged, errors.is_empty()) {
            (true, true) => Verdict::Satisfied,
            (true, false) => Verdict::Failed(errors),
            (false, _) => Verdict::Convert(Change {
                version: self.row.version.clone(),
                label: self.row.label.clone(),
                cells: self.cells,
                indexed: self.indexed,
                errors,
            }),
        }
    }
}

/// The value as a blind index takes it. Of a member that is a string, its characters: so that a lookup need not write JSON.
fn indexable(column: &TargetColumn, value: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if column.member.is_none() {
        return value;
    }
    match serde_json::from_slice::<String>(&value) {
        Ok(text) => Zeroizing::new(text.into_bytes()),
        Err(_) => value,
    }
}

fn same_number(got: usize, wanted: usize) -> Result<()> {
    if got == wanted {
        return Ok(());
    }
    Err(Error::new(Code::Internal, "a column gave another number of results than it was given values"))
}
