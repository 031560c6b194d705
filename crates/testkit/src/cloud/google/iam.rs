//! Who signs in to the fake, with what, and what each may do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::keys::fields;
use super::{FakeGoogle, refusal};
use crate::cloud::identity::{Assertion, SigningKey};
use crate::cloud::server::{Reply, Request};

/// What a call needs. The names are of IAM's permissions, below `cloudkms.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Encrypt,
    Decrypt,
    Get,
    Admin,
}

/// Permissions of IAM on a key and its versions, with the right that stands for each here.
const PERMISSIONS: [(&str, Right); 11] = [
    ("cloudkms.cryptoKeyVersions.useToEncrypt", Right::Encrypt),
    ("cloudkms.cryptoKeyVersions.useToDecrypt", Right::Decrypt),
    ("cloudkms.cryptoKeys.get", Right::Get),
    ("cloudkms.cryptoKeyVersions.get", Right::Get),
    ("cloudkms.cryptoKeys.update", Right::Admin),
    ("cloudkms.cryptoKeys.getIamPolicy", Right::Admin),
    ("cloudkms.cryptoKeys.setIamPolicy", Right::Admin),
    ("cloudkms.cryptoKeyVersions.create", Right::Admin),
    ("cloudkms.cryptoKeyVersions.update", Right::Admin),
    ("cloudkms.cryptoKeyVersions.destroy", Right::Admin),
    ("cloudkms.cryptoKeyVersions.restore", Right::Admin),
];

/// The principal whose refresh token is `a-refresh-token`.
pub const PERSON: &str = "ada@example.com";
/// The service account of the machine.
pub const METADATA_ACCOUNT: &str = "machine@fake.iam.gserviceaccount.com";
/// The principal whose foreign token is exchanged.
pub const EXTERNAL: &str = "principal://iam.googleapis.com/pool/subject/worker";

const KMS_SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";
const PLATFORM_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

#[derive(Default)]
pub(super) struct Identities {
    pub(super) endpoint: String,
    rights: BTreeMap<String, BTreeSet<Right>>,
    /// Keys of service accounts, by key id.
    accounts: BTreeMap<String, AccountKey>,
    /// Foreign tokens that the pool takes.
    subjects: BTreeSet<String>,
    /// Who may act as whom.
    creators: BTreeSet<(String, String)>,
    tokens: BTreeMap<String, Token>,
    issued: u64,
}

struct AccountKey {
    email: String,
    public: Vec<u8>,
    /// An organisation may give keys an end (`constraints/iam.serviceAccountKeyExpiryHours`).
    ends: i64,
}

struct Token {
    principal: String,
    scope: String,
    ends: i64,
}

impl FakeGoogle {
    /// Lets somebody do something with every key.
    pub fn grant(&self, principal: &str, rights: &[Right]) {
        self.state().identities.rights.insert(principal.to_owned(), rights.iter().copied().collect());
    }

    /// Lets `principal` sign in as that service account.
    pub fn let_act_as(&self, principal: &str, account: &str) {
        self.state().identities.creators.insert((principal.to_owned(), account.to_owned()));
    }

    /// A new key of a service account that may do everything, as the console hands it out.
    pub fn service_account(&self, email: &str) -> Value {
        let key = SigningKey::generate();
        let mut state = self.state();
        let id = format!("{:040x}", state.identities.accounts.len() + 1);
        let made = AccountKey { email: email.to_owned(), public: key.public(), ends: i64::MAX };
        state.identities.accounts.insert(id.clone(), made);
        let all = [Right::Encrypt, Right::Decrypt, Right::Get, Right::Admin];
        state.identities.rights.entry(email.to_owned()).or_insert_with(|| all.into());
        json!({
            "type": "service_account",
            "project_id": "fake",
            "private_key_id": id,
            "private_key": key.private_pem(),
            "client_email": email,
            "client_id": "1",
            "token_uri": format!("{}/token", self.endpoint()),
            "universe_domain": "googleapis.com",
        })
    }

    /// The key of a service account is deleted.
    pub fn delete_account_key(&self, file: &Value) {
        let id = file["private_key_id"].as_str().expect("a key id");
        self.state().identities.accounts.remove(id);
    }

    /// Every key of a service account comes to its end, and so does every token that was given out.
    pub fn expire_account_keys(&self, email: &str) {
        let mut state = self.state();
        let all = state.identities.accounts.values_mut();
        all.filter(|key| key.email == email).for_each(|key| key.ends = now());
        state.identities.tokens.clear();
    }

