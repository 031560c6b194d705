//! From a database URL to the dialect that speaks to it.

use std::sync::Arc;

use enfold::policy::{DatabaseUrl, JobPolicy, Scheme};
use enfold::{Code, Error, Result};

use crate::database::Database;

/// The database of a policy, with the limits of its `[jobs]` or the defaults. On SQLite the file must be there; a Postgres server is
/// reached for when it is first asked something.
///
/// # Errors
/// `Usage` if the dialect was left out when the program was built; `DatabaseUnavailable` for a file that is missing.
pub async fn connect(url: &DatabaseUrl, limits: Option<&JobPolicy>) -> Result<Arc<dyn Database>> {
    match url.scheme() {
        #[cfg(feature = "sqlite")]
        Scheme::Sqlite => {
            let path = url.sqlite_path().ok_or_else(|| Error::new(Code::Internal, "a SQLite URL without a path"))?;
            let mut options = crate::sqlite::SqliteOptions::default();
            if let Some(limits) = limits {
                options.lock_timeout = limits.lock_timeout;
            }
            Ok(Arc::new(crate::sqlite::Sqlite::open(path, &options)?))
        }
        #[cfg(feature = "postgres")]
        Scheme::Postgres => {
            let limits = limits.map(crate::postgres::Limits::from).unwrap_or_default();
            Ok(Arc::new(crate::postgres::Postgres::open(url, limits)?))
        }
        #[allow(unreachable_patterns, reason = "reached where a dialect was left out")]
        scheme => Err(Error::new(Code::Usage, format!("this program was built without {scheme:?}"))
            .hint("use a build with the feature `postgres` or `sqlite`")),
    }
}
