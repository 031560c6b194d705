//! Keys with versions, and the methods of the fake that use them.

mod control;

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc::{CRC_32_ISCSI, Crc};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use self::control::Control;
use super::iam::Right;
use super::{Fault, refusal, unknown_field};
use crate::cloud::server::{Reply, Request};

/// As the API names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    PendingGeneration,
    Enabled,
    Disabled,
    DestroyScheduled,
    Destroyed,
}

pub(super) struct Key {
    name: String,
    pub(super) purpose: &'static str,
    /// The period and the next time.
    pub(super) rotation: Option<(String, String)>,
    pub(super) destroyed_after: SignedDuration,
    pub(super) looks_until_ready: u32,
    versions: BTreeMap<u32, Version>,
    primary: u32,
}

struct Version {
    state: VersionState,
    looks_left: u32,
    destroyed_at: Option<Timestamp>,
    key: LessSafeKey,
}

/// One call of a method.
pub(super) struct Call<'a> {
    pub(super) key: &'a str,
    method: Method,
}

#[derive(Clone, Copy)]
enum Method {
    Get,
    GetVersion(u32),
    Encrypt,
    Decrypt,
    CreateVersion,
    UpdatePrimary,
    Control(Control),
}

impl VersionState {
    fn name(self) -> &'static str {
        match self {
            Self::PendingGeneration => "PENDING_GENERATION",
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::DestroyScheduled => "DESTROY_SCHEDULED",
            Self::Destroyed => "DESTROYED",
        }
    }
}