    /// A foreign token that the pool takes from now on.
    pub fn subject_token(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let token = format!("subject-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.state().identities.subjects.insert(token.clone());
        token
    }

    /// Every token that was given out ends now.
    pub fn end_tokens(&self) {
        self.state().identities.tokens.clear();
    }

    /// How many tokens were given out.
    pub fn issued(&self) -> u64 {
        self.state().identities.issued
    }
}

impl Identities {
    /// Those of the permissions that are asked for which the caller has. Nobody has any on a key that is not there.
    pub(super) fn test_permissions(&self, request: &Request, there: bool) -> Result<Reply, Reply> {
        let caller = self.caller(request)?;
        let invalid = || refusal(400, "INVALID_ARGUMENT", "Permission is not valid for this resource.", &[]);
        let given = fields(request, &["permissions"])?;
        let asked = given.get("permissions").and_then(Value::as_array).ok_or_else(invalid)?;
        let mut held = Vec::new();
        for name in asked {
            let (name, right) = PERMISSIONS.into_iter().find(|(known, _)| name == known).ok_or_else(invalid)?;
            if there && self.rights.get(&caller.principal).is_some_and(|rights| rights.contains(&right)) {
                held.push(name);
            }
        }
        Ok(Reply::json(200, &if held.is_empty() { json!({}) } else { json!({ "permissions": held }) }))
    }

    /// Whether whoever calls may do this.
    pub(super) fn admit(&self, request: &Request, right: Right) -> Result<(), Reply> {
        let caller = self.caller(request)?;
        match self.rights.get(&caller.principal).is_some_and(|rights| rights.contains(&right)) {
            true => Ok(()),
            false => Err(denied("IAM_PERMISSION_DENIED", &format!("cloudkms.{right:?}"))),
        }
    }

    /// Whoever calls, with a token that is good for Cloud KMS.
    fn caller(&self, request: &Request) -> Result<&Token, Reply> {
        let unauthenticated = || {
            let message = "Request had invalid authentication credentials. Expected OAuth 2 access token.";
            refusal(401, "UNAUTHENTICATED", message, &[])
        };
        let token = request.bearer().and_then(|token| self.tokens.get(token)).ok_or_else(unauthenticated)?;
        if token.ends <= now() {
            return Err(unauthenticated());
        }
        if token.scope != KMS_SCOPE && token.scope != PLATFORM_SCOPE {
            return Err(denied("ACCESS_TOKEN_SCOPE_INSUFFICIENT", ""));
        }
        // A person's call has to say which project pays for it.
        if token.principal == PERSON && request.header("x-goog-user-project").is_none() {
            return Err(denied("SERVICE_DISABLED", ""));
        }
        Ok(token)
    }

    /// A token, without a sign-in.
    #[cfg(test)]
    pub(super) fn token_for(&mut self, principal: &str, rights: &[Right]) -> String {
        self.rights.insert(principal.to_owned(), rights.iter().copied().collect());
        self.make(principal, KMS_SCOPE).0
    }

    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        let account = request
            .path
            .strip_prefix("/v1/projects/-/serviceAccounts/")
            .and_then(|rest| rest.strip_suffix(":generateAccessToken"));
        match (request.method.as_str(), request.path.as_str(), account) {
            ("POST", "/token", _) => self.token(request),
            ("POST", "/sts", _) => self.exchange(request),
            ("POST", _, Some(account)) => self.impersonate(request, account),
            ("GET", "/computeMetadata/v1/instance/service-accounts/default/token", _) => self.metadata(request),
            ("GET", "/subject", _) => self.subject(request),
            _ => Reply::json(404, &json!({ "error": "not_found" })),
        }
    }

    fn token(&mut self, request: &Request) -> Reply {
        let form = request.form().unwrap_or_default();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        match field("grant_type") {
            "urn:ietf:params:oauth:grant-type:jwt-bearer" if form.len() == 2 => self.signed(field("assertion")),
            "refresh_token" if form.len() == 4 => {
                let right = (field("client_id"), field("client_secret"), field("refresh_token"));
                match right == ("a-client", "a-client-secret", "a-refresh-token") {
                    true => self.give(PERSON, PLATFORM_SCOPE),
                    false => refused(400, "invalid_grant"),
                }
            }
            _ => refused(400, "unsupported_grant_type"),
        }
    }

