//! Keys with versions, and the operations of the fake that use them.

mod control;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use self::control::Control;
use super::entra::Right;
use super::{Fault, knows, refusal};
use crate::cloud::server::{Reply, Request};

/// What a key is, and where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RSA of 2048 bits, in a vault.
    Rsa,
    /// AES of 256 bits, in a managed HSM.
    OctHsm,
    /// For signing, in a vault.
    Ec,
}

/// When a key wraps. What was wrapped opens at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Always,
    Expired,
    NotYet,
}

pub(super) struct Key {
    kind: Kind,
    name: String,
    versions: Vec<Version>,
    pub(super) policy: Value,
    pub(super) recoverable_days: u32,
    /// It was asked back, and is not there yet.
    looks_until_there: u32,
}

pub(super) struct Version {
    id: String,
    pub(super) enabled: bool,
    pub(super) validity: Validity,
    secret: Secret,
}

enum Secret {
    Rsa(PrivateDecryptingKey),
    Aes([u8; 32]),
    None,
}

/// One call of an operation.
pub(super) struct Call<'a> {
    pub(super) key: &'a str,
    operation: Operation<'a>,
}

#[derive(Clone, Copy)]
enum Operation<'a> {
    /// None: the newest.
    Get(Option<&'a str>),
    GetDeleted,
    Wrap(&'a str),
    Unwrap(&'a str),
    Rotate,
    Control(Control<'a>),
}

impl Kind {
    pub(super) fn host(self) -> &'static str {
        match self {
            Self::Rsa | Self::Ec => "fake.vault.azure.net",
            Self::OctHsm => "fake.managedhsm.azure.net",
        }
    }

    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Rsa | Self::Ec => "https://vault.azure.net",
            Self::OctHsm => "https://managedhsm.azure.net",
        }
    }

    fn wrapping(self) -> &'static str {
        match self {
            Self::Rsa => "RSA-OAEP-256",
            Self::OctHsm => "A256KW",
            Self::Ec => "",
        }
    }
}

impl<'a> Call<'a> {
    pub(super) fn of(request: &'a Request) -> Option<Self> {
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        if let Some((key, control)) = Control::of(&request.method, &parts) {
            return Some(Self { key, operation: Operation::Control(control) });
        }
        let (key, operation) = match (request.method.as_str(), &parts[..]) {
            ("GET", ["keys", key]) => (key, Operation::Get(None)),
            ("GET", ["keys", key, version]) => (key, Operation::Get(Some(version))),
            ("GET", ["deletedkeys", key]) => (key, Operation::GetDeleted),
            ("POST", ["keys", key, version, "wrapkey"]) => (key, Operation::Wrap(version)),
            ("POST", ["keys", key, version, "unwrapkey"]) => (key, Operation::Unwrap(version)),
            ("POST", ["keys", key, "rotate"]) => (key, Operation::Rotate),
            _ => return None,
        };
        Some(Self { key, operation })
    }

    pub(super) fn is_of_the_deleted(&self) -> bool {
        matches!(self.operation, Operation::GetDeleted | Operation::Control(Control::Recover))
    }

    /// The key goes over to those that are deleted, or back.
    pub(super) fn moves(&self) -> bool {
        matches!(self.operation, Operation::Control(Control::Delete | Control::Recover))
    }

    /// The parameters that the operation knows.
    pub(super) fn parameters(&self) -> &'static [&'static str] {
        match self.operation {
            Operation::Control(Control::List) => &["api-version", "$skiptoken", "maxresults"],
            _ => &["api-version"],
        }
    }

    pub(super) fn right(&self) -> Right {
        match self.operation {
            Operation::Get(_) | Operation::GetDeleted | Operation::Control(Control::List | Control::Policy) => {
                Right::Get
            }
            Operation::Control(_) => Right::Manage,
            Operation::Wrap(_) => Right::Wrap,
            Operation::Unwrap(_) => Right::Unwrap,
            Operation::Rotate => Right::Rotate,
        }
    }
}

