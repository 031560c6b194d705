//! Evidence for an auditor: what was looked at in the running system, when, and what came of it, signed.
//!
//! What is signed is a list with the SHA-256 of every field, so that whoever verifies it without a database or a network learns not only
//! that something was changed, but what. The encoding is that of ring states: JSON in one spelling, of which what is signed is
//! `enfold/v1 evidence`, a zero byte, and the list's bytes. Looking is for `enfold-jobs`; here is the document.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::events::Signer;
use crate::hex::hex;
use crate::policy::format_operator_key;
use crate::signing_key::is_signed;
use crate::{Code, Error, Result};

const DOMAIN: &[u8] = b"enfold/v1 evidence\0";
const FORMAT: u32 = 1;

/// How a question was answered, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    NotMet,
    /// Nobody can say from here, or there was nothing to look at.
    NotChecked,
    Met,
}

impl Outcome {
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotMet => "not met",
            Self::NotChecked => "not checked",
            Self::Met => "met",
        }
    }
}

/// What was looked at for one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    pub id: String,
    pub question: String,
    /// When, in RFC 3339 and UTC.
    pub at: String,
    pub outcome: Outcome,
    /// Why it was not met, or not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was found, a line each. No value, no key and no tenant is in one.
    pub found: Vec<String>,
    /// What the answer rests on, and what it does not say.
    pub limits: String,
}

/// A control of a standard, and the checks that speak for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    pub id: String,
    pub title: String,
    pub checks: Vec<String>,
    /// The worst of its checks'.
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What the evidence is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    pub format: u32,
    /// In the command's word: `soc2`.
    pub standard: String,
    pub title: String,
    /// In RFC 3339 and UTC.
    pub made_at: String,
    pub made_by: Option<String>,
    pub program: String,
    /// The policy's.
    pub environment: String,
    /// Ids of the rings that were looked at.
    pub rings: Vec<String>,
}

/// A field, as it was when it was signed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// `statement`, `control ID` or `check ID`.
    pub of: String,
    pub field: String,
    /// Of its JSON, in hex.
    pub sha256: String,
}

/// Evidence, and who signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedEvidence {
    pub statement: Statement,
    pub controls: Vec<Control>,
    pub checks: Vec<Checked>,
    /// What is signed, sorted.
    pub parts: Vec<Part>,
    /// The public key, `ed25519:` and 43 characters of base64url.
    pub signed_by: String,
    /// In hex.
    pub signature: String,
}

impl Statement {
    pub const FORMAT: u32 = FORMAT;
}

impl SignedEvidence {
    pub async fn sign(
        statement: Statement,
        controls: Vec<Control>,
        checks: Vec<Checked>,
        signer: &dyn Signer,
    ) -> Result<Self> {
        let parts = parts(&statement, &controls, &checks)?;
        let signature = hex(&signer.sign(&signed_bytes(&parts)?).await?);
        let signed_by = format_operator_key(&signer.public_key());
        Ok(Self { statement, controls, checks, parts, signed_by, signature })
    }

    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|_| unencodable())
    }

    /// Reads what [`Self::to_json`] wrote, checks that one of `trusted` signed it, and that every field is as it was signed.
    ///
    /// # Errors
    /// `EvidenceTampered`, with a cause for each field that was changed, and each check or control that was removed or added.
    pub fn verify(json: &[u8], trusted: &[[u8; 32]]) -> Result<Self> {
        let read: Self = serde_json::from_slice(json).map_err(|_| refused(["it is no evidence of this program's"]))?;
        if read.statement.format != FORMAT {
            let error = refused(["`format` of statement is not the one that this program knows"]);
            return Err(error.hint("a newer `enfold` may have made it: upgrade this one"));
        }
        let bytes = signed_bytes(&read.parts)?;
        let Some(signer) = trusted.iter().find(|key| is_signed(key, &bytes, &read.signature)) else {
            return Err(refused(["no key that is trusted here signed it, or `parts` or `signature` was changed"]));
        };
        if read.signed_by != format_operator_key(signer) {
            return Err(refused(["`signed_by` was changed: another key signed it"]));
        }
        let found = parts(&read.statement, &read.controls, &read.checks)?;
        if read.parts == found { Ok(read) } else { Err(refused(differences(&read.parts, &found))) }
    }
}

