//! Writing policies: a new `enfold.toml` from what was found, with comments that say what each part is for.
//!
//! A draft is text, not yet a policy: [`super::parse`] says whether it makes sense. Changing a file that people have
//! written in is `edit.rs`'s part; both keep every comment and every blank line.

use std::path::Path;

use enfold_core::index::Normaliser;
use toml_edit::{Array, DocumentMut, Item, Key, Table, Value};

use super::model::{Environment, Mode, Scope};
use super::words::{format_normaliser, format_operator_key, key_text};
use crate::kms::PassphraseSource;
use crate::{Code, Error, Result};

/// The text of a policy that is being written.
pub struct PolicyDraft {
    doc: DocumentMut,
}

/// A key ring to write down.
pub struct RingDraft<'a> {
    /// Its name, which is its id too.
    pub name: &'a str,
    pub roots: &'a [String],
    pub scope: Scope,
    /// Labels for the key service's context, such as `("data_class", "personal")`.
    pub labels: &'a [(&'a str, &'a str)],
}

/// A column to write down. Its id is its name at this moment: `schema.table.column`.
#[derive(Default)]
pub struct ColumnDraft<'a> {
    /// As in the policy: `schema.table` on Postgres, `table` on SQLite.
    pub table: &'a str,
    pub column: &'a str,
    pub class: Option<&'a str>,
    pub ring: &'a str,
    /// Left out where it is none, so that the default holds.
    pub mode: Option<Mode>,
    pub bind_row: bool,
    /// The column that holds its envelopes, where its own type cannot.
    pub shadow: Option<String>,
    pub indexes: Vec<IndexDraft<'a>>,
    /// Lines above the column, such as the evidence for its class. Never a value of a row.
    pub comment: Option<String>,
}

/// A blind index to write down, under its column.
#[derive(Default)]
pub struct IndexDraft<'a> {
    pub name: &'a str,
    /// Left out where it is none: the column's name, `_` and the index's.
    pub column: Option<&'a str>,
    pub normalise: &'a [Normaliser],
    pub unique: bool,
    pub cross_tenant: bool,
    pub comment: Option<String>,
}

const HEAD: &str = "\
# The policy of Enfold: which columns of which database are protected, and under which keys.
# Every setting: docs/reference/configuration.md. `${NAME}` stands for an environment variable.

";

impl PolicyDraft {
    /// A policy without rings and columns.
    ///
    /// `database_url` is written as it is given: pass `${DATABASE_URL}` rather than a URL with a password in it.
    pub fn new(database_url: &str, environment: Environment) -> Self {
        let mut draft = Self { doc: DocumentMut::new() };
        let word = match environment {
            Environment::Development => "development",
            Environment::Staging => "staging",
            Environment::Production => "production",
        };
        draft.doc.insert("environment", toml_edit::value(word));
        if let Some(mut key) = draft.doc.key_mut("environment") {
            key.leaf_decor_mut().set_prefix(format!("{HEAD}# Where it says nothing else, a policy is production.\n"));
        }
        draft.section("database", "The database whose columns are protected.");
        draft.put(&["database", "url"], database_url);
        draft.section("events", "Who sealed and opened what, in the catalog's `events` table.");
        draft.put(&["events", "catalog"], true);
        draft
    }

