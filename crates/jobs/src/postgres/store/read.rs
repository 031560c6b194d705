//! Reading rows with their versions: a range in physical order, and single rows that lost a race.
//!
//! A row version is the tuple's place (ctid), the transaction that wrote it (xmin) and the file of the table. Place and
//! transaction name one version as long as the file stays: a place is used again only after VACUUM, and then by a later
//! transaction. A rewrite (VACUUM FULL, CLUSTER) keeps transactions and moves rows, hence the file. It needs no key,
//! follows no equality of the type, and a batch is found by place, which is the cheapest way there is.

use enfold::{Code, Error, Result};
use enfold_core::binding::OwnedPart;
use futures_util::future::join3;
use tokio_postgres::Row as PgRow;
use tokio_postgres::types::Type;

use super::statement::FREE;
use super::wire::{Raw, Tid, Xid};
use crate::model::Target;
use crate::postgres::held::{Beside, Held};
use crate::postgres::shape::{PartType, Shape};
use crate::postgres::{Param, Postgres, Purpose, Tx, ident};
use crate::store::{BATCH_BYTES, Batch, Lease, Origin, Row, RowVersion};

pub(super) async fn range(db: &Postgres, lease: &Lease, target: &Target, cursor: u64, limit: u32) -> Result<Batch> {
    let shape = db.shape(target).await?;
    let list = SelectList::new(target, &shape);
    let doing = format!("cannot read rows of `{}`", target.policy_table);
    let relation = &lease.range.relation;
    let sql = format!(
        "SELECT {} FROM ONLY {relation} t WHERE t.ctid >= $1 AND t.ctid < $2 AND {} LIMIT $3",
        list.text(Large::Apart),
        list.wanted()
    );
    let (tx, mut preamble) = db.not_begun(Purpose::Read).await?;
    preamble.push_str(shape.settings());
    let (start, end) = (Tid::at(cursor.max(lease.range.from)), Tid::at(lease.range.to));
    let most = i64::from(limit.max(1));
    let params: [Param<'_>; 3] = [(&start, Type::TID), (&end, Type::TID), (&most, Type::INT8)];
    // The file is asked for behind the rows, when the table is held against a rewrite.
    let (begun, found, file) =
        join3(tx.batch(&doing, &preamble), tx.query(&doing, &sql, &params), file_of(&tx, relation)).await;
    begun?;
    let (mut found, file) = (found?, file?);
    let full = found.len() >= usize::try_from(limit.max(1)).unwrap_or(usize::MAX);

    let (mut rows, mut bytes, mut last) = (Vec::with_capacity(found.len()), 0, None);
    let mut cut = false;
    // Each answer is given up as soon as it is read, so that a batch is not in memory twice.
    for answer in found.drain(..) {
        let place: Tid = answer.get(0);
        if last.is_some_and(|last| place <= last) {
            return Err(Error::new(Code::Internal, doing).cause("the rows did not come in physical order"));
        }
        let row = if answer.get::<_, bool>(LARGE) {
            match single(&tx, relation, &list, &answer).await? {
                Some(row) => list.row(&row, file)?,
                None => continue,
            }
        } else {
            list.row(&answer, file)?
        };
        bytes += size(&row);
        if bytes > BATCH_BYTES && !rows.is_empty() {
            cut = true;
            break;
        }
        last = Some(place);
        rows.push(row);
    }
    tx.commit_unheard();
    let next = match last {
        Some(last) if cut || full => Some(last.position() + 1),
        _ => None,
    };
    Ok(Batch { rows, next: next.filter(|next| *next < lease.range.to) })
}

/// The present versions of `lost`, found through the update chain where the server still knows it.
pub(super) async fn again(db: &Postgres, lease: &Lease, target: &Target, lost: &[RowVersion]) -> Result<Vec<Row>> {
    let shape = db.shape(target).await?;
    let list = SelectList::new(target, &shape);
    let doing = format!("cannot read rows of `{}` again", target.policy_table);
    let relation = &lease.range.relation;
    let places: Vec<Tid> = lost.iter().map(place_of).collect::<Result<_>>()?;
    let (tx, mut preamble) = db.not_begun(Purpose::Read).await?;
    preamble.push_str(shape.settings());
    tx.batch(&doing, &preamble).await?;
    let mut latest = current(&tx, &doing, relation, &places).await?;
    latest.sort_unstable_by_key(|(_, place)| *place);
    latest.dedup_by_key(|(_, place)| *place);
    let mut rows = Vec::with_capacity(latest.len());
    // As many at a time as cannot be too large: these are few rows, and may hold anything.
    for places in latest.chunks(64) {
        let places: Vec<Tid> = places.iter().map(|(_, place)| *place).collect();
        let (text, wanted) = (list.text(Large::Within), list.wanted());
        let sql = format!("SELECT {text} FROM ONLY {relation} t WHERE t.ctid = ANY ($1) AND {wanted}");
        let found = tx.query(&doing, &sql, &[(&places, Type::TID_ARRAY)]).await?;
        let file = file_of(&tx, relation).await?;
        for answer in &found {
            rows.push(list.row(answer, file)?);
        }
    }
    tx.commit().await?;
    Ok(rows)
}

/// Where the update chains of `places` end now, with the position in `places` from 0. Where a chain is broken (VACUUM,
/// a move to another partition), that is some other tuple's place or the old one: whoever reads it gets a row with a
/// version of its own.
async fn current(tx: &Tx, doing: &str, relation: &str, places: &[Tid]) -> Result<Vec<(usize, Tid)>> {
    // A place behind the end (the table was truncated) would be an error of the function.
    let rows = tx
        .query(
            doing,
            "SELECT u.n, pg_catalog.currtid2($1, u.tid) FROM unnest($2) WITH ORDINALITY AS u (tid, n) \
             WHERE (u.tid::text::point)[0] < pg_catalog.pg_relation_size($1::regclass) / pg_catalog.current_setting('block_size')::int8",
            &[(&relation, Type::TEXT), (&places, Type::TID_ARRAY)],
        )
        .await?;
    Ok(rows.iter().map(|row| (usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX), row.get(1))).collect())
}

