//! Certificates for tests of TLS: an authority, and what it signs.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// In PEM.
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    #[allow(clippy::new_without_default, reason = "it draws a key")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server on this machine.
    pub fn server(&self) -> Certified {
        self.sign(&["127.0.0.1", "localhost"], "server", ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client of that name.
    pub fn client(&self, name: &str) -> Certified {
        self.sign(&[], name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, hosts: &[&str], name: &str, usage: ExtendedKeyUsagePurpose) -> Certified {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names of hosts");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Certified { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}
