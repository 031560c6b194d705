//! A session that has signed in and found its key, and what is done when it is lost.
//!
//! A session ends when its token is taken out, when a network HSM restarts, or when somebody else in the process ends
//! the module; the sign-in ends with it, and handles of keys too. So whatever fails in a way that another session may
//! put right is tried once more on a new one, which looks for the token, signs in and looks for the key again.

use std::cell::Cell;
use std::sync::Arc;

use cryptoki::error::Error as TokenError;
use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};

use super::Target;
use super::answer::{self, Fault};
use super::module::Module;
use crate::error::{Code, Error, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::material::KeyMaterial;

/// A session and the key that it was opened for.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) key: ObjectHandle,
    pub(super) slot: Slot,
    pub(super) module: Arc<Module>,
    /// The token has refused a nonce of ours, and draws its own.
    pub(super) draws_nonces: Cell<bool>,
}

/// Does `work` on the session that is there, and once more on a new one if the first may have been at fault.
pub(super) fn with_session<T>(
    target: &Target,
    operation: Operation,
    held: &mut Option<Open>,
    work: impl Fn(&Open) -> std::result::Result<T, Fault>,
) -> Result<T> {
    if let Some(open) = held.as_ref() {
        match work(open) {
            Err(fault) if !answer::is_final(&fault) => *held = None,
            done => return done.map_err(|fault| answer::fault(operation, &target.uri, &fault)),
        }
    }
    let done = work(held.insert(Open::new(target, operation)?));
    if matches!(&done, Err(fault) if !answer::is_final(fault)) {
        *held = None;
    }
    done.map_err(|fault| answer::fault(operation, &target.uri, &fault))
}

impl Open {
    fn new(target: &Target, operation: Operation) -> Result<Self> {
        let failed = |error: TokenError| answer::refused(operation, &target.uri, &error);
        let module = Module::load(&target.module)?;
        module.begin().map_err(failed)?;
        let slot = find_slot(target, operation, &module)?;
        if !has_gcm(&module, slot) {
            return Err(failure::failed(Code::KmsUriInvalid, operation, &target.uri)
                .cause("the token has no AES-GCM, and nothing else that it has binds a wrap to its context")
                .hint("use a token with the mechanism `CKM_AES_GCM`; `pkcs11-tool --list-mechanisms` lists them"));
        }
        let session = module.functions().open_ro_session(slot).map_err(failed)?;
        module.sign_in(operation, target, slot, &session)?;
        let key = find_key(target, operation, &session)?;
        Ok(Self { session, key, slot, module, draws_nonces: Cell::new(false) })
    }
}

fn find_slot(target: &Target, operation: Operation, module: &Module) -> Result<Slot> {
    let failed = |error: TokenError| answer::refused(operation, &target.uri, &error);
    let slots = module.functions().get_slots_with_token().map_err(failed)?;
    // A slot whose token cannot be asked is not the one that is looked for, or cannot be used now.
    let fits =
        |slot: &Slot| module.functions().get_token_info(*slot).is_ok_and(|token| is_meant(target, *slot, &token));
    match slots.into_iter().filter(fits).collect::<Vec<_>>()[..] {
        [slot] => Ok(slot),
        [] => Err(failure::failed(Code::KmsUnavailable, operation, &target.uri)
            .cause("the token is in no slot of the module")
            .hint("put it in or start it; `pkcs11-tool --list-token-slots` shows what is there, and how it is spelt")),
        [..] => Err(not_one_key(target, operation).cause("more than one token is called so").hint("add its `serial`")),
    }
}

fn is_meant(target: &Target, slot: Slot, token: &TokenInfo) -> bool {
    let found = [token.label(), token.manufacturer_id(), token.serial_number(), token.model()];
    let named = target.key.token().into_iter().zip(found);
    token.token_initialized()
        && target.key.slot().is_none_or(|wanted| wanted == slot.id())
        && named.into_iter().all(|(wanted, found)| wanted.is_none_or(|wanted| wanted == found))
}

fn has_gcm(module: &Module, slot: Slot) -> bool {
    let about = module.functions().get_mechanism_info(slot, MechanismType::AES_GCM);
    about.is_ok_and(|about| about.encrypt() && about.decrypt())
}

fn find_key(target: &Target, operation: Operation, session: &Session) -> Result<ObjectHandle> {
    let failed = |error: TokenError| answer::refused(operation, &target.uri, &error);
    let mut template = vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)];
    template.extend(target.key.object().map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template.extend(target.key.id().map(|id| Attribute::Id(id.to_vec())));
    let key = match session.find_objects(&template).map_err(failed)?[..] {
        [key] => key,
        [] => {
            return Err(failure::failed(Code::KmsKeyNotFound, operation, &target.uri)
                .cause("the token has no such secret key, or does not show it to this user")
                .hint("compare label and id with what `pkcs11-tool --login --list-objects` shows"));
        }
        [..] => {
            return Err(not_one_key(target, operation)
                .cause("more than one secret key is called so")
                .hint("add its `id`"));
        }
    };
    let mut is_aes = false;
    let mut bytes = 0;
    for attribute in session.get_attributes(key, &[AttributeType::KeyType, AttributeType::ValueLen]).map_err(failed)? {
        match attribute {
            Attribute::KeyType(kind) => is_aes = kind == KeyType::AES,
            Attribute::ValueLen(length) => bytes = usize::from(length),
            _ => {}
        }
    }
    if is_aes && bytes == KeyMaterial::LEN {
        return Ok(key);
    }
    Err(not_one_key(target, operation).cause("the key is not an AES key of 256 bits"))
}

/// The URI names something else than one key that can be used.
fn not_one_key(target: &Target, operation: Operation) -> Error {
    failure::failed(Code::KmsUriInvalid, operation, &target.uri)
}