/// The file of a table that this transaction has read from, and therefore holds against a rewrite.
pub(super) async fn file_of(tx: &Tx, relation: &str) -> Result<u32> {
    let doing = format!("cannot look up the file of {relation}");
    Ok(tx.one(&doing, "SELECT pg_catalog.pg_relation_filenode($1::regclass)", &[(&relation, Type::TEXT)]).await?.get(0))
}

pub(super) fn place_of(version: &RowVersion) -> Result<Tid> {
    match version {
        RowVersion::Tuple { block, offset, .. } => Ok(Tid { block: *block, offset: *offset }),
        RowVersion::Digest { .. } => Err(Error::new(Code::Internal, "a row version of another store came to Postgres")),
    }
}

async fn single(tx: &Tx, relation: &str, list: &SelectList<'_>, answer: &PgRow) -> Result<Option<PgRow>> {
    let sql = format!("SELECT {} FROM ONLY {relation} t WHERE t.ctid = $1 AND t.xmin = $2", list.text(Large::Within));
    let (place, xmin): (Tid, Xid) = (answer.get(0), answer.get(1));
    let rows = tx.query("cannot read a large row", &sql, &[(&place, Type::TID), (&xmin, Type::XID)]).await?;
    Ok(rows.into_iter().next())
}

fn size(row: &Row) -> usize {
    row.cells.iter().chain(&row.indexed).flatten().map(Vec::len).sum()
}

/// Where values go that are too large to be fetched with hundreds of others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Large {
    /// They are left out, and the row is marked.
    Apart,
    Within,
}

/// Positions in the answer: ctid, xmin, whether somebody has or had it, whether large cells were left out, then label,
/// tenant, key, cells, indexes, what stands beside, and where cells with a shadow were read.
const HELD: usize = 2;
const LARGE: usize = 3;
const FIRST: usize = 4;

pub(super) struct SelectList<'a> {
    target: &'a Target,
    shape: &'a Shape,
    /// Key columns that may be named to people: none of them is protected.
    label: &'a [String],
}

impl<'a> SelectList<'a> {
    pub(super) fn new(target: &'a Target, shape: &'a Shape) -> Self {
        let protected = target.key.iter().any(|key| target.columns.iter().any(|c| c.name == *key));
        Self { target, shape, label: if protected { &[] } else { &target.key } }
    }

    /// What became of rows that this transaction wrote to `places`: one answer for each, in order.
    pub(super) async fn latest(&self, tx: &Tx, relation: &str, places: &[Tid], file: u32) -> Result<Vec<Option<Row>>> {
        let doing = format!("cannot look again at rows of `{}`", self.target.policy_table);
        let mut rows: Vec<Option<Row>> = places.iter().map(|_| None).collect();
        let sql = format!("SELECT {} FROM ONLY {relation} t WHERE t.ctid = $1", self.text(Large::Within));
        for (at, place) in current(tx, &doing, relation, places).await? {
            for answer in tx.query(&doing, &sql, &[(&place, Type::TID)]).await? {
                rows[at] = Some(self.row(&answer, file)?);
            }
        }
        Ok(rows)
    }

    /// Which rows a sweep reads at all: of a pruning those that go.
    fn wanted(&self) -> &str {
        self.shape.doomed.as_deref().map_or("true", |doomed| doomed)
    }

