//! The one way in which this crate speaks TLS: verified always, over one crypto library, never below 1.2.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::policy::MinTls;
use crate::{Code, Error, Result};

/// What a connection trusts, and who it says to be.
#[derive(Default)]
pub struct Trust<'a> {
    pub min: MinTls,
    /// A PEM file with the authorities that are trusted; none: those of the system, or of `SSL_CERT_FILE`.
    pub authorities: Option<&'a Path>,
    pub identity: Option<Identity<'a>>,
}

/// A client certificate, of which the key was read by whoever knows who may read it.
pub struct Identity<'a> {
    pub certificate: &'a Path,
    /// PEM.
    pub key: &'a str,
}

/// `unverifiable`: the error of a machine that trusts nobody.
pub fn client(trust: &Trust<'_>, unverifiable: impl FnOnce() -> Error) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match trust.authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|_| unreadable(path, "a certificate in it cannot be trusted"))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(
            unverifiable().hint("install ca-certificates, or set SSL_CERT_FILE to your authority's certificate")
        );
    }
    let versions: &[&rustls::SupportedProtocolVersion] = match trust.min {
        MinTls::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinTls::V1_3 => &[&rustls::version::TLS13],
    };
    // The provider is named, so that a binary that forgot to install one does not panic here.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|_| Error::new(Code::Internal, "the TLS library has no protocol version to offer"))?;
    let config = config.with_root_certificates(roots);
    let Some(Identity { certificate, key }) = &trust.identity else { return Ok(config.with_no_client_auth()) };
    let refused = || unreadable(certificate, "it does not belong together with its key, or the key is not one in PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| refused())?;
    config.with_client_auth_cert(certificates(certificate)?, key).map_err(|_| refused())
}

/// For a server that says to be `identity`. With `client_authorities`, a PEM file, clients show a certificate that one of these
/// vouches for, or are refused.
pub fn server(identity: &Identity<'_>, client_authorities: Option<&Path>) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|_| Error::new(Code::Internal, "the TLS library has no protocol version to offer"))?;
    let config = match client_authorities {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|_| unreadable(path, "a certificate in it cannot be trusted"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.map_err(|_| unreadable(path, "no authority is in it"))?)
        }
    };
    let refused =
        || unreadable(identity.certificate, "it does not belong together with its key, or the key is not one in PEM");
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|_| refused())?;
    let mut config = config.with_single_cert(certificates(identity.certificate)?, key).map_err(|_| refused())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A client of HTTP for what is no key service: verified as [`client`] does it, no redirect is followed, no proxy of the environment used.
/// `within`: for a whole request. `whom` it is for, in the error of a machine that trusts nobody.
#[cfg(feature = "http")]
pub fn http_client(authorities: Option<&Path>, within: std::time::Duration, whom: &str) -> Result<reqwest::Client> {
    let trust = Trust { authorities, ..Trust::default() };
    let unverifiable =
        || Error::new(Code::FileFailed, format!("this machine has no root certificates to verify {whom} with"));
    reqwest::Client::builder()
        .tls_backend_preconfigured(client(&trust, unverifiable)?)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(within)
        .build()
        .map_err(|_| Error::new(Code::Internal, "cannot make a client for HTTP"))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let refused = || unreadable(path, "certificates in PEM are expected");
    let found = CertificateDer::pem_file_iter(path).map_err(|_| refused())?;
    let found: Vec<_> = found.collect::<std::result::Result<_, _>>().map_err(|_| refused())?;
    if found.is_empty() { Err(refused()) } else { Ok(found) }
}

fn unreadable(path: &Path, fact: &str) -> Error {
    Error::new(Code::FileFailed, format!("cannot use the file `{}` for TLS", path.display())).cause(fact)
}

/// In a build on the FIPS module TLS is spoken by it, in the ways that it approves.
#[cfg(all(test, feature = "fips"))]
mod tests {
    use super::*;

    #[test]
    fn a_client_speaks_tls_as_fips_wants_it_in_every_version() {
        let authority = enfold_testkit::certificates::Authority::new();
        let path = authority.certificate();
        for min in [MinTls::V1_2, MinTls::V1_3] {
            let trust = Trust { min, authorities: Some(&path), identity: None };
            let config = client(&trust, || unreachable!("it has an authority")).unwrap();
            assert!(config.fips(), "{min:?}");
        }
        // What the clients of others start from, the AWS SDK's among them: there is one rustls in the tree.
        assert!(rustls::crypto::aws_lc_rs::default_provider().fips());
    }
}