fn refused<T: Into<String>>(causes: impl IntoIterator<Item = T>) -> Error {
    let error = Error::new(Code::EvidenceTampered, "the evidence is not what was signed");
    causes.into_iter().fold(error, |error, cause| error.cause(cause.into()))
}

fn signed_bytes(parts: &[Part]) -> Result<Vec<u8>> {
    let list = serde_json::to_vec(parts).map_err(|_| unencodable())?;
    Ok([DOMAIN, &list].concat())
}

fn parts(statement: &Statement, controls: &[Control], checks: &[Checked]) -> Result<Vec<Part>> {
    let mut parts = fields("statement", statement)?;
    for control in controls {
        parts.extend(fields(&format!("control {}", control.id), control)?);
    }
    for check in checks {
        parts.extend(fields(&format!("check {}", check.id), check)?);
    }
    parts.sort_unstable();
    Ok(parts)
}

fn fields(of: &str, part: &impl Serialize) -> Result<Vec<Part>> {
    let Ok(Value::Object(fields)) = serde_json::to_value(part) else { return Err(unencodable()) };
    let hashed = fields.into_iter().map(|(field, value)| {
        // A value prints as its JSON, in one spelling.
        let sha256 = hex(digest(&SHA256, value.to_string().as_bytes()).as_ref());
        Part { of: of.to_owned(), field, sha256 }
    });
    Ok(hashed.collect())
}

fn differences(signed: &[Part], found: &[Part]) -> Vec<String> {
    let (before, now) = (by_owner(signed), by_owner(found));
    let owners: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
    let mut told = Vec::new();
    for of in owners {
        match (before.get(of), now.get(of)) {
            (Some(_), None) => told.push(format!("{of} was removed")),
            (None, _) => told.push(format!("{of} was added")),
            (Some(before), Some(now)) => {
                let names: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
                let changed = names.into_iter().filter(|field| before.get(field) != now.get(field));
                told.extend(changed.map(|field| format!("`{field}` of {of} was changed")));
            }
        }
    }
    if told.is_empty() {
        told.push("a control or a check stands in it twice".to_owned());
    }
    told
}

fn by_owner(parts: &[Part]) -> BTreeMap<&str, BTreeMap<&str, &str>> {
    let mut owners: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for part in parts {
        owners.entry(&part.of).or_default().insert(&part.field, &part.sha256);
    }
    owners
}