    fn text(&self, large: Large) -> String {
        let column = |name: &str| format!("t.{}", ident(name));
        let tests: Vec<String> = self.shape.columns.iter().map(Held::large).collect();
        let mut list = vec!["t.ctid".to_owned(), "t.xmin".to_owned(), format!("NOT ({FREE})")];
        list.push(match large {
            Large::Apart if !tests.is_empty() => format!("coalesce({}, false)", tests.join(" OR ")),
            _ => "false".to_owned(),
        });
        list.extend(self.label.iter().map(|key| format!("{}::text", column(key))));
        list.extend(self.target.tenant.iter().zip(&self.shape.tenant).map(|(name, part)| part.read(&column(name))));
        list.extend(self.target.row_key.iter().zip(&self.shape.row_key).map(|(name, part)| part.read(&column(name))));
        let unless_large = |test: &str, read: String| match large {
            Large::Apart => format!("CASE WHEN {test} THEN NULL ELSE {read} END"),
            Large::Within => read,
        };
        let held = || self.shape.columns.iter().zip(&tests);
        list.extend(held().map(|(held, test)| unless_large(test, held.stored())));
        list.extend(self.target.indexes.iter().map(|index| format!("{}::bytea", column(&index.column))));
        list.extend(self.companions().map(Beside::stored));
        list.extend(held().filter_map(|(held, test)| Some(unless_large(test, held.origin()?))));
        list.join(", ")
    }

    fn companions(&self) -> impl Iterator<Item = &Beside> {
        self.shape.columns.iter().flat_map(|held| &held.companions)
    }

    fn row(&self, answer: &PgRow, file: u32) -> Result<Row> {
        let (place, xmin): (Tid, Xid) = (answer.get(0), answer.get(1));
        let mut at = FIRST;
        let mut next = || {
            at += 1;
            at - 1
        };
        let mut label = String::new();
        for key in self.label {
            let value: Option<&str> = answer.try_get(next()).map_err(|_| unreadable(&self.target.policy_table))?;
            label.push_str(if label.is_empty() { "" } else { "," });
            label.push_str(&format!("{key}={}", value.unwrap_or("NULL")));
        }
        if label.is_empty() {
            label = format!("ctid=({},{})", place.block, place.offset);
        }
        let tenant = match self.shape.tenant {
            Some(part) => self.part(answer, next(), part)?,
            None => None,
        };
        let key_parts =
            self.shape.row_key.iter().map(|part| self.part(answer, next(), *part)).collect::<Result<Vec<_>>>()?;
        // A key with a NULL in it names no row: the codec sees that it is missing.
        let row_key = key_parts.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default();
        let mut bytes = || answer.get::<_, Option<Raw<'_>>>(next()).map(|raw| raw.0.to_vec());
        let cells = self.target.columns.iter().map(|_| bytes()).collect();
        let indexed = self.target.indexes.iter().map(|_| bytes()).collect();
        let beside = self.companions().map(|_| bytes()).collect();
        let mut origins = Vec::new();
        if self.shape.columns.iter().any(Held::has_origin) {
            origins.extend(self.shape.columns.iter().map(|held| match held.has_origin() {
                false => Origin::Holder,
                true => origin(answer.get(next())),
            }));
        }
        Ok(Row {
            version: RowVersion::Tuple {
                file,
                block: place.block,
                offset: place.offset,
                xmin: xmin.0,
                held: answer.get(HELD),
            },
            label,
            origins,
            cells,
            indexed,
            beside,
            tenant,
            row_key,
        })
    }

    fn part(&self, answer: &PgRow, at: usize, part: PartType) -> Result<Option<OwnedPart>> {
        if part == PartType::Int {
            return Ok(answer.get::<_, Option<i64>>(at).map(OwnedPart::Int));
        }
        let Some(Raw(bytes)) = answer.get::<_, Option<Raw<'_>>>(at) else { return Ok(None) };
        let unreadable = || unreadable(&self.target.policy_table);
        Ok(Some(match part {
            PartType::Text => OwnedPart::Text(std::str::from_utf8(bytes).map_err(|_| unreadable())?.to_owned()),
            PartType::Uuid => OwnedPart::Uuid(bytes.try_into().map_err(|_| unreadable())?),
            PartType::Int | PartType::Bytes => OwnedPart::Bytes(bytes.to_vec()),
        }))
    }
}

/// As [`Held::origin`] numbers them; NULL where the cells were left out, with the row to be read again.
fn origin(number: Option<i32>) -> Origin {
    match number {
        None | Some(0) => Origin::Holder,
        Some(1) => Origin::Source,
        Some(2) => Origin::Both,
        Some(_) => Origin::Inexact,
    }
}

fn unreadable(table: &str) -> Error {
    Error::new(Code::DatabaseFailed, format!("a key or tenant of `{table}` is not text in UTF-8"))
}
