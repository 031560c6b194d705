//! Modules that this process has loaded, and signing in to their tokens.
//!
//! A module is a library in this process, so its state is the process's: it is loaded once, told to begin once, and
//! neither ended nor unloaded, because whoever else in the process uses it would be cut off. A sign-in is the process's
//! too. So one thread at a time signs in, and a PIN that a token refused is not tried again on that token before
//! another is there: a token locks itself after a few wrong ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::Target;
use super::answer;
use crate::error::{Code, Error, Result};
use crate::kms::failure::Operation;
use crate::kms::secret::SecretSource;

static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

pub(super) struct Module {
    functions: Pkcs11,
    /// PINs that were refused, by the serial number of the token. Locked while somebody signs in.
    refused: Mutex<BTreeMap<String, Zeroizing<String>>>,
}

impl Module {
    /// The module at `path`, loaded if it was not yet.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>> {
        let failed = || Error::new(Code::FileFailed, format!("cannot load the PKCS#11 module `{}`", path.display()));
        // Two names of one file are one module.
        let real = path.canonicalize().map_err(|e| {
            failed().cause(e.kind().to_string()).hint("correct `module-path` in the URI, or install the module")
        })?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(&real) {
            return Ok(Arc::clone(module));
        }
        let functions = Pkcs11::new(&real).map_err(|error| match error {
            // The text of the dynamic loader: names of files and symbols.
            TokenError::LibraryLoading(error) => failed().cause(error.to_string().escape_debug().to_string()),
            error => failed().cause(answer::named(&error)),
        })?;
        let module = Arc::new(Self { functions, refused: Mutex::default() });
        loaded.insert(real, Arc::clone(&module));
        Ok(module)
    }

    pub(super) fn functions(&self) -> &Pkcs11 {
        &self.functions
    }

    /// Tells the module to begin. It may have been told already, by us or by others; after a fork it has to be told anew.
    pub(super) fn begin(&self) -> std::result::Result<(), TokenError> {
        match self.functions.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Err(TokenError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
            done => done,
        }
    }

    /// Signs the process in to the token, where it is not.
    pub(super) fn sign_in(&self, operation: Operation, target: &Target, slot: Slot, session: &Session) -> Result<()> {
        let failed = |error: TokenError| answer::refused(operation, &target.uri, &error);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        // What it says of its PIN has to be new: whoever had the lock before may have tried one.
        let token = self.functions.get_token_info(slot).map_err(failed)?;
        let state = session.get_session_info().map_err(failed)?.session_state();
        if !token.login_required() || matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        let pin = target.pin.read().map_err(|error| without_pin(error, target))?;
        if refused.get(token.serial_number()).is_some_and(|before| *before == pin) {
            return Err(answer::pin_refused(operation, &target.uri)
                .cause("it was refused before, and is not tried again, lest the token locks itself"));
        }
        if token.user_pin_final_try() {
            return Err(answer::last_try(operation, &target.uri));
        }
        match session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into()))) {
            Ok(()) | Err(TokenError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                refused.remove(token.serial_number());
                tracing::debug!(target: crate::kms::LOG_TARGET, root = target.uri.as_str(), "signed in");
                Ok(())
            }
            Err(error) => {
                // A token that is locked can be asked as often as one likes, and says when it no longer is.
                if answer::is_a_wrong_pin(&error) {
                    refused.insert(token.serial_number().to_owned(), pin);
                }
                Err(failed(error))
            }
        }
    }
}

fn without_pin(error: Error, target: &Target) -> Error {
    let error = error.while_doing(format!("cannot sign in to the token of `{}`", target.uri));
    match target.pin {
        SecretSource::Variable(_) => {
            error.hint("or keep the PIN in a file: `pin-source=file:/etc/enfold/pin` in the URI")
        }
        SecretSource::File(_) | SecretSource::OwnersFile(_) => error,
    }
}
