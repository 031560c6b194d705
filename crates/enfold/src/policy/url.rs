//! Database URLs: read once, their passwords never printed.
//!
//! This file owns what a URL may be and what may be shown of it. Connecting is done by those who hold a driver.

use std::fmt;
use std::path::Path;

/// How the URL of a SQLite file begins.
const SQLITE: &str = "sqlite:";

/// libpq's words for how a connection is secured.
const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Which kind of database a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Postgres,
    Sqlite,
}

/// A database URL that never prints its password. [`DatabaseUrl::parse`] checks its shape; what a driver makes of the
/// options (`sslmode`, `sslrootcert`) is for those who hold one.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// As it was written, but with paths that start at the policy's folder.
    pub(crate) raw: String,
}

impl DatabaseUrl {
    /// Reads a URL as it stands in a policy whose folder is `base`, where relative paths start.
    ///
    /// # Errors
    /// One line that says what was expected and never quotes the URL.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix(SQLITE) {
            return sqlite(path, base);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("expected `postgres://user@host/database` or `sqlite:path`".into());
        };
        match scheme {
            "postgres" | "postgresql" => postgres(rest, base),
            _ => Err(format!(
                "unknown kind of database{}; expected `postgres://` or `sqlite:`",
                super::words::did_you_mean(scheme, ["postgres", "postgresql", "sqlite"])
            )),
        }
    }

    pub fn scheme(&self) -> Scheme {
        if self.raw.starts_with(SQLITE) { Scheme::Sqlite } else { Scheme::Postgres }
    }

    /// The URL for people: passwords replaced by `***`.
    pub fn display(&self) -> String {
        let Some((scheme, rest)) = self.raw.split_once("://") else {
            return self.raw.clone();
        };
        let parts = Parts::of(rest);
        let user = parts.user.map(|user| match user.split_once(':') {
            Some((name, _)) => format!("{name}:***"),
            None => user.to_owned(),
        });
        let query = parts.query().map(|pair| match pair.split_once('=') {
            Some((key, _)) if key.contains("password") => format!("{key}=***"),
            _ => pair.to_owned(),
        });
        parts.write(scheme, user.as_deref(), &query.collect::<Vec<_>>())
    }

    /// The URL with its password in it, for the driver and for nothing that prints.
    pub fn expose_with_password(&self) -> &str {
        &self.raw
    }

    /// The file of a SQLite database; it starts at the policy's folder already.
    pub fn sqlite_path(&self) -> Option<&Path> {
        self.raw.strip_prefix(SQLITE).map(Path::new)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DatabaseUrl").field(&self.display()).finish()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

fn sqlite(path: &str, base: &Path) -> Result<DatabaseUrl, String> {
    // `sqlite:///abs/path` and `sqlite://rel` are how other tools spell the same thing.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path == ":memory:" {
        return Err("expected `sqlite:` and the path of a file; a database in memory cannot be shared".into());
    }
    if path.contains(['?', '\0']) {
        return Err("expected `sqlite:` and the path of a file, without options".into());
    }
    let path = base.join(path);
    let path = path.to_str().ok_or("the path of the database is not UTF-8")?;
    Ok(DatabaseUrl { raw: format!("{SQLITE}{path}") })
}

/// `rest` is what follows `://`.
fn postgres(rest: &str, base: &Path) -> Result<DatabaseUrl, String> {
    let parts = Parts::of(rest);
    if [parts.user, Some(parts.hosts), parts.database].into_iter().flatten().any(|t| t.contains(['#', ' ', '\\'])) {
        return Err("a password or a name in the URL holds a character that must be percent-encoded".into());
    }
    if parts.database.is_some_and(|name| name.contains('/')) {
        return Err("a name in the URL holds a `/` that must be percent-encoded as `%2F`".into());
    }
    let mut query = Vec::new();
    let mut host_in_options = false;
    for pair in parts.query() {
        let (key, value) = pair.split_once('=').ok_or("an option in the URL has no value")?;
        match key {
            "sslmode" if !SSL_MODES.contains(&value) => {
                return Err(format!("`sslmode` is one of `{}`", SSL_MODES.join("`, `")));
            }
            // `system` is libpq's word for the certificates of the machine.
            "sslrootcert" if value != "system" => {
                let path = base.join(value);
                query.push(format!("sslrootcert={}", path.to_str().ok_or("the path in `sslrootcert` is not UTF-8")?));
                continue;
            }
            _ => host_in_options |= key == "host",
        }
        query.push(pair.to_owned());
    }
    check_hosts(parts.hosts, host_in_options)?;
    Ok(DatabaseUrl { raw: parts.write("postgres", parts.user, &query) })
}

