//! Types: what a declared type lets a column hold, and what it does hold.

use enfold::Result;

use super::super::census;
use super::super::error::Doing;
use super::super::names::{quote, same};
use super::super::shape::ColumnShape;
use super::Findings;
use crate::database::{ColumnFacts, Counts};
use crate::model::{Census, Storage, TableName, Target, TargetColumn};
use crate::words::Word;

/// Counts of a column's storage classes.
#[derive(Default)]
struct Classes {
    text: i64,
    blob: i64,
    number: i64,
    bytes: i64,
}

impl Findings<'_> {
    pub(super) fn columns(&mut self) -> Result<Vec<ColumnFacts>> {
        let policy = self.policy;
        let mut facts = Vec::new();
        for (name, column_policy) in &policy.columns {
            if column_policy.member.is_some() {
                let says = format!("`{name}` is a member of a JSON column, which SQLite keeps as text");
                self.refusals.push(Word::JsonPath.about(name, says));
                facts.push(member_facts(name));
                continue;
            }
            match self.shape.column(name) {
                Some(column) => {
                    let column = column.clone();
                    facts.push(self.column(&column)?);
                }
                None if self.names_a_path(name) => {
                    self.refusals.push(Word::JsonPath.about(name, format!("`{name}` names a path inside a column")));
                }
                None => {
                    self.shape.require(name)?;
                }
            }
        }
        if self.counts == Counts::Taken {
            self.count(&mut facts)?;
        }
        for name in policy.tenant.iter().chain(&policy.row_key) {
            self.bound(name)?;
        }
        Ok(facts)
    }

    fn names_a_path(&self, name: &str) -> bool {
        let base = name.split(['.', '-', '$', '[']).next().unwrap_or(name);
        base != name && self.shape.column(base).is_some()
    }

    fn column(&mut self, column: &ColumnShape) -> Result<ColumnFacts> {
        let name = &column.name;
        // Of a column without a type, what is there decides how envelopes are stored.
        let classes = match self.counts {
            Counts::LeftOut if affinity(&column.declared) != Affinity::Blob => Classes::default(),
            _ => self.classes(name)?,
        };
        let storage = storage(column, &classes);
        if self.policy.columns.get(name).is_some_and(|policy| policy.shadow.is_some()) {
            self.refusals.push(Word::ShadowDialect.about(name, format!("`{name}` has a shadow in the policy")));
        }
        if column.generated {
            self.refusals.push(
                Word::GeneratedItself
                    .about(name, format!("`{name}` is a generated column"))
                    .out("keep the value in an ordinary column, or protect the columns it is computed from"),
            );
        } else if storage.is_none() {
            self.refuse_type(column, &classes);
        }
        if column.key > 0 {
            self.refusals.push(Word::PrimaryKey.about(name, format!("`{name}` is part of the primary key")));
        }
        if let Some(default) = column.default.as_deref().filter(|d| !d.eq_ignore_ascii_case("NULL")) {
            // The default itself may be somebody's value: it is not repeated.
            let says = format!("`{name}` has a default of {} characters", default.chars().count());
            self.refusals.push(Word::PlaintextDefault.about(name, says).out(
                "have the application write the value, and make the table again without the default (SQLite cannot drop one)",
            ));
        }
        self.companions(name)?;
        self.other_classes(column, storage, &classes);
        let values = classes.text + classes.blob + classes.number;
        Ok(ColumnFacts {
            name: name.clone(),
            sql_type: column.declared.clone(),
            storage: storage.filter(|_| !column.generated),
            widen: false,
            average_bytes: u32::try_from(classes.bytes / values.max(1)).unwrap_or(u32::MAX),
            census: Census::default(),
            shadow: None,
        })
    }

    /// What stands beside a value must be there, and is emptied with it.
    fn companions(&mut self, name: &str) -> Result<()> {
        for companion in self.policy.columns.get(name).iter().flat_map(|policy| policy.companions.values()) {
            let column = self.shape.require(companion)?;
            if column.not_null || column.key > 0 || column.generated {
                let says = format!("`{companion}`, which stands beside it, takes no NULL");
                let finding = Word::CompanionRequired.about(name, says);
                self.refusals
                    .push(finding.out("make the table again with the column nullable (SQLite cannot drop a NOT NULL)"));
            }
        }
        Ok(())
    }

    /// Counts all columns in one pass over the table.
    fn count(&self, facts: &mut [ColumnFacts]) -> Result<()> {
        let column = |c: &ColumnFacts| {
            Some(TargetColumn {
                name: c.name.clone(),
                id: String::new(),
                storage: c.storage?,
                shadow: None,
                member: None,
                companions: Default::default(),
                writes: None,
            })
        };
        let target = Target {
            table: TableName { schema: String::new(), table: self.shape.name.clone() },
            policy_table: self.policy.name.clone(),
            columns: facts.iter().filter_map(column).collect(),
            indexes: Vec::new(),
            tenant: None,
            row_key: Vec::new(),
            key: self.shape.key(),
            leaving: enfold::Leaving::default(),
            prune: None,
        };
        let counts = census::census(self.connection, &target, None)?;
        for (facts, census) in facts.iter_mut().filter(|c| c.storage.is_some()).zip(counts) {
            facts.census = census;
        }
        Ok(())
    }

    fn classes(&self, column: &str) -> Result<Classes> {
        let name = quote(column);
        self.connection
            .query_row(
                &format!(
                    "SELECT coalesce(sum(typeof({name}) = 'text'), 0), coalesce(sum(typeof({name}) = 'blob'), 0),
                            coalesce(sum(typeof({name}) IN ('integer', 'real')), 0),
                            coalesce(sum(length(CAST({name} AS BLOB))), 0) FROM {}",
                    quote(&self.shape.name)
                ),
                [],
                |row| Ok(Classes { text: row.get(0)?, blob: row.get(1)?, number: row.get(2)?, bytes: row.get(3)? }),
            )
            .doing(|| format!("look at the types of `{}.{column}`", self.shape.name))
    }

    fn refuse_type(&mut self, column: &ColumnShape, classes: &Classes) {
        let (name, declared) = (&column.name, &column.declared);
        let way_out = format!(
            "add a column of type TEXT, copy the values with `UPDATE \"{}\" SET new = CAST(\"{name}\" AS TEXT)`, and have the application use it",
            self.shape.name
        );
        let says = match affinity(declared) {
            Affinity::Blob => format!("`{name}` holds {} texts and {} blobs", classes.text, classes.blob),
            _ => format!("`{name}` is declared `{declared}`, so that SQLite turns what looks like a number into one"),
        };
        self.refusals.push(Word::TypedValue.about(name, says).out(way_out));
    }

    /// Values of a class that the column's storage is not: each will be a row error.
    fn other_classes(&mut self, column: &ColumnShape, storage: Option<Storage>, classes: &Classes) {
        let others = match storage {
            Some(Storage::Text | Storage::Json) => classes.blob + classes.number,
            Some(Storage::Bytes) => classes.text + classes.number,
            None => 0,
        };
        if others > 0 {
            let says = format!("{others} values of `{}` are of another storage class than its type", column.name);
            self.warnings.push(Word::OtherClasses.about(&column.name, says));
        }
    }

    /// A tenant or row-key column.
    fn bound(&mut self, name: &str) -> Result<()> {
        let column = self.shape.require(name)?.clone();
        if self.protects(name) {
            self.refusals.push(Word::BoundProtected.about(name, format!("`{name}` is bound and protected")));
        }
        if affinity(&column.declared) == Affinity::Real {
            self.refusals.push(Word::BoundType.about(name, format!("`{name}` is declared `{}`", column.declared)));
        }
        if !column.not_null && column.key == 0 {
            self.warnings.push(Word::BoundNullable.about(name, format!("`{name}` may be NULL")));
        }
        let only_key = self.policy.row_key.iter().any(|k| same(k, name));
        if only_key && !self.row_key_is_unique()? {
            let says = format!("no unique index covers {}", self.policy.row_key.join(", "));
            let finding = Word::RowKeyNotUnique.finding(says);
            if !self.warnings.contains(&finding) {
                self.warnings.push(finding);
            }
        }
        Ok(())
    }

    fn row_key_is_unique(&self) -> Result<bool> {
        let covered = |columns: &[String]| {
            !columns.is_empty() && columns.iter().all(|c| self.policy.row_key.iter().any(|k| same(k, c)))
        };
        if covered(&self.shape.key()) {
            return Ok(true);
        }
        let lists: Vec<String> = self
            .connection
            .prepare(
                "SELECT json_group_array(i.name) FROM pragma_index_list(?1) l, pragma_index_info(l.name) i
                  WHERE l.\"unique\" AND NOT l.partial GROUP BY l.name",
            )
            .and_then(|mut s| s.query_map([&self.shape.name], |row| row.get(0))?.collect())
            .doing(|| format!("list the unique indexes of `{}`", self.shape.name))?;
        Ok(lists.iter().any(|list| {
            let columns: Vec<Option<String>> = serde_json::from_str(list).unwrap_or_default();
            columns.into_iter().collect::<Option<Vec<_>>>().is_some_and(|columns| covered(&columns))
        }))
    }
}

