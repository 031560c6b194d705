//! Changing a policy file that people have written in: one setting at a time, comments kept, whole or not at all.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use toml_edit::Value;

use super::draft::PolicyDraft;
use crate::{Code, Error, Result};

/// Sets one setting of the file at `path`, as `set(path, &["trust", "min_epoch"], 8)`.
pub fn set(path: &Path, keys: &[&str], value: impl Into<Value>) -> Result<()> {
    change(path, |draft| draft.set(keys, value))
}

/// Pins the operators' public key in the file at `path`.
pub fn set_operator_key(path: &Path, key: &[u8; 32]) -> Result<()> {
    change(path, |draft| draft.set_operator_key(key, None))
}

/// Has the policy in the file at `path` believe what a key of the log signs, besides those that it believes.
pub fn add_log_key(path: &Path, key: &[u8; 32]) -> Result<()> {
    change(path, |draft| draft.add_log_key(key))
}

/// Pins the least epoch of a ring's state in the file at `path`.
pub fn set_min_epoch(path: &Path, ring: &str, epoch: u64) -> Result<()> {
    let epoch = i64::try_from(epoch).map_err(|_| Error::new(Code::Internal, "an epoch that no file can hold"))?;
    set(path, &["rings", ring, "min_epoch"], epoch)
}

/// Reads the file at `path`, lets `edit` change it, and puts the result in its place.
///
/// # Errors
/// Those of `edit`, after which the file is as it was; `FileFailed` if it cannot be read or written.
pub fn change(path: &Path, edit: impl FnOnce(&mut PolicyDraft) -> Result<()>) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|error| failed("read", path, &error))?;
    let mut draft = PolicyDraft::from_text(&text)?;
    edit(&mut draft)?;
    replace(path, &draft.to_toml_string())
}

/// Writes a new policy file.
///
/// # Errors
/// `FileFailed` if there is one already, or if it cannot be written.
pub fn create(path: &Path, draft: &PolicyDraft) -> Result<()> {
    let mut file = File::create_new(path).map_err(|error| failed("create", path, &error))?;
    file.write_all(draft.to_toml_string().as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| failed("write", path, &error))
}

/// A file beside it takes its name once it is whole, so that a crash leaves the old text or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    // A link stays a link: what it points to is replaced.
    let path = &path.canonicalize().map_err(|error| failed("read", path, &error))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || {
        let rights = std::fs::metadata(path)?.permissions();
        let mut file = File::create_new(&beside)?;
        file.set_permissions(rights)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        failed("write", path, &error)
    })
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::FileFailed, format!("cannot {doing} the policy `{}`", path.display()))
        .cause(error.kind().to_string())
}
