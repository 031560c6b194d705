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

/// A certificate that nobody vouches for, and its RSA key.
pub struct SelfSigned {
    /// Both, in one text.
    pub pem: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// `SubjectPublicKeyInfo` in DER.
    pub public_key: Vec<u8>,
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

    /// A certificate of its own with an RSA key of 2048 bits, as a program signs in with.
    pub fn self_signed_rsa(&self, name: &str) -> SelfSigned {
        let subject = format!("/CN={name}");
        let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject];
        self.run(&[&new[..], &["-keyout", "rsa.key", "-out", "rsa.pem"]].concat());
        self.run(&["x509", "-in", "rsa.pem", "-outform", "DER", "-out", "rsa.der"]);
        self.run(&["pkey", "-in", "rsa.key", "-pubout", "-outform", "DER", "-out", "rsa.pub"]);
        let read = |name: &str| std::fs::read(self.dir.path().join(name)).expect("it was made");
        let pem = [read("rsa.pem"), read("rsa.key")].concat();
        let pem = String::from_utf8(pem).expect("PEM");
        SelfSigned { pem, certificate: read("rsa.der"), public_key: read("rsa.pub") }
    }

    /// As [`Self::issue`], for two days of long ago.
    pub fn issue_expired(&self, name: &str) -> ServerCertificate {
        // `req` makes certificates for days to come alone; `ca` has the dates told.
        let settings = format!(
            "[ca]\ndefault_ca = all\n[all]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\n\
             default_md = sha256\npolicy = any\nx509_extensions = server\n[any]\ncommonName = supplied\n\
             [server]\nsubjectAltName = DNS:{name}\nbasicConstraints = critical,CA:FALSE\n"
        );
        let path = |name: &str| self.dir.path().join(name);
        std::fs::write(path("ca.cnf"), settings).expect("it is written");
        std::fs::write(path("index"), "").expect("it is written");
        let (certificate, key) = (format!("expired-{name}.pem"), format!("expired-{name}.key"));
        let subject = format!("/CN={name}");
        let request = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        self.run(&[&request[..], &["-keyout", &key, "-subj", &subject, "-out", "request.pem"]].concat());
        let signed = ["ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key"];
        let past = ["-startdate", "20200101000000Z", "-enddate", "20200103000000Z"];
        self.run(&[&signed[..], &past, &["-in", "request.pem", "-out", &certificate]].concat());
        give_to_postgres(self.dir.path());
        ServerCertificate { certificate: path(&certificate), key: path(&key) }
    }

    fn openssl(&self, arguments: &[&str]) {
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        self.run(&[&new[..], arguments].concat());
    }

    fn run(&self, arguments: &[&str]) {
        let made = Command::new("openssl")
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