fn unencodable() -> Error {
    Error::new(Code::Internal, "cannot encode evidence")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::LogKey;

    async fn signed() -> (tempfile::TempDir, LogKey, SignedEvidence) {
        let folder = tempfile::tempdir().unwrap();
        let key = LogKey::init(&folder.path().join("log.key")).unwrap();
        let check = |id: &str, outcome, reason: Option<&str>| Checked {
            id: id.to_owned(),
            question: "is it so?".to_owned(),
            at: "2026-01-01T00:00:00Z".to_owned(),
            outcome,
            reason: reason.map(str::to_owned),
            found: vec!["9 envelopes".to_owned()],
            limits: "a count".to_owned(),
        };
        let control = Control {
            id: "CC6.1".to_owned(),
            title: "access".to_owned(),
            checks: vec!["a".to_owned(), "b".to_owned()],
            outcome: Outcome::NotMet,
            note: Some("not all of it".to_owned()),
        };
        let statement = Statement {
            format: Statement::FORMAT,
            standard: "soc2".to_owned(),
            title: "SOC 2".to_owned(),
            made_at: "2026-01-01T00:00:01Z".to_owned(),
            made_by: Some("ada".to_owned()),
            program: "enfold 1".to_owned(),
            environment: "staging".to_owned(),
            rings: vec!["orders".to_owned()],
        };
        let checks = vec![check("a", Outcome::Met, None), check("b", Outcome::NotMet, Some("it is not"))];
        let signed = SignedEvidence::sign(statement, vec![control], checks, &key).await.unwrap();
        (folder, key, signed)
    }

    fn causes(json: &str, key: &LogKey) -> Vec<String> {
        let error = SignedEvidence::verify(json.as_bytes(), &[key.public_key()]).unwrap_err();
        assert_eq!(error.code(), Code::EvidenceTampered, "{json}");
        error.causes().map(str::to_owned).collect()
    }

    /// Another value of the same type.
    fn other(value: &Value) -> Value {
        match value {
            Value::String(text) if text == "not-met" => "met".into(),
            Value::String(text) if text == "met" => "not-checked".into(),
            Value::String(text) => format!("{text}!").into(),
            Value::Array(items) => items.iter().skip(1).cloned().collect(),
            Value::Number(number) => (number.as_u64().unwrap() + 1).into(),
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn whichever_field_is_changed_is_named() {
        let (_folder, key, signed) = signed().await;
        let whole = serde_json::to_value(&signed).unwrap();
        assert_eq!(SignedEvidence::verify(whole.to_string().as_bytes(), &[key.public_key()]).unwrap(), signed);
        let owners = [
            ("/statement", "statement"),
            ("/controls/0", "control CC6.1"),
            ("/checks/0", "check a"),
            ("/checks/1", "check b"),
        ];
        let mut tried = 0;
        for (at, of) in owners {
            for (field, value) in whole.pointer(at).unwrap().as_object().unwrap() {
                let mut changed = whole.clone();
                *changed.pointer_mut(&format!("{at}/{field}")).unwrap() = other(value);
                let told = causes(&changed.to_string(), &key).join("\n");
                if field == "id" {
                    assert!(
                        told.contains(&format!("{of} was removed")) && told.contains(&format!("{of}! was added")),
                        "{told}"
                    );
                } else {
                    assert!(told.starts_with(&format!("`{field}` of {of} ")) && !told.contains('\n'), "{told}");
                }
                tried += 1;
            }
        }
        assert_eq!(tried, 8 + 5 + 6 + 7);
        for field in ["parts", "signed_by", "signature"] {
            let mut changed = whole.clone();
            changed[field] = other(&changed[field]);
            assert!(causes(&changed.to_string(), &key)[0].contains(&format!("`{field}`")), "{field}");
        }
    }

    #[tokio::test]
    async fn what_is_taken_out_put_in_or_doubled_shows() {
        let (_folder, key, signed) = signed().await;
        let told = |change: &dyn Fn(&mut SignedEvidence)| {
            let mut changed = signed.clone();
            change(&mut changed);
            causes(&changed.to_json().unwrap(), &key)
        };
        assert_eq!(told(&|e| drop(e.checks.pop())), ["check b was removed"]);
        assert_eq!(told(&|e| e.controls.clear()), ["control CC6.1 was removed"]);
        assert_eq!(
            told(&|e| e.checks.push(Checked { id: "c".to_owned(), ..e.checks[0].clone() })),
            ["check c was added"]
        );
        assert_eq!(told(&|e| e.checks[1].reason = None), ["`reason` of check b was changed"]);
        // Whoever reads it goes by the first of two, so the second must not be what vouches for both.
        let forged =
            |e: &mut SignedEvidence| e.checks.insert(1, Checked { outcome: Outcome::Met, ..e.checks[1].clone() });
        assert!(!told(&forged).is_empty());
        assert_eq!(told(&|e| e.checks.push(e.checks[0].clone())), ["a control or a check stands in it twice"]);
        let more = signed.to_json().unwrap().replacen("{", "{\"more\": 1,", 1);
        assert_eq!(causes(&more, &key), ["it is no evidence of this program's"]);
    }

    #[tokio::test]
    async fn a_key_that_is_not_trusted_vouches_for_nothing() {
        let (folder, key, signed) = signed().await;
        let json = signed.to_json().unwrap();
        let stranger = LogKey::init(&folder.path().join("other.key")).unwrap();
        assert!(SignedEvidence::verify(json.as_bytes(), &[stranger.public_key()]).is_err());
        assert!(SignedEvidence::verify(json.as_bytes(), &[]).is_err());
        assert!(SignedEvidence::verify(json.as_bytes(), &[stranger.public_key(), key.public_key()]).is_ok());
    }
}