impl<'a> Call<'a> {
    pub(super) fn of(method: &str, name: &'a str) -> Option<Self> {
        let versions = |rest: &'a str| rest.rsplit_once("/cryptoKeyVersions/").map(|(key, n)| (key, n.parse().ok()));
        let call = |key, method| Some(Self { key, method });
        if let Some((key, control)) = Control::of(method, name) {
            return call(key, Method::Control(control));
        }
        match method {
            "GET" => match versions(name) {
                Some((key, Some(number))) => call(key, Method::GetVersion(number)),
                Some(_) => None,
                None => call(name, Method::Get),
            },
            "POST" => match (name.rsplit_once(':'), name.strip_suffix("/cryptoKeyVersions")) {
                (Some((key, "encrypt")), _) => call(key, Method::Encrypt),
                (Some((key, "decrypt")), _) => call(key, Method::Decrypt),
                (Some((key, "updatePrimaryVersion")), _) => call(key, Method::UpdatePrimary),
                (None, Some(key)) => call(key, Method::CreateVersion),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn right(&self) -> Right {
        match self.method {
            Method::Get | Method::GetVersion(_) | Method::Control(Control::List) => Right::Get,
            Method::Encrypt => Right::Encrypt,
            Method::Decrypt => Right::Decrypt,
            Method::CreateVersion | Method::UpdatePrimary | Method::Control(_) => Right::Admin,
        }
    }

    /// The parameters of the request, each of which the method has to know.
    pub(super) fn knows_parameters(&self, request: &Request) -> Result<(), Reply> {
        let known = if let Method::Control(control) = self.method { control.parameters() } else { &[] };
        control::parameters(request, known)
    }
}

impl Key {
    pub(super) fn new(name: &str) -> Self {
        let (name, versions) = (name.to_owned(), BTreeMap::from([(1, Version::new(0))]));
        Self {
            name,
            purpose: "ENCRYPT_DECRYPT",
            rotation: None,
            destroyed_after: control::DESTROYED_AFTER,
            looks_until_ready: 0,
            versions,
            primary: 1,
        }
    }

    pub(super) fn state(&self, version: u32) -> VersionState {
        self.versions[&version].state
    }

    pub(super) fn set_state(&mut self, version: u32, to: VersionState) {
        let destroyed_at = (to == VersionState::DestroyScheduled).then(|| Timestamp::now() + self.destroyed_after);
        let version = self.versions.get_mut(&version).expect("a version of this key");
        (version.state, version.destroyed_at) = (to, destroyed_at);
    }

    pub(super) fn answer(&mut self, call: &Call<'_>, request: &Request, fault: Option<Fault>) -> Result<Reply, Reply> {
        let answer = match call.method {
            Method::Control(control) => self.control(control, request)?,
            Method::Get => self.described(),
            Method::GetVersion(number) => self.version_described(number)?,
            Method::CreateVersion => {
                fields(request, &[])?;
                self.create_version()
            }
            Method::UpdatePrimary => {
                let given = fields(request, &["cryptoKeyVersionId"])?;
                self.update_primary(given.get("cryptoKeyVersionId"))?
            }
            Method::Encrypt | Method::Decrypt if self.purpose != "ENCRYPT_DECRYPT" => {
                let message = format!("{} has purpose {}, which does not allow this.", self.name, self.purpose);
                return Err(refusal(400, "INVALID_ARGUMENT", &message, &[]));
            }
            Method::Encrypt => self.encrypt(request, fault)?,
            Method::Decrypt => self.decrypt(request, fault)?,
        };
        Ok(Reply::json(200, &answer))
    }

    fn encrypt(&self, request: &Request, fault: Option<Fault>) -> Result<Value, Reply> {
        let known =
            ["plaintext", "additionalAuthenticatedData", "plaintextCrc32c", "additionalAuthenticatedDataCrc32c"];
        let given = fields(request, &known)?;
        let (plaintext, checked) = bytes(&given, "plaintext", fault)?;
        let (bound, bound_checked) = bytes(&given, "additionalAuthenticatedData", fault)?;
        if plaintext.is_empty() || plaintext.len() > 65536 || bound.len() > 65536 {
            return Err(refusal(400, "INVALID_ARGUMENT", "The request field is too large or empty.", &[]));
        }
        let version = self.usable(self.primary)?;
        let ciphertext = version.seal(self.primary, &plaintext, &bound);
        let mut shown = ciphertext.clone();
        if fault == Some(Fault::DamageAnswer) {
            shown[20] ^= 1;
        }
        let name =
            if fault == Some(Fault::AnswerOfAnotherKey) { format!("{}-2", self.name) } else { self.name.clone() };
        let looked = |field| fault != Some(Fault::IgnoreChecksum(field));
        Ok(json!({
            "name": format!("{name}/cryptoKeyVersions/{}", self.primary),
            "ciphertext": STANDARD.encode(&shown),
            "ciphertextCrc32c": crc32c(&ciphertext).to_string(),
            "verifiedPlaintextCrc32c": looked("plaintext") && checked,
            "verifiedAdditionalAuthenticatedDataCrc32c": looked("additionalAuthenticatedData") && bound_checked,
            "protectionLevel": "SOFTWARE",
        }))
    }

    fn decrypt(&self, request: &Request, fault: Option<Fault>) -> Result<Value, Reply> {
        let known =
            ["ciphertext", "additionalAuthenticatedData", "ciphertextCrc32c", "additionalAuthenticatedDataCrc32c"];
        let given = fields(request, &known)?;
        let (ciphertext, _) = bytes(&given, "ciphertext", fault)?;
        let (bound, _) = bytes(&given, "additionalAuthenticatedData", fault)?;
        let invalid = |message: &str| refusal(400, "INVALID_ARGUMENT", message, &[]);
        // The first bytes say which version it was.
        let number = ciphertext.first_chunk::<4>().map(|n| u32::from_be_bytes(*n));
        let number = number
            .filter(|n| self.versions.contains_key(n))
            .ok_or_else(|| invalid("Decryption failed: verify that 'name' refers to the correct CryptoKey."))?;
        let plaintext = self
            .usable(number)?
            .open(number, &ciphertext, &bound)
            .ok_or_else(|| invalid("Decryption failed: the ciphertext is invalid."))?;
        let mut shown = plaintext.clone();
        if fault == Some(Fault::DamageAnswer) {
            shown[0] ^= 1;
        }
        Ok(json!({
            "plaintext": STANDARD.encode(&shown),
            "plaintextCrc32c": crc32c(&plaintext).to_string(),
            "usedPrimary": number == self.primary,
            "protectionLevel": "SOFTWARE",
        }))
    }

    fn usable(&self, number: u32) -> Result<&Version, Reply> {
        let version = &self.versions[&number];
        if version.state == VersionState::Enabled {
            return Ok(version);
        }
        let message = format!(
            "{}/cryptoKeyVersions/{number} is not enabled, current state is: {}.",
            self.name,
            version.state.name()
        );
        Err(refusal(400, "FAILED_PRECONDITION", &message, &[]))
    }

    fn create_version(&mut self) -> Value {
        let number = self.versions.keys().next_back().map_or(1, |n| n + 1);
        self.versions.insert(number, Version::new(self.looks_until_ready));
        self.show(number)
    }

    fn update_primary(&mut self, id: Option<&Value>) -> Result<Value, Reply> {
        let number = id.and_then(Value::as_str).and_then(|id| id.parse().ok());
        let number = number
            .filter(|n| self.versions.contains_key(n))
            .ok_or_else(|| refusal(404, "NOT_FOUND", "CryptoKeyVersion not found.", &[]))?;
        self.usable(number)?;
        self.primary = number;
        Ok(self.described())
    }

    fn version_described(&mut self, number: u32) -> Result<Value, Reply> {
        let version = self
            .versions
            .get_mut(&number)
            .ok_or_else(|| refusal(404, "NOT_FOUND", "CryptoKeyVersion not found.", &[]))?;
        version.looks_left = version.looks_left.saturating_sub(1);
        if version.state == VersionState::PendingGeneration && version.looks_left == 0 {
            version.state = VersionState::Enabled;
        }
        Ok(self.show(number))
    }

    fn show(&self, number: u32) -> Value {
        let version = &self.versions[&number];
        let mut shown = json!({
            "name": format!("{}/cryptoKeyVersions/{number}", self.name),
            "state": version.state.name(),
            "protectionLevel": "SOFTWARE",
            "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            "createTime": "2026-01-01T00:00:00Z",
        });
        if let Some(at) = version.destroyed_at {
            shown["destroyTime"] = at.to_string().into();
        }
        shown
    }

    fn described(&self) -> Value {
        let mut about = json!({
            "name": self.name,
            "purpose": self.purpose,
            "createTime": "2026-01-01T00:00:00Z",
            "versionTemplate": { "protectionLevel": "SOFTWARE", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION" },
            "destroyScheduledDuration": format!("{}s", self.destroyed_after.as_secs()),
        });
        // Keys for other purposes have no primary version.
        if self.purpose == "ENCRYPT_DECRYPT" {
            about["primary"] = self.show(self.primary);
        }
        if let Some((period, next)) = &self.rotation {
            about["rotationPeriod"] = period.as_str().into();
            about["nextRotationTime"] = next.as_str().into();
        }
        about
    }
}

impl Version {
    fn new(looks: u32) -> Self {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("random bytes");
        let state = if looks == 0 { VersionState::Enabled } else { VersionState::PendingGeneration };
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes"));
        Self { state, looks_left: looks, destroyed_at: None, key }
    }

    /// The number of the version, a nonce, and what AES-256-GCM makes of it.
    fn seal(&self, number: u32, plaintext: &[u8], bound: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).expect("random bytes");
        let mut sealed = plaintext.to_vec();
        let nonce_given = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce_given, Aad::from(bound), &mut sealed).expect("it seals");
        [&number.to_be_bytes()[..], &nonce, &sealed].concat()
    }

    fn open(&self, number: u32, sealed: &[u8], bound: &[u8]) -> Option<Vec<u8>> {
        let rest = sealed.strip_prefix(&number.to_be_bytes())?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(bound), &mut bytes).ok()?.to_vec();
        Some(opened)
    }
}

/// The fields of the body, each of which the method has to know.
pub(super) fn fields(request: &Request, known: &[&str]) -> Result<Map<String, Value>, Reply> {
    let given = request.json().ok_or_else(|| {
        refusal(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Parsing terminated before end of input.", &[])
    })?;
    match given.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(unknown_field(name)),
        None => Ok(given),
    }
}

/// A field of bytes, and whether it came with a checksum; one that does not fit is refused.
fn bytes(given: &Map<String, Value>, name: &str, fault: Option<Fault>) -> Result<(Vec<u8>, bool), Reply> {
    let invalid = |message: String| refusal(400, "INVALID_ARGUMENT", &message, &[]);
    let text = given.get(name).map_or(Some(""), Value::as_str);
    let decoded = text.and_then(|text| STANDARD.decode(text).ok());
    let mut decoded =
        decoded.ok_or_else(|| invalid(format!("Invalid value at '{name}' (TYPE_BYTES), Base64 decoding failed")))?;
    let Some(sum) = given.get(&format!("{name}Crc32c")) else { return Ok((decoded, false)) };
    let sum: i64 = sum.as_str().and_then(|s| s.parse().ok()).ok_or_else(|| {
        invalid(format!("Invalid value at '{name}_crc32c' (type.googleapis.com/google.protobuf.Int64Value)"))
    })?;
    if fault == Some(Fault::DamageRequest) {
        decoded.push(0);
    }
    if i64::from(crc32c(&decoded)) != sum {
        return Err(invalid(format!("The checksum in field {name}_crc32c did not match the data in field {name}.")));
    }
    Ok((decoded, true))
}

fn crc32c(bytes: &[u8]) -> u32 {
    Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes)
}
