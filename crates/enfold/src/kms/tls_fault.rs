//! What is wrong with TLS to a key service, told from the chain of a client's error.
//!
//! Clients of HTTP say it somewhere down that chain, inside an I/O error. Each fault has its own words, because each is
//! somebody else's to put right.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as Tls};

use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsFault {
    /// Of an authority that is not trusted.
    Untrusted,
    OtherHost,
    OutOfDate,
    /// Any other fault of the certificate.
    Certificate,
    NoTls,
    NoAgreement,
    /// What came is not what was sent.
    Damaged,
    HungUp,
}

impl TlsFault {
    pub(super) fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut link = Some(error);
        while let Some(error) = link {
            if let Some(fault) = error.downcast_ref::<Tls>() {
                return Some(Self::named(fault));
            }
            let io = error.downcast_ref::<io::Error>();
            let inner = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn StdError + 'static));
            // The handshake has no error of its own for this, and no other I/O error has these words.
            if inner.is_some_and(|inner| inner.to_string() == HANDSHAKE_EOF) {
                return Some(Self::HungUp);
            }
            link = inner.or_else(|| error.source());
        }
        None
    }

    fn named(fault: &Tls) -> Self {
        use CertificateError as Bad;
        match fault {
            Tls::InvalidCertificate(bad) => match bad {
                // A bad signature: the authority has the name of a trusted one, and another key.
                Bad::UnknownIssuer | Bad::BadSignature => Self::Untrusted,
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Self::OtherHost,
                Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                    Self::OutOfDate
                }
                _ => Self::Certificate,
            },
            Tls::InvalidMessage(_) => Self::NoTls,
            Tls::DecryptError | Tls::AlertReceived(AlertDescription::BadRecordMac | AlertDescription::DecryptError) => {
                Self::Damaged
            }
            _ => Self::NoAgreement,
        }
    }

    /// Adds the fact and the remedy. `authorities`: how this client is told whom to trust.
    pub(super) fn told(self, error: Error, authorities: &str) -> Error {
        match self {
            Self::Untrusted => error
                .cause("the certificate of the key service is of an authority that is not trusted")
                .hint(format!("name the authority in {authorities}, if it is one of yours")),
            Self::OtherHost => error
                .cause("the certificate of the key service is for another host")
                .hint("name the host in the URI that the certificate is for"),
            Self::OutOfDate => error
                .cause("the certificate of the key service is out of its dates")
                .hint("compare this machine's clock, and have the certificate renewed"),
            Self::Certificate => error
                .cause("the certificate of the key service cannot be trusted")
                .hint("look at it: `openssl s_client -connect HOST:PORT`"),
            Self::NoTls => error
                .cause("the key service does not speak TLS there")
                .hint("see at which port it speaks TLS, and name that one in the URI"),
            Self::NoAgreement => error
                .cause("the key service and this machine agree on no TLS")
                .hint("see which versions it offers; the policy's `key_services.min_tls` is the least that is taken"),
            Self::Damaged => error
                .cause("what the key service sent was changed on its way")
                .hint("look for what stands between this machine and the key service and changes what passes"),
            Self::HungUp => error
                .cause("the key service hung up before TLS was agreed on")
                .hint("see the log of the key service, or of the load balancer before it, for the reason"),
        }
    }
}

/// As `tokio-rustls` says it; held by the tests over a connection that is cut in its handshake.
const HANDSHAKE_EOF: &str = "tls handshake eof";
