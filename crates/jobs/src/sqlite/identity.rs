//! Which file it is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use enfold::{Code, Error, Result};

use crate::database::Identity;

/// A file is the same one under each of its names, and never the same as a copy.
pub(super) fn identity(path: &Path) -> Result<Identity> {
    let found = std::fs::metadata(path).and_then(|meta| Ok((meta, path.canonicalize()?)));
    let (meta, path) = found.map_err(|error| {
        Error::new(Code::DatabaseUnavailable, format!("cannot identify the database `{}`", path.display()))
            .cause(error.kind().to_string())
    })?;
    Ok(Identity {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        running: format!("{}/{}", meta.dev(), meta.ino()),
        lasting: path.display().to_string(),
        follows: false,
    })
}
