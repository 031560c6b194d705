//! A certificate authority for one test, and certificates for servers, made with the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::postgres_private::give_to_postgres;

pub struct Authority {
    dir: TempDir,
}

/// Files in PEM, under the account of the servers.
pub struct ServerCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { dir: TempDir::with_prefix("enfold-ca-").expect("a temporary directory") };
        authority.openssl(&[
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=Enfold test authority",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ]);
        authority
    }

    /// The certificate that clients trust, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for a server that is called by this DNS name, and by no other.
    pub fn issue(&self, name: &str) -> ServerCertificate {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let (subject, alternative) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
        self.openssl(&[
            "-keyout",
            &key,
            "-out",
            &certificate,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-subj",
            &subject,
            "-addext",
            &alternative,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        give_to_postgres(self.dir.path());
        let path = |name: &str| self.dir.path().join(Path::new(name));
        ServerCertificate { certificate: path(&certificate), key: path(&key) }
    }

    fn openssl(&self, arguments: &[&str]) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("no openssl here: run `make deps`");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