    /// The text of a file that exists, to be added to.
    ///
    /// # Errors
    /// `PolicyInvalid` if it is not TOML.
    pub fn from_text(text: &str) -> Result<Self> {
        let doc = text.parse::<DocumentMut>().map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Error::new(Code::PolicyInvalid, "the policy is not TOML").cause(format!("line {line}: {}", error.message()))
        })?;
        Ok(Self { doc })
    }

    /// Keys, ring states and events in a database of their own.
    pub fn set_catalog(&mut self, url: &str) {
        self.section("catalog", "Keys, ring states and events, in a database of their own.");
        self.put(&["catalog", "url"], url);
    }

    /// Pins the operators' public key, and says where the private half is.
    pub fn set_operator_key(&mut self, key: &[u8; 32], file: Option<&Path>) -> Result<()> {
        if self.doc.get("trust").is_none() {
            self.section("trust", "What this policy trusts: ring states that the operators' key has signed.");
        }
        self.set(&["trust", "operator_key"], format_operator_key(key))?;
        if let Some(file) = file {
            self.set(&["trust", "operator_key_file"], file.to_string_lossy().into_owned())?;
        }
        Ok(())
    }

    /// Adds a public key to those whose checkpoints of the log are believed.
    pub fn add_log_key(&mut self, key: &[u8; 32]) -> Result<()> {
        let key = format_operator_key(key);
        let known = self.doc.get("events").and_then(|events| events.get("log_keys")).and_then(Item::as_array);
        let known: Vec<String> =
            known.iter().flat_map(|keys| keys.iter()).filter_map(Value::as_str).map(str::to_owned).collect();
        let keys = known.iter().map(String::as_str).filter(|known| *known != key).chain([key.as_str()]);
        self.set(&["events", "log_keys"], strings(keys))
    }

    pub fn add_ring(&mut self, ring: &RingDraft<'_>) -> Result<()> {
        let path = ["rings", ring.name];
        self.refuse_existing(&path)?;
        self.set(&["rings", ring.name, "id"], ring.name)?;
        self.comment(&path, "A key ring. Its id is in every value and may never change.");
        self.set(&["rings", ring.name, "roots"], strings(ring.roots.iter().map(String::as_str)))?;
        let scope = match ring.scope {
            Scope::Record => "record",
            Scope::Tenant => "tenant",
            Scope::Column => "column",
            Scope::Ring => "ring",
        };
        self.set(&["rings", ring.name, "scope"], scope)?;
        for (label, value) in ring.labels {
            self.set(&["rings", ring.name, "labels", label], *value)?;
        }
        Ok(())
    }

    /// Says that the local root key in `file` is sealed under a passphrase, and where that is.
    pub fn seal_local_root(&mut self, file: &str, passphrase: &PassphraseSource) -> Result<()> {
        let path = ["key_services", "local", file];
        self.refuse_existing(&path)?;
        let (key, place) = match passphrase {
            PassphraseSource::File(path) => ("passphrase_file", literal(&path.to_string_lossy())),
            PassphraseSource::Variable(name) => ("passphrase_variable", name.clone()),
        };
        self.set(&[path[0], path[1], path[2], key], place)?;
        self.comment(&path, "The file of this root key is sealed under a passphrase, which is here:");
        Ok(())
    }

    /// Writes down a table's tenant column and row key; either may be left out.
    pub fn set_table(&mut self, table: &str, tenant: Option<&str>, row_key: &[&str]) -> Result<()> {
        if let Some(tenant) = tenant {
            self.set(&["tables", table, "tenant"], literal(tenant))?;
        }
        if !row_key.is_empty() {
            self.set(&["tables", table, "row_key"], strings(row_key.iter().copied()))?;
        }
        Ok(())
    }

    /// # Errors
    /// `PolicyInvalid` if the column stands in the policy already.
    pub fn add_column(&mut self, column: &ColumnDraft<'_>) -> Result<()> {
        let path = ["tables", column.table, "columns", column.column];
        self.refuse_existing(&path)?;
        let at = |key| [path[0], path[1], path[2], path[3], key];
        self.set(&at("id"), literal(&format!("{}.{}", column.table, column.column)))?;
        if let Some(class) = column.class {
            self.set(&at("class"), literal(class))?;
        }
        self.set(&at("ring"), column.ring)?;
        if let Some(mode) = column.mode {
            let word = match mode {
                Mode::Legacy => "legacy",
                Mode::Hybrid => "hybrid",
                Mode::Kms => "kms",
            };
            self.set(&at("mode"), word)?;
        }
        if column.bind_row {
            self.set(&at("bind_row"), true)?;
        }
        if let Some(shadow) = &column.shadow {
            self.set(&at("shadow"), literal(shadow))?;
        }
        if let Some(comment) = &column.comment {
            self.comment(&path, comment);
        }
        for index in &column.indexes {
            self.add_index(&path, index)?;
        }
        Ok(())
    }

    fn add_index(&mut self, column: &[&str], index: &IndexDraft<'_>) -> Result<()> {
        let path = [column, &["indexes", index.name]].concat();
        let mut put = |key, value: Value| self.set(&[path.as_slice(), &[key]].concat(), value);
        if let Some(name) = index.column {
            put("column", literal(name).into())?;
        }
        let normalise: Vec<String> = index.normalise.iter().map(|step| format_normaliser(*step)).collect();
        put("normalise", strings(normalise.iter().map(String::as_str)))?;
        if index.unique {
            put("unique", true.into())?;
        }
        if index.cross_tenant {
            put("cross_tenant", true.into())?;
        }
        if let Some(comment) = &index.comment {
            self.comment(&path, comment);
        }
        Ok(())
    }

    /// Sets one setting, keeping the comments around it. Tables on the way are made.
    ///
    /// # Errors
    /// `PolicyInvalid` if something on the way is no table, or a table stands where the setting goes.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) -> Result<()> {
        let Some((last, parents)) = path.split_last() else {
            return Err(Error::new(Code::Internal, "a setting without a name"));
        };
        let named = || path.iter().map(|key| key_text(key)).collect::<Vec<_>>().join(".");
        let no_table = || Error::new(Code::PolicyInvalid, format!("cannot set `{}` in the policy", named()));
        let mut table: &mut dyn toml_edit::TableLike = self.doc.as_table_mut();
        for (depth, key) in parents.iter().enumerate() {
            if table.get(key).is_none() {
                let mut fresh = Table::new();
                // A header only where something is going to stand under it.
                fresh.set_implicit(depth + 1 < parents.len());
                table.insert(key, Item::Table(fresh));
            }
            let inside = table.get_mut(key).and_then(Item::as_table_like_mut);
            table = inside.ok_or_else(|| no_table().cause(format!("`{key}` is not a table")))?;
        }
        match table.get_mut(last) {
            Some(Item::Value(old)) => {
                let decor = old.decor().clone();
                *old = value.into();
                *old.decor_mut() = decor;
            }
            Some(Item::None) | None => {
                table.insert(last, Item::Value(value.into()));
            }
            Some(_) => return Err(no_table().cause(format!("`{last}` is a table"))),
        }
        Ok(())
    }

    pub fn to_toml_string(&self) -> String {
        self.doc.to_string()
    }

    fn refuse_existing(&self, path: &[&str]) -> Result<()> {
        let mut item = self.doc.as_item();
        for key in path {
            match item.as_table_like().and_then(|table| table.get(key)) {
                Some(inside) => item = inside,
                None => return Ok(()),
            }
        }
        let named = path.iter().map(|key| key_text(key)).collect::<Vec<_>>().join(".");
        Err(Error::new(Code::PolicyInvalid, format!("`{named}` stands in the policy already")))
    }

    /// A new table at the top, below a comment.
    fn section(&mut self, name: &str, comment: &str) {
        let mut table = Table::new();
        table.decor_mut().set_prefix(format!("\n{}", as_comment(comment)));
        self.doc.insert(name, Item::Table(table));
    }

    /// A setting of a section that was just made.
    fn put(&mut self, path: &[&str; 2], value: impl Into<Value>) {
        if let Some(table) = self.doc.get_mut(path[0]).and_then(Item::as_table_mut) {
            table.insert_formatted(&Key::new(path[1]), Item::Value(value.into()));
        }
    }

    /// A comment above a table's header.
    fn comment(&mut self, path: &[&str], comment: &str) {
        let mut item = self.doc.as_item_mut();
        for key in path {
            match item.get_mut(key) {
                Some(inside) => item = inside,
                None => return,
            }
        }
        if let Some(table) = item.as_table_mut() {
            table.decor_mut().set_prefix(format!("\n{}", as_comment(comment)));
        }
    }
}

/// A name of the database that must not be taken for a variable.
fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

/// Control characters would end the comment, or the file's being TOML.
fn as_comment(text: &str) -> String {
    let clean = |line: &str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    text.lines().map(|line| format!("# {}\n", clean(line).trim_end())).collect()
}

fn strings<'a>(items: impl Iterator<Item = &'a str>) -> Value {
    Value::Array(items.collect::<Array>())
}