    /// RFC 7523, section 3, and Google's own rules on it.
    fn signed(&mut self, assertion: &str) -> Reply {
        let Some(assertion) = Assertion::parse(assertion) else { return refused(400, "invalid_grant") };
        let id = assertion.header.get("kid").and_then(Value::as_str).unwrap_or_default();
        let Some(key) = self.accounts.get(id) else { return refused(400, "invalid_grant") };
        let (from, to) = (assertion.time("iat"), assertion.time("exp"));
        let email = key.email.clone();
        let sound = assertion.header.get("alg") == Some(&"RS256".into())
            && key.ends > now()
            && assertion.is_signed_by(&key.public)
            && assertion.claim("iss") == email
            && assertion.claim("aud") == format!("{}/token", self.endpoint)
            && from <= now() + 60
            && to > now()
            && to - from <= 3600;
        match (sound, assertion.claim("scope")) {
            (false, _) => refused(400, "invalid_grant"),
            (true, scope @ (KMS_SCOPE | PLATFORM_SCOPE)) => self.give(&email, scope),
            (true, _) => refused(400, "invalid_scope"),
        }
    }

    /// RFC 8693, section 2.1.
    fn exchange(&mut self, request: &Request) -> Reply {
        let form = request.form().unwrap_or_default();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let sound = form.len() == 6
            && field("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange"
            && field("requested_token_type") == "urn:ietf:params:oauth:token-type:access_token"
            && field("subject_token_type") == "urn:ietf:params:oauth:token-type:jwt"
            && field("audience").starts_with("//iam.googleapis.com/");
        if !sound {
            return refused(400, "invalid_request");
        }
        match self.subjects.contains(field("subject_token")) {
            true => self.give(EXTERNAL, field("scope")),
            false => refused(400, "invalid_grant"),
        }
    }

    fn impersonate(&mut self, request: &Request, account: &str) -> Reply {
        let caller = request.bearer().and_then(|token| self.tokens.get(token));
        let Some(caller) = caller.filter(|t| t.scope == PLATFORM_SCOPE && t.ends > now()) else {
            return refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", &[]);
        };
        if !self.creators.contains(&(caller.principal.clone(), account.to_owned())) {
            let message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource.";
            return refusal(403, "PERMISSION_DENIED", message, &[]);
        }
        let wanted = request.json().unwrap_or_default();
        let known = wanted.keys().all(|name| ["scope", "lifetime", "delegates"].contains(&name.as_str()));
        match (known, wanted.get("scope").and_then(|s| s.get(0)).and_then(Value::as_str)) {
            (true, Some(scope)) => {
                let (token, ends) = self.make(account, scope);
                let ends = jiff::Timestamp::from_second(ends).expect("a time").to_string();
                Reply::json(200, &json!({ "accessToken": token, "expireTime": ends }))
            }
            _ => refusal(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", &[]),
        }
    }

    fn metadata(&mut self, request: &Request) -> Reply {
        if request.header("metadata-flavor") != Some("Google") || request.header("x-forwarded-for").is_some() {
            return refused(403, "forbidden");
        }
        let scope = request.query.get("scopes").cloned().unwrap_or_default();
        self.give(METADATA_ACCOUNT, &scope).header("metadata-flavor", "Google")
    }

    /// A token of somebody else's, at a URL.
    fn subject(&self, request: &Request) -> Reply {
        match (request.header("metadata"), self.subjects.first()) {
            (Some("True"), Some(token)) => Reply::json(200, &json!({ "value": token })),
            _ => refused(403, "forbidden"),
        }
    }

    fn give(&mut self, principal: &str, scope: &str) -> Reply {
        let (token, ends) = self.make(principal, scope);
        Reply::json(200, &json!({ "access_token": token, "expires_in": ends - now(), "token_type": "Bearer" }))
    }

    fn make(&mut self, principal: &str, scope: &str) -> (String, i64) {
        self.issued += 1;
        let (token, ends) = (format!("ya29.fake-{}", self.issued), now() + 3600);
        let made = Token { principal: principal.to_owned(), scope: scope.to_owned(), ends };
        self.tokens.insert(token.clone(), made);
        (token, ends)
    }
}

fn denied(reason: &str, permission: &str) -> Reply {
    let details = [json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason,
        "domain": "cloudkms.googleapis.com", "metadata": { "permission": permission },
    })];
    refusal(403, "PERMISSION_DENIED", "Permission denied on resource (or it may not exist).", &details)
}

/// RFC 6749, section 5.2.
fn refused(status: u16, error: &str) -> Reply {
    Reply::json(status, &json!({ "error": error, "error_description": "a description that quotes what was sent" }))
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