impl Key {
    pub(super) fn new(kind: Kind, name: &str) -> Self {
        let (versions, policy) = (vec![Version::new(kind)], control::default_policy(name));
        Self { kind, name: name.to_owned(), versions, policy, recoverable_days: 90, looks_until_there: 0 }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn newest(&mut self) -> &mut Version {
        self.versions.last_mut().expect("a key has a version")
    }

    pub(super) fn version_mut(&mut self, id: &str) -> &mut Version {
        self.versions.iter_mut().find(|version| version.id == id).expect("a version of this key")
    }

    pub(super) fn versions(&self) -> Vec<String> {
        self.versions.iter().map(|version| version.id.clone()).collect()
    }

    pub(super) fn answer(&mut self, call: &Call<'_>, request: &Request, fault: Option<Fault>) -> Result<Reply, Reply> {
        if self.looks_until_there > 0 && !call.is_of_the_deleted() {
            self.looks_until_there -= 1;
            return Err(refusal(404, "KeyNotFound", None));
        }
        let answer = match call.operation {
            Operation::Control(control) => self.control(control, request)?,
            Operation::Get(None) | Operation::GetDeleted => self.show(self.last()),
            Operation::Get(Some(id)) => self.show(self.version(id)?),
            Operation::Rotate => {
                self.versions.push(Version::new(self.kind));
                self.show(self.last())
            }
            Operation::Wrap(id) => {
                let (version, value) = (self.version(id)?, self.value(request)?);
                version.must_wrap()?;
                self.result(version, &version.wrap(&value)?, fault)
            }
            Operation::Unwrap(id) => {
                let (version, value) = (self.version(id)?, self.value(request)?);
                if !version.enabled {
                    return Err(refusal(403, "Forbidden", Some("KeyDisabled")));
                }
                self.result(version, &version.unwrap(&value)?, fault)
            }
        };
        Ok(Reply::json(200, &answer))
    }

    fn version(&self, id: &str) -> Result<&Version, Reply> {
        self.versions.iter().find(|version| version.id == id).ok_or_else(|| refusal(404, "KeyNotFound", None))
    }

    /// The bytes of the body, which asks for this kind of key's way of wrapping.
    fn value(&self, request: &Request) -> Result<Vec<u8>, Reply> {
        let bad = || refusal(400, "BadParameter", None);
        let given = request.json().filter(|given| knows(given, &["alg", "value"])).ok_or_else(bad)?;
        if given.get("alg").and_then(Value::as_str) != Some(self.kind.wrapping()) {
            return Err(bad());
        }
        let value = given.get("value").and_then(Value::as_str).ok_or_else(bad)?;
        URL_SAFE_NO_PAD.decode(value).map_err(|_| bad())
    }

    fn result(&self, version: &Version, value: &[u8], fault: Option<Fault>) -> Value {
        let mut kid = self.kid(version);
        if fault == Some(Fault::AnswerOfAnotherKey) {
            kid = kid.replace(&self.name, "another-key");
        }
        json!({ "kid": kid, "value": URL_SAFE_NO_PAD.encode(value) })
    }

    fn kid(&self, version: &Version) -> String {
        format!("https://{}/keys/{}/{}", self.kind.host(), self.name, version.id)
    }

    fn show(&self, version: &Version) -> Value {
        let (nbf, exp) = match version.validity {
            Validity::Always => (None, None),
            Validity::Expired => (None, Some(1_000_000_000)),
            Validity::NotYet => (Some(4_000_000_000_i64), None),
        };
        let mut key = json!({ "kid": self.kid(version) });
        match &version.secret {
            Secret::Rsa(private) => {
                let modulus = private.key_size_bytes();
                let der = version.public_key();
                // `SubjectPublicKeyInfo` ends with the modulus and the exponent 65537 (02 03 01 00 01).
                let (n, e) = (&der[der.len() - 5 - modulus..der.len() - 5], &der[der.len() - 3..]);
                key["kty"] = "RSA".into();
                key["n"] = URL_SAFE_NO_PAD.encode(n).into();
                key["e"] = URL_SAFE_NO_PAD.encode(e).into();
                key["key_ops"] = json!(["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"]);
            }
            Secret::Aes(_) => {
                key["kty"] = "oct-HSM".into();
                key["key_size"] = 256.into();
                key["key_ops"] = json!(["wrapKey", "unwrapKey"]);
            }
            Secret::None => {
                key["kty"] = "EC".into();
                key["key_ops"] = json!(["sign", "verify"]);
            }
        }
        let mut attributes = json!({
            "enabled": version.enabled, "created": 1_700_000_000, "updated": 1_700_000_000,
            "recoveryLevel": if self.recoverable_days == 0 { "Purgeable" } else { "Recoverable+Purgeable" },
            "recoverableDays": self.recoverable_days,
        });
        if let Some(nbf) = nbf {
            attributes["nbf"] = nbf.into();
        }
        if let Some(exp) = exp {
            attributes["exp"] = exp.into();
        }
        json!({ "key": key, "attributes": attributes, "tags": {} })
    }
}

impl Version {
    fn new(kind: Kind) -> Self {
        let mut id = [0; 16];
        rand::fill(&mut id).expect("random bytes");
        let secret = match kind {
            Kind::Rsa => Secret::Rsa(PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("a key")),
            Kind::OctHsm => {
                let mut key = [0; 32];
                rand::fill(&mut key).expect("random bytes");
                Secret::Aes(key)
            }
            Kind::Ec => Secret::None,
        };
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id, enabled: true, validity: Validity::Always, secret }
    }

