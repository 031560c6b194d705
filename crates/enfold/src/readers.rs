//! Readers of values that another product encrypted, with their keys (the formats are `enfold_core::readers`).
//!
//! A key is read when the first value of its format is, so that a process starts without the keys of products that nobody
//! needs any more, and once: deriving it may take its time. A fork keeps it. What is written with it in mode `legacy` has a
//! nonce of its own from the library's generator, which knows a fork by itself; nothing is counted on.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use enfold_core::readers::{self as core, Foreign, Plaintext, Reader, Secret, Writer};
use enfold_core::{Form, Part};
use zeroize::Zeroizing;

use crate::kms::Registry;
use crate::policy::{KeySource, Policy, ReaderPolicy};
use crate::private_file::Private;
use crate::{Code, Error, Result};

mod key_table;
mod service;

use self::key_table::KeyTable;
pub(crate) use self::service::Fetched;
use self::service::KeyService;

/// Bytes of a file of keys: some dozen of the longest.
const LONGEST_KEY: usize = 4096;

/// One reader of the policy.
pub(crate) struct FormatReader {
    name: String,
    policy: ReaderPolicy,
    /// Whether a column of the policy is written in its format.
    writes: bool,
    ready: OnceLock<Ready>,
    asked: Option<Asked>,
}

/// The keys, made ready.
struct Ready {
    reader: Box<dyn Reader>,
    writer: Option<Box<dyn Writer>>,
}

/// Who is asked for what opens values, where keys are not handed in.
enum Asked {
    Service(KeyService),
    Table(Box<KeyTable>),
}

/// Those of a column, in the order in which they are tried.
pub(crate) type Reads = Vec<Arc<FormatReader>>;

pub(crate) fn all(policy: &Policy, registry: &Registry) -> Result<BTreeMap<String, Arc<FormatReader>>> {
    let reader = |(name, reader): (&String, &ReaderPolicy)| {
        let asked = asked(name, reader, policy, registry)?;
        let mut columns = policy.tables.values().flat_map(|table| table.columns.values());
        let writes = columns.any(|column| column.writes.as_ref() == Some(name));
        let made = FormatReader { name: name.clone(), policy: reader.clone(), writes, ready: OnceLock::new(), asked };
        Ok((name.clone(), Arc::new(made)))
    };
    policy.readers.iter().map(reader).collect()
}

fn asked(name: &str, reader: &ReaderPolicy, policy: &Policy, registry: &Registry) -> Result<Option<Asked>> {
    let mut services = Vec::new();
    for root in reader.roots.iter().flat_map(|roots| &roots.uris) {
        let context = reader.roots.iter().map(|roots| roots.context.clone()).next().unwrap_or_default();
        services.push((root.clone(), KeyService::new(Arc::clone(registry.get(root)?), context)));
    }
    Ok(match &reader.table {
        Some(table) => {
            let table = KeyTable::new(name, table, &policy.database, policy.environment, services)?;
            Some(Asked::Table(Box::new(table)))
        }
        None => services.into_iter().next().map(|(_, service)| Asked::Service(service)),
    })
}

impl FormatReader {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// By form alone, without a key.
    pub(crate) fn recognises(&self, value: &Foreign<'_>) -> bool {
        self.policy.format.recognises(value)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.get().is_some() || self.asked.is_some()
    }

    /// Whether its keys are there and have its format's form, or the key services answer it: for `doctor`.
    pub(crate) async fn check(self: &Arc<Self>) -> Result<()> {
        match &self.asked {
            None => self.get_ready().await,
            Some(Asked::Service(service)) => service.probe().await,
            Some(Asked::Table(table)) => table.probe().await,
        }
    }

    /// [`Self::load`], where it may take its time.
    pub(crate) async fn get_ready(self: &Arc<Self>) -> Result<()> {
        let reader = Arc::clone(self);
        let load = tokio::task::spawn_blocking(move || reader.load()).await;
        load.map_err(|_| Error::new(Code::Internal, "a reader's keys were not made ready"))?
    }