/// What stands behind `postgres://`, not decoded.
struct Parts<'a> {
    user: Option<&'a str>,
    hosts: &'a str,
    database: Option<&'a str>,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (body, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = match body.split_once('/') {
            Some((authority, database)) => (authority, Some(database)),
            None => (body, None),
        };
        // The last `@`: an earlier one belongs to a password that nobody encoded.
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        Self { user, hosts, database, query }
    }

    fn query(&self) -> impl Iterator<Item = &'a str> {
        self.query.split('&').filter(|pair| !pair.is_empty())
    }

    fn write(&self, scheme: &str, user: Option<&str>, query: &[String]) -> String {
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let database = self.database.map(|name| format!("/{name}")).unwrap_or_default();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        format!("{scheme}://{user}{}{database}{query}", self.hosts)
    }
}

fn check_hosts(hosts: &str, host_in_options: bool) -> Result<(), String> {
    if hosts.is_empty() {
        return if host_in_options { Ok(()) } else { Err("the URL names no host".into()) };
    }
    for host in hosts.split(',') {
        // An address in brackets holds colons of its own.
        let after = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("an address in the URL lacks its `]`")?.1,
            None => host.find(':').map_or("", |at| &host[at..]),
        };
        match after.strip_prefix(':') {
            Some(port) if port.parse::<u16>().is_ok() => {}
            None if after.is_empty() && !host.is_empty() => {}
            _ => return Err("the port in the URL is not a number from 1 to 65535".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> DatabaseUrl {
        DatabaseUrl::parse(text, Path::new("/etc/enfold")).unwrap()
    }

    #[test]
    fn a_password_is_never_shown() {
        let url = url("postgresql://app:s3cr%40t@db:5432/shop?application_name=x&password=s3cr");
        assert_eq!(url.display(), "postgres://app:***@db:5432/shop?application_name=x&password=***");
        assert_eq!(format!("{url}"), url.display());
        assert!(!format!("{url:?}").contains("s3cr"));
        assert_eq!(url.expose_with_password(), "postgres://app:s3cr%40t@db:5432/shop?application_name=x&password=s3cr");
    }

    #[test]
    fn a_password_with_an_at_sign_is_not_shown_either() {
        let url = url("postgres://app:p@ss@db/shop");
        assert_eq!(url.display(), "postgres://app:***@db/shop");
    }

    #[test]
    fn a_certificates_path_starts_at_the_policys_folder() {
        let url = url("postgres://db/shop?sslmode=verify-full&sslrootcert=ca.pem");
        assert_eq!(url.display(), "postgres://db/shop?sslmode=verify-full&sslrootcert=/etc/enfold/ca.pem");
    }

    #[test]
    fn a_sqlite_path_starts_at_the_policys_folder() {
        assert_eq!(url("sqlite:app.db").sqlite_path(), Some(Path::new("/etc/enfold/app.db")));
        assert_eq!(url("sqlite:///var/app.db").sqlite_path(), Some(Path::new("/var/app.db")));
        assert_eq!(url("sqlite:app.db").scheme(), Scheme::Sqlite);
    }

    #[test]
    fn what_is_no_database_url_is_refused_without_being_quoted() {
        for text in [
            "",
            "shop",
            "postgers://u:secret@db/x",
            "mysql://u:secret@db/x",
            "postgres://u:secret@/x",
            "postgres://u:secret@db:port/x",
            "postgres://u:sec#ret@db/x",
            "postgres://u:secret@db/x?sslmode=secret",
            "postgres://u:secret@db/x?secret",
            "postgres://u:sec/ret@db/x",
            "sqlite:",
            "sqlite::memory:",
        ] {
            let message = DatabaseUrl::parse(text, Path::new("")).unwrap_err();
            assert!(!message.contains("sec"), "{message}");
        }
        assert!(DatabaseUrl::parse("postgers://db/x", Path::new("")).unwrap_err().contains("did you mean `postgres`?"));
    }

    #[test]
    fn several_hosts_sockets_and_ipv6_are_understood() {
        for text in ["postgres://a:1,b:2/x", "postgres:///x?host=/var/run/postgresql", "postgres://[::1]:5432/x"] {
            assert_eq!(url(text).display(), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_password_shows(secret in "[0-9A-Za-z@:%]{12,20}", tail in any::<String>()) {
            let _ = DatabaseUrl::parse(&tail, Path::new(""));
            if let Ok(url) = DatabaseUrl::parse(&format!("postgres://u:{secret}@h/d"), Path::new("")) {
                prop_assert!(!url.display().contains(&secret));
            }
        }
    }
}