    pub(super) fn public_key(&self) -> Vec<u8> {
        let Secret::Rsa(private) = &self.secret else { panic!("no RSA key") };
        let der: PublicKeyX509Der<'_> = private.public_key().as_der().expect("a public key");
        der.as_ref().to_vec()
    }

    /// The service lets RSA keys wrap that are disabled, since anybody can who has the public half; it holds wraps to the
    /// dates.
    fn must_wrap(&self) -> Result<(), Reply> {
        let forbidden = |why: &str| Err(refusal(403, "Forbidden", Some(why)));
        match self.validity {
            Validity::Expired => forbidden("KeyExpired"),
            Validity::NotYet => forbidden("KeyNotYetValid"),
            Validity::Always if !self.enabled && !matches!(self.secret, Secret::Rsa(_)) => forbidden("KeyDisabled"),
            Validity::Always => Ok(()),
        }
    }

    fn wrap(&self, value: &[u8]) -> Result<Vec<u8>, Reply> {
        let bad = || refusal(400, "BadParameter", None);
        match &self.secret {
            Secret::Rsa(private) => {
                let key = OaepPublicEncryptingKey::new(private.public_key()).expect("a key");
                let mut out = vec![0; key.ciphertext_size()];
                let made = key.encrypt(&OAEP_SHA256_MGF1SHA256, value, &mut out, None).map_err(|_| bad())?.to_vec();
                Ok(made)
            }
            Secret::Aes(key) => {
                let mut out = vec![0; value.len() + 8];
                let made = kek(key).wrap(value, &mut out).map_err(|_| bad())?.to_vec();
                Ok(made)
            }
            Secret::None => Err(bad()),
        }
    }

    fn unwrap(&self, value: &[u8]) -> Result<Vec<u8>, Reply> {
        let bad = || refusal(400, "BadParameter", None);
        match &self.secret {
            Secret::Rsa(private) => {
                let key = OaepPrivateDecryptingKey::new(private.clone()).expect("a key");
                let mut out = vec![0; key.min_output_size()];
                let found = key.decrypt(&OAEP_SHA256_MGF1SHA256, value, &mut out, None).map_err(|_| bad())?.to_vec();
                Ok(found)
            }
            Secret::Aes(key) => {
                let mut out = vec![0; value.len()];
                let found = kek(key).unwrap(value, &mut out).map_err(|_| bad())?.to_vec();
                Ok(found)
            }
            Secret::None => Err(bad()),
        }
    }
}

fn kek(key: &[u8; 32]) -> AesKek {
    AesKek::new(&AES_256, key).expect("32 bytes")
}
