//! kryoptic as a PKCS#11 module, for the tests.
//!
//! Everything is kryoptic's but the number of sessions, until a test puts a file `trouble-SLOT` beside the configuration that `KRYOPTIC_CONF`
//! names. What it says is then done to that slot's token:
//!
//! - `C_Name 0x…`: the function answers that value. The functions are those patched below.
//! - `removed`: the token is in no slot, and its sessions say so.
//! - `draws`: as hardware that draws the nonces of AES-GCM: it takes none but zeros, and writes its own in their place.
//! - `zeros`: as a broken token: it takes none but zeros, and uses them.
//!
//! A FIFO in the file's place makes every such call wait until somebody has opened it for writing; but not the question
//! what token is in a slot, which is asked of the other tests' tokens too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use kryoptic_lib::fns::general::fn_get_function_list;
use kryoptic_lib::pkcs11::*;

/// kryoptic's own functions.
static THEIRS: LazyLock<CK_FUNCTION_LIST> = LazyLock::new(|| {
    let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
    fn_get_function_list(&mut list);
    // SAFETY: it is a list that lives as long as the library.
    unsafe { *list }
});

static OURS: LazyLock<CK_FUNCTION_LIST> = LazyLock::new(|| CK_FUNCTION_LIST {
    C_GetFunctionList: Some(C_GetFunctionList),
    C_GetTokenInfo: Some(get_token_info),
    C_OpenSession: Some(open_session),
    C_CloseSession: Some(close_session),
    C_Login: Some(login),
    C_EncryptInit: Some(encrypt_init),
    C_DecryptInit: Some(decrypt_init),
    C_Decrypt: Some(decrypt),
    C_GenerateRandom: Some(generate_random),
    ..*THEIRS
});

/// What every module exports.
///
/// # Safety
/// `list` is a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: the caller's promise.
    unsafe { *list = (&raw const *OURS).cast_mut() };
    CKR_OK
}

fn file(slot: CK_SLOT_ID) -> PathBuf {
    Path::new(&std::env::var_os("KRYOPTIC_CONF").unwrap_or_default()).with_file_name(format!("trouble-{slot}"))
}

/// What the token of a slot is told to do.
fn trouble(slot: CK_SLOT_ID) -> String {
    fs::read_to_string(file(slot)).unwrap_or_default().trim().to_owned()
}

/// The value that `name` is to answer without being called.
fn answer(slot: CK_SLOT_ID, name: &str, removed: CK_RV) -> Option<CK_RV> {
    let told = trouble(slot);
    if told == "removed" {
        return Some(removed);
    }
    let value = told.strip_prefix(name)?.trim().strip_prefix("0x")?;
    CK_RV::from_str_radix(value, 16).ok()
}

fn slot_of(session: CK_SESSION_HANDLE) -> CK_SLOT_ID {
    // SAFETY: four integers, for which zeros are as good as anything.
    let mut about: CK_SESSION_INFO = unsafe { std::mem::zeroed() };
    // SAFETY: a place for an answer.
    unsafe { THEIRS.C_GetSessionInfo.unwrap()(session, &mut about) };
    about.slotID
}

/// A function that is kryoptic's unless the test says otherwise.
macro_rules! patched {
    ($name:ident = $theirs:ident, $first:ident: $kind:ty, $slot:expr, $removed:ident, ($($arg:ident: $type:ty),*)) => {
        unsafe extern "C" fn $name($first: $kind $(, $arg: $type)*) -> CK_RV {
            match answer($slot($first), stringify!($theirs), $removed) {
                Some(value) => value,
                // SAFETY: what the caller promised for the same function.
                None => unsafe { THEIRS.$theirs.unwrap()($first $(, $arg)*) },
            }
        }
    };
}

patched!(login = C_Login, session: CK_SESSION_HANDLE, slot_of, CKR_DEVICE_REMOVED,
    (user: CK_USER_TYPE, pin: CK_UTF8CHAR_PTR, length: CK_ULONG));
patched!(decrypt_init = C_DecryptInit, session: CK_SESSION_HANDLE, slot_of, CKR_DEVICE_REMOVED,
    (mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE));
patched!(decrypt = C_Decrypt, session: CK_SESSION_HANDLE, slot_of, CKR_DEVICE_REMOVED,
    (sealed: CK_BYTE_PTR, length: CK_ULONG, plain: CK_BYTE_PTR, room: CK_ULONG_PTR));
patched!(generate_random = C_GenerateRandom, session: CK_SESSION_HANDLE, slot_of, CKR_DEVICE_REMOVED,
    (place: CK_BYTE_PTR, length: CK_ULONG));

unsafe extern "C" fn get_token_info(slot: CK_SLOT_ID, about: CK_TOKEN_INFO_PTR) -> CK_RV {
    if file(slot).is_file() && trouble(slot) == "removed" {
        return CKR_TOKEN_NOT_PRESENT;
    }
    // SAFETY: what the caller promised for the same function.
    let answer = unsafe { THEIRS.C_GetTokenInfo.unwrap()(slot, about) };
    if answer == CKR_OK {
        // SAFETY: it was filled in.
        unsafe { (*about).ulSessionCount = sessions().get(&slot).copied().unwrap_or(0) };
    }
    answer
}

unsafe extern "C" fn open_session(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: CK_VOID_PTR,
    notify: CK_NOTIFY,
    session: CK_SESSION_HANDLE_PTR,
) -> CK_RV {
    if let Some(value) = answer(slot, "C_OpenSession", CKR_TOKEN_NOT_PRESENT) {
        return value;
    }
    // SAFETY: what the caller promised for the same function.
    let answer = unsafe { THEIRS.C_OpenSession.unwrap()(slot, flags, application, notify, session) };
    if answer == CKR_OK {
        *sessions().entry(slot).or_default() += 1;
    }
    answer
}

unsafe extern "C" fn close_session(session: CK_SESSION_HANDLE) -> CK_RV {
    let slot = slot_of(session);
    // SAFETY: what the caller promised for the same function.
    let answer = unsafe { THEIRS.C_CloseSession.unwrap()(session) };
    if answer == CKR_OK {
        *sessions().entry(slot).or_default() -= 1;
    }
    answer
}

/// How many are open, which kryoptic does not say.
fn sessions() -> MutexGuard<'static, BTreeMap<CK_SLOT_ID, CK_ULONG>> {
    static OPEN: Mutex<BTreeMap<CK_SLOT_ID, CK_ULONG>> = Mutex::new(BTreeMap::new());
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let slot = slot_of(session);
    if let Some(value) = answer(slot, "C_EncryptInit", CKR_DEVICE_REMOVED) {
        return value;
    }
    let told = trouble(slot);
    if told == "draws" || told == "zeros" {
        // SAFETY: the tests call it with AES-GCM and its parameters alone.
        let nonce = unsafe {
            let parameters = &*(*mechanism).pParameter.cast::<CK_GCM_PARAMS>();
            std::slice::from_raw_parts_mut(parameters.pIv, parameters.ulIvLen as usize)
        };
        if nonce.iter().any(|byte| *byte != 0) {
            return CKR_MECHANISM_PARAM_INVALID;
        }
        if told == "draws" {
            // SAFETY: a place for as many bytes.
            unsafe { THEIRS.C_GenerateRandom.unwrap()(session, nonce.as_mut_ptr(), nonce.len() as CK_ULONG) };
        }
    }
    // SAFETY: what the caller promised for the same function.
    unsafe { THEIRS.C_EncryptInit.unwrap()(session, mechanism, key) }
}