    /// Asks for all that values of this reader need, each with its tenant, in one batch. By the values' numbers; empty
    /// where keys are handed in.
    pub(crate) async fn fetch(&self, values: &[(usize, Foreign<'_>, Option<Part<'_>>)]) -> Fetched {
        let format = &self.policy.format;
        match &self.asked {
            None => Fetched::new(),
            Some(Asked::Table(table)) => table.fetch(&**format, values).await,
            Some(Asked::Service(service)) => {
                let wrapped = values.iter().filter_map(|(at, value, _)| Some((*at, format.wrapped(value)?.ok()?)));
                service.fetch(wrapped.collect()).await
            }
        }
    }

    /// Throws away the data keys that a key service gave out.
    pub(crate) fn forget(&self) {
        match &self.asked {
            None => {}
            Some(Asked::Service(service)) => service.forget(),
            Some(Asked::Table(table)) => table.forget(),
        }
    }

    /// Makes the keys ready. It reads files and may take a second.
    pub(crate) fn load(&self) -> Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        let mut keys = Vec::with_capacity(self.policy.keys.len());
        for source in &self.policy.keys {
            self.read(source, &mut keys)?;
        }
        let format = &self.policy.format;
        let unusable = |error: core::Error| self.unusable(error.to_string());
        let writer = if self.writes { Some(format.writer(&keys).map_err(unusable)?) } else { None };
        let reader = format.with_keys(&keys).map_err(unusable)?;
        // Whoever was first is as good.
        let _ = self.ready.set(Ready { reader, writer });
        Ok(())
    }

    /// A value as a cell of this form holds it in the format, after [`Self::load`]. It was opened again: what its own product
    /// could not read must not take the place of a value.
    ///
    /// # Errors
    /// `ValueInvalid` where the cell cannot hold such a value, or its format cannot.
    pub(crate) fn write(&self, form: Form, plaintext: &[u8], now: u64) -> Result<Vec<u8>> {
        let invalid = |fact: &str| {
            Err(Error::new(Code::ValueInvalid, format!("reader `{}` cannot write a value", self.name)).cause(fact))
        };
        let Some(Ready { reader, writer: Some(writer) }) = self.ready.get() else {
            return Err(Error::new(Code::Internal, format!("reader `{}` was not made ready to write", self.name)));
        };
        if !core::fits(form, plaintext) {
            return invalid("it does not fit its column, so that nobody would read it again");
        }
        let Ok(written) = writer.write(plaintext, now) else { return invalid("the cryptographic library failed") };
        let Ok(stored) = core::cell(form, written) else {
            return invalid("the format is one of bytes, and its column is one of text or JSON");
        };
        let value = Foreign::new(form, &stored, &[]);
        match reader.open(&value) {
            Ok(opened) if *opened == *plaintext && self.recognises(&value) => Ok(stored),
            _ => invalid("what was written is not read as the same"),
        }
    }

    /// The plaintext of a value that it recognises, after [`Self::load`] or with what was fetched for it; or why it does not
    /// open. The outer error says that who was asked did not answer, or refused to: nothing about the value.
    pub(crate) fn open(
        &self,
        at: usize,
        value: &Foreign<'_>,
        fetched: &Fetched,
    ) -> Result<std::result::Result<Plaintext, String>> {
        let said = |opened: core::Result<Plaintext>| Ok(opened.map_err(|error| error.to_string()));
        if self.asked.is_none() {
            return said(self.ready.get().ok_or(core::Error::Library).and_then(|ready| ready.reader.open(value)));
        }
        match fetched.get(&at) {
            Some(Ok(keys)) => said(self.open_with_any(value, keys)),
            // The service says that it did not make this.
            Some(Err(error)) if error.code() == Code::WrapInvalid => said(Err(core::Error::Refused)),
            Some(Err(error)) if error.code() == Code::OpenFailed => {
                Ok(Err(error.causes().next().unwrap_or("it has no key").to_owned()))
            }
            Some(Err(error)) => Err(error.clone()),
            // It is not whole, and so led to nothing that could be fetched.
            None => match self.policy.format.wrapped(value) {
                Some(Err(error)) => said(Err(error)),
                _ => Err(Error::new(Code::Internal, format!("a value of reader `{}` was not fetched", self.name))),
            },
        }
    }

    fn open_with_any(&self, value: &Foreign<'_>, keys: &[Secret]) -> core::Result<Plaintext> {
        for key in keys {
            match self.policy.format.open_with(value, key) {
                Err(core::Error::Refused) => {}
                done => return done,
            }
        }
        Err(core::Error::Refused)
    }

    fn read(&self, source: &KeySource, keys: &mut Vec<Secret>) -> Result<()> {
        let bytes = match source {
            KeySource::Variable(name) => match std::env::var(name) {
                Ok(text) if !text.is_empty() => Zeroizing::new(text.into_bytes()),
                _ => return Err(self.unusable(format!("the environment variable `{name}` is not set"))),
            },
            KeySource::File(path) => Private { path, what: "reader's key" }.read(LONGEST_KEY)?,
        };
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.policy.several_in_one {
            let pieces = line.split(|byte| matches!(byte, b',' | b'\n')).map(<[u8]>::trim_ascii);
            keys.extend(pieces.filter(|piece| !piece.is_empty()).map(|piece| Secret::new(piece.to_vec())));
        } else {
            keys.push(Secret::new(line.to_vec()));
        }
        Ok(())
    }

    fn unusable(&self, fact: String) -> Error {
        Error::new(Code::ReaderKeyInvalid, format!("reader `{}` has no usable key", self.name))
            .cause(fact)
            .hint(format!("give it the key that its values were encrypted with: `[readers.{}]`", self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::policy::{Variables, parse};

    fn reader(format: &str, file: &Path) -> FormatReader {
        let text = format!(
            "[database]\nurl = \"sqlite:a.db\"\n[readers.old]\nformat = \"{format}\"\nkey_files = [\"{}\"]",
            file.display()
        );
        let policy = parse(&text, Path::new("enfold.toml"), &Variables::new()).unwrap();
        let policy = policy.readers["old"].clone();
        FormatReader { name: "old".into(), policy, writes: false, ready: OnceLock::new(), asked: None }
    }

    #[test]
    fn a_key_is_read_when_it_is_needed_and_is_the_file_without_its_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let old = reader("pgcrypto", &file);
        assert_eq!(old.load().unwrap_err().code(), Code::KeyFileInvalid);
        let write = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("a passphrase\n", 0o644);
        assert_eq!(old.load().unwrap_err().code(), Code::KeyFilePermissions);
        write("\n", 0o600);
        assert_eq!(old.load().unwrap_err().code(), Code::ReaderKeyInvalid, "empty");
        write("a passphrase\n", 0o600);
        old.load().unwrap();
        std::fs::remove_file(&file).unwrap();
        old.load().unwrap();
    }

    #[test]
    fn several_fernet_keys_may_share_a_file_and_a_passphrase_may_have_commas() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        write(&format!("{key},{key}\n{key}\n"));
        let count = |format: &str| {
            let mut keys = Vec::new();
            let reader = reader(format, &file);
            reader.read(&reader.policy.keys[0], &mut keys).unwrap();
            keys.iter().map(|key| key.len()).collect::<Vec<_>>()
        };
        assert_eq!(count("fernet"), [44, 44, 44]);
        write("one, two\n");
        assert_eq!(count("pgcrypto"), [8]);
        write("short");
        let error = reader("fernet", &file).load().unwrap_err();
        assert_eq!(error.code(), Code::ReaderKeyInvalid);
        assert!(error.to_string().contains("32 bytes in URL-safe base64") && !error.to_string().contains("short"));
    }
}
