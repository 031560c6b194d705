//! A secret key of a PKCS#11 token: an HSM, a smart card, a token in software.
//!
//! The root key does not leave the token: data keys go to it to be sealed and opened with AES-GCM, whose associated
//! data binds each to its encryption context (`seal.rs` has the form). A token without AES-GCM is refused: key wrap
//! (RFC 3394, RFC 5649) has no associated data.
//!
//! PKCS#11 has no versions of a key, so there is none to rotate to: another key is another root. Calls block, so they
//! are made by threads of their own with a session each (`workers.rs`, `open.rs`); `module.rs` has what belongs to the
//! whole process, which are the modules and the sign-in, and `answer.rs` what return values mean.

mod answer;
mod module;
mod open;
mod seal;
mod workers;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cryptoki::object::{Attribute, AttributeType};

use self::answer::Fault;
use self::open::Open;
use self::workers::{Unanswered, Workers};
use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::secret::SecretSource;
use super::service::{
    Abilities, DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey, KeyDescription, KeyManagementService,
    RootKeyState, UnwrapRequest, WrapRequest,
};
use super::several::in_order;
use super::uri::{KeyUri, PinSource, Pkcs11KeyUri, RootKey};
use crate::error::{Code, Error, Result};
use crate::policy::Pkcs11Policy;

/// The variable of the PIN, where the URI has no `pin-source`.
const PIN_VARIABLE: &str = "PKCS11_PIN";

/// See the module's head.
pub struct Pkcs11Kms {
    target: Arc<Target>,
    workers: Workers<Option<Open>>,
    answer_within: Duration,
}

/// How a token is called, besides what the URI says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Options {
    /// The folder at which a relative path of a PIN's file starts.
    pub base: PathBuf,
    /// Sessions with the token at most, each with a thread.
    pub sessions: NonZeroUsize,
    /// For a call with the wait for a session, and for a new session where it needs one.
    pub answer_within: Duration,
}

/// Which key it is, and how this process gets to it.
struct Target {
    uri: KeyUri,
    key: Pkcs11KeyUri,
    module: PathBuf,
    pin: SecretSource,
}

impl Default for Pkcs11Options {
    fn default() -> Self {
        let sessions = Pkcs11Policy::default().sessions;
        Self { base: PathBuf::new(), sessions, answer_within: Duration::from_secs(4) }
    }
}

impl Pkcs11Kms {
    /// Loads and calls nothing yet: whether there is a module, a token, a key and a PIN shows at the first call.
    pub fn open(uri: &KeyUri, options: &Pkcs11Options) -> Result<Self> {
        let RootKey::Pkcs11(key) = uri.root() else {
            return Err(Error::new(Code::KmsUriInvalid, format!("`{uri}` does not name a key of a PKCS#11 token")));
        };
        let module = key.module().ok_or_else(|| {
            Error::new(Code::KmsUriInvalid, format!("nothing says which module knows `{uri}`"))
                .hint("add its path to the URI: `?module-path=/usr/lib/softhsm/libsofthsm2.so`")
        })?;
        let pin = match key.pin() {
            Some(PinSource::File(path)) => SecretSource::OwnersFile(options.base.join(path)),
            Some(PinSource::Variable(name)) => SecretSource::Variable(name.clone()),
            None => SecretSource::Variable(PIN_VARIABLE.to_owned()),
        };
        let target = Target { uri: uri.clone(), key: key.clone(), module: Path::to_owned(module), pin };
        let workers = Workers::new(options.sessions);
        Ok(Self { target: Arc::new(target), workers, answer_within: options.answer_within })
    }

