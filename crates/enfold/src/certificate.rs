//! The certificate of a destruction: what became unreadable, when, by whom, and from when on in backups too.
//!
//! A document that the operators' key signed, so that whoever holds the public key can check it without a database, a key service
//! or a network. What it counts was counted in a database, and is a count; that wraps were deleted is the word of the program that
//! did it, and of whoever signs.
//!
//! The encoding is that of ring states: JSON in one spelling, of which what is signed is `enfold/v1 destruction certificate`, a zero
//! byte, and those bytes. A tenant stands in it as its tag, a keyed hash: the certificate holds no personal data.

use serde::{Deserialize, Serialize};

use crate::catalog::DataKeyRow;
use crate::hex::hex;
use crate::operator::Operator;
use crate::policy::format_operator_key;
use crate::signing_key::is_signed;
use crate::state::Subject;
use crate::{Code, Error, Result};

const DOMAIN: &[u8] = b"enfold/v1 destruction certificate\0";
const FORMAT: u32 = 1;

/// What is signed. Moments are RFC 3339, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub format: u32,
    /// The ring's id.
    pub ring: String,
    /// `ring`, or the tag that stands for a tenant.
    pub subject: Subject,
    pub announced_at: String,
    pub grace_over_at: String,
    /// When the operators signed that the data keys are destroyed; from then on no process of the ring uses them.
    pub destroyed_at: String,
    /// When the last wrap was seen to be gone from the catalog.
    pub wraps_gone_at: String,
    pub requested_by: Option<String>,
    pub reason: Option<String>,
    /// Who had it done in the end: a person, or the schedule.
    pub finished_by: Option<String>,
    pub keys: Vec<DestroyedKey>,
    /// Columns that hold values under them, and how many were counted.
    pub columns: Vec<UnreadableColumn>,
    /// Values of the policy that live in no column, so that nobody could count them.
    pub uncounted: Vec<String>,
    /// Blind indexes over several tenants: the tenant's entries in them stay, and whoever has the index key can test guesses.
    pub cross_tenant_indexes: Vec<String>,
    pub backups: Backups,
    /// What was not destroyed, or cannot be said.
    pub notes: Vec<String>,
}

/// A data key that was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyedKey {
    /// In hex.
    pub id: String,
    pub purpose: String,
    pub scope: String,
    pub version: u32,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

impl DestroyedKey {
    pub(crate) fn of(row: &DataKeyRow) -> Self {
        Self {
            id: row.id.to_string(),
            purpose: row.purpose.as_str().to_owned(),
            scope: row.scope.clone(),
            version: row.version,
            created_ms: row.created_ms,
        }
    }

    /// Whether values were sealed under it.
    pub fn seals(&self) -> bool {
        self.purpose == crate::catalog::Purpose::Seal.as_str()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnreadableColumn {
    /// `table.column`, as the policy names both.
    pub column: String,
    /// Rows with a value under one of the data keys.
    pub rows: u64,
}

/// What of backups of the catalog: a wrap in one can still be unwrapped by whoever may use the root key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backups {
    /// For how many days they are kept, by the operators' word; none where nobody said so.
    pub kept_days: Option<u64>,
    /// From this moment on no backup within that time holds a wrap.
    pub none_from: Option<String>,
}

/// A certificate, its signature and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedCertificate {
    pub certificate: Certificate,
    /// The operators' public key, `ed25519:` and 43 characters of base64url.
    pub operator_key: String,
    /// In hex.
    pub signature: String,
}

impl Certificate {
    pub const FORMAT: u32 = FORMAT;

    fn signed_bytes(&self) -> Result<Vec<u8>> {
        let document =
            serde_json::to_vec(self).map_err(|_| Error::new(Code::Internal, "cannot encode a certificate"))?;
        Ok([DOMAIN, &document].concat())
    }
}

impl SignedCertificate {
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|_| Error::new(Code::Internal, "cannot encode a certificate"))
    }

    /// Reads what [`Self::to_json`] wrote, and checks that `trusted` signed it.
    pub fn verify(json: &[u8], trusted: &[u8; 32]) -> Result<Self> {
        let refused = |why: &str| {
            Error::new(Code::StateTampered, "the certificate is not one that the operators signed")
                .cause(why.to_owned())
        };
        let read: Self = serde_json::from_slice(json).map_err(|_| refused("it is no certificate of a destruction"))?;
        if read.certificate.format != FORMAT {
            return Err(refused("it is of another format").hint("a newer `enfold` may have made it: upgrade this one"));
        }
        if !is_signed(trusted, &read.certificate.signed_bytes()?, &read.signature) {
            return Err(refused("its signature is not by the operators' key that is trusted here, or it was changed"));
        }
        if read.operator_key != format_operator_key(trusted) {
            return Err(refused("it names another operators' key than the one that signed it"));
        }
        Ok(read)
    }
}

impl Operator {
    /// Signs a certificate and keeps it in the catalog, unless one of this ring (the policy's name) and subject is there: that one
    /// comes back.
    pub async fn keep_certificate(
        &self,
        ring: &str,
        subject: &Subject,
        certificate: Certificate,
    ) -> Result<SignedCertificate> {
        let named = self.enfold.ring(ring)?;
        let signed = self.certify(certificate)?.to_json()?;
        named.catalog.keep_certificate(named.id(), subject.as_str(), &signed).await?;
        let kept = self.certificate(ring, subject).await?;
        kept.ok_or_else(|| Error::new(Code::Internal, "a certificate that was kept is gone"))
    }

    /// The certificate that was kept.
    ///
    /// # Errors
    /// `StateTampered` where this operators' key did not sign it.
    pub async fn certificate(&self, ring: &str, subject: &Subject) -> Result<Option<SignedCertificate>> {
        let ring = self.enfold.ring(ring)?;
        let kept = ring.catalog.certificate(ring.id(), subject.as_str()).await?;
        kept.map(|json| SignedCertificate::verify(json.as_bytes(), &self.public_key())).transpose()
    }

    fn certify(&self, certificate: Certificate) -> Result<SignedCertificate> {
        let signature = hex(&self.sign_bytes(&certificate.signed_bytes()?));
        Ok(SignedCertificate { certificate, operator_key: format_operator_key(&self.public_key()), signature })
    }
}