fn member_facts(name: &str) -> ColumnFacts {
    ColumnFacts {
        name: name.to_owned(),
        sql_type: "a member of a JSON column".to_owned(),
        storage: None,
        widen: false,
        average_bytes: 0,
        census: Census::default(),
        shadow: None,
    }
}

/// How envelopes are written into the column; `None` where it cannot hold one safely.
fn storage(column: &ColumnShape, classes: &Classes) -> Option<Storage> {
    let declared = column.declared.to_ascii_uppercase();
    if declared == "JSON" || declared == "JSONB" {
        return Some(Storage::Json);
    }
    match affinity(&declared) {
        Affinity::Text => Some(Storage::Text),
        // No type converts nothing: what is there decides.
        Affinity::Blob if classes.text > 0 && classes.blob > 0 => None,
        Affinity::Blob if classes.text > 0 => Some(Storage::Text),
        Affinity::Blob if classes.blob > 0 || declared.contains("BLOB") => Some(Storage::Bytes),
        Affinity::Blob => Some(Storage::Text),
        Affinity::Integer | Affinity::Real | Affinity::Numeric => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

/// SQLite's own rule (datatype3.html, section 3.1), in its order.
fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|w| declared.contains(w));
    if has(&["INT"]) {
        Affinity::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if declared.is_empty() || has(&["BLOB"]) {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}