    /// Has a thread with a session do `work`; twice, if the first session was lost.
    async fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl Fn(&Open) -> std::result::Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let target = Arc::clone(&self.target);
        let done = self.workers.run(self.answer_within, move |held| open::with_session(&target, operation, held, work));
        match done.await {
            Ok(answer) => answer,
            Err(Unanswered::InTime) => Err(failure::timed_out(operation, &self.target.uri)),
            Err(Unanswered::WithoutThread) => Err(failure::failed(Code::Internal, operation, &self.target.uri)
                .cause("the system gives no thread to call the token with")),
        }
    }

    async fn wrap_one(&self, request: &WrapRequest<'_>) -> Result<WrappedKey> {
        // The thread may outlive the request, so it has a copy; wiped as every key is.
        let key = KeyMaterial::copy(request.key.expose());
        let associated = seal::associated(request.context);
        let wrapped = self.call(Operation::Wrap, move |open| seal::wrap(open, &key, &associated)).await?;
        WrappedKey::new(wrapped)
    }

    async fn unwrap_one(&self, request: &UnwrapRequest<'_>) -> Result<KeyMaterial> {
        let operation = Operation::Unwrap;
        // What anything else wrapped is refused without a call.
        if !seal::is_wrap(request.wrapped.as_bytes()) {
            return Err(failure::wrap_invalid(operation, &self.target.uri));
        }
        let (wrapped, associated) = (request.wrapped.clone(), seal::associated(request.context));
        self.call(operation, move |open| seal::unwrap(open, wrapped.as_bytes(), &associated)).await
    }

    async fn generate_one(&self, context: &EncryptionContext) -> Result<GeneratedKey> {
        let associated = seal::associated(context);
        let work = move |open: &Open| {
            let key = seal::draw(open)?;
            let wrapped = seal::wrap(open, &key, &associated)?;
            Ok((key, wrapped))
        };
        let (key, wrapped) = self.call(Operation::Generate, work).await?;
        Ok(GeneratedKey { key, wrapped: WrappedKey::new(wrapped)? })
    }
}

#[async_trait]
impl KeyManagementService for Pkcs11Kms {
    fn uri(&self) -> &KeyUri {
        &self.target.uri
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        in_order(requests, |r| Box::pin(self.wrap_one(r))).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        in_order(requests, |r| Box::pin(self.unwrap_one(r))).await
    }

    fn abilities(&self) -> Abilities<'_> {
        Abilities { generator: Some(self), describer: Some(self), ..Abilities::default() }
    }
}

#[async_trait]
impl GenerateDataKey for Pkcs11Kms {
    async fn generate(&self, requests: &[GenerateRequest<'_>]) -> Vec<Result<GeneratedKey>> {
        in_order(requests, |r| Box::pin(self.generate_one(r.context))).await
    }
}

#[async_trait]
impl DescribeKey for Pkcs11Kms {
    async fn describe(&self) -> Result<KeyDescription> {
        self.call(Operation::Describe, describe).await
    }
}

fn describe(open: &Open) -> std::result::Result<KeyDescription, Fault> {
    let token = open.module.functions().get_token_info(open.slot)?;
    let wanted = [
        AttributeType::Label,
        AttributeType::Id,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::Sensitive,
        AttributeType::AlwaysSensitive,
        AttributeType::Extractable,
        AttributeType::NeverExtractable,
        AttributeType::Local,
    ];
    let about = open.session.get_attributes(open.key, &wanted)?;
    // A token that does not say is not given the benefit of the doubt.
    let is = |attribute: Attribute| about.contains(&attribute);
    let found = about.iter().fold((None, None), |(label, id), attribute| match attribute {
        Attribute::Label(bytes) => (String::from_utf8(bytes.clone()).ok(), id),
        Attribute::Id(bytes) => (label, Some(bytes.clone())),
        _ => (label, id),
    });
    let mut warnings = Vec::new();
    if !is(Attribute::Sensitive(true)) {
        warnings.push("the token shows the root key in the clear (`CKA_SENSITIVE` is not set)".to_owned());
    }
    if !is(Attribute::Extractable(false)) {
        warnings.push("the root key can be taken out of the token (`CKA_EXTRACTABLE` is set)".to_owned());
    }
    let always_inside = [Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true), Attribute::Local(true)];
    if warnings.is_empty() && !always_inside.into_iter().all(is) {
        warnings.push("the root key was not made in the token, or could be taken out of it once".to_owned());
    }
    let resolved = Pkcs11KeyUri::found(token.label(), token.serial_number(), found).text();
    // A key that is there can be used: PKCS#11 has no way to disable one.
    let state = RootKeyState::Enabled;
    let manager = format!("{} ({})", token.manufacturer_id(), token.model()).escape_debug().to_string();
    let usable = is(Attribute::Encrypt(true)) && is(Attribute::Decrypt(true));
    Ok(KeyDescription { warnings, ..KeyDescription::new(resolved, state, manager, usable) })
}
