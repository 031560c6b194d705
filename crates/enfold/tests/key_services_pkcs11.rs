//! The conformance suite over two PKCS#11 tokens, SoftHSM's and kryoptic's, and what belongs to tokens alone.
//!
//! Both are tokens in software. What neither does by itself (a limit of sessions, a token that hangs or is taken out, one
//! that draws nonces) kryoptic's module is told to do: see `tests/pkcs11-token`.
#![cfg(feature = "pkcs11")]

mod conformance_table;
mod key_service;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cryptoki::object::Attribute;
use enfold::Code;
use enfold::kms::conformance::{self, Arranged, Case, Change, Fixture, NO_ABILITY, Outcome, Trouble};
use enfold::kms::{
    KeyManagementService, KeyManagementServiceExt, Pkcs11Kms, Pkcs11Options, Registry, WrapRequest, WrappedKey,
};
use enfold::policy::Environment;
use enfold_testkit::pkcs11::{Held, PIN, Token};
use futures_util::future::join_all;
use key_service::{context, material};

fn open_with(uri: &str, options: &Pkcs11Options) -> Arc<dyn KeyManagementService> {
    Arc::new(Pkcs11Kms::open(&uri.parse().unwrap(), options).unwrap())
}

fn open(uri: &str) -> Arc<dyn KeyManagementService> {
    open_with(uri, &Pkcs11Options::default())
}

/// A token with a key, `root`.
fn with_key(token: Token) -> Token {
    token.key("root");
    token
}

async fn refused(kms: &dyn KeyManagementService) -> enfold::Error {
    kms.wrap_one(&material(), &context()).await.unwrap_err()
}

async fn works(kms: &dyn KeyManagementService) {
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    let opened = kms.unwrap_one(&wrapped, &context()).await;
    assert_eq!(opened.ok().unwrap().expose(), material().expose());
}

struct OnToken {
    name: &'static str,
    make: fn() -> Token,
    tokens: Mutex<Vec<(String, Token)>>,
    held: Mutex<Vec<Held>>,
}

impl OnToken {
    fn new(name: &'static str, make: fn() -> Token) -> Self {
        Self { name, make, tokens: Mutex::default(), held: Mutex::default() }
    }
}

const NO_VERSIONS: &str = "PKCS#11 has no versions of a key";
const NO_EXPIRY: &str = "a PIN of SoftHSM does not expire";
const NO_DISABLING: &str = "PKCS#11 does not disable keys";
const NO_PENDING: &str = "an object is destroyed at once";
const NO_LIMIT: &str = "SoftHSM opens as many sessions as are wanted";
const NO_WAITING: &str = "SoftHSM runs in the process and answers at once";

#[async_trait]
impl Fixture for OnToken {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    async fn key(&self) -> Arc<dyn KeyManagementService> {
        let token = with_key((self.make)());
        let uri = token.uri("root");
        self.tokens.lock().unwrap().push((token.name_of("root"), token));
        open(&uri)
    }

    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged {
        let tokens = self.tokens.lock().unwrap();
        let (_, token) = tokens.iter().find(|(name, _)| name == kms.uri().as_str()).unwrap();
        let can = self.name != "SoftHSM";
        match trouble {
            Trouble::Disabled => Arranged::Impossible(NO_DISABLING),
            Trouble::PendingDeletion => Arranged::Impossible(NO_PENDING),
            Trouble::Deleted => {
                token.destroy("root");
                Arranged::Done(kms.clone())
            }
            Trouble::Denied => {
                token.write_pin("another-pin-than-that");
                token.sign_out();
                Arranged::Done(kms.clone())
            }
            Trouble::CredentialExpired if can => {
                token.trouble("C_Login 0xA3");
                token.sign_out();
                Arranged::Done(kms.clone())
            }
            Trouble::CredentialExpired => Arranged::Impossible(NO_EXPIRY),
            Trouble::Throttled if can => {
                token.trouble("C_OpenSession 0xB1");
                Arranged::Done(open(&token.uri("root")))
            }
            Trouble::Throttled => Arranged::Impossible(NO_LIMIT),
            Trouble::TimedOut if can => {
                self.held.lock().unwrap().push(token.hold());
                let options = Pkcs11Options { answer_within: Duration::from_millis(100), ..Pkcs11Options::default() };
                Arranged::Done(open_with(&token.uri("root"), &options))
            }
            Trouble::TimedOut => Arranged::Impossible(NO_WAITING),
        }
    }

    async fn versions(&self, _: &Arc<dyn KeyManagementService>, _: Change) -> Arranged {
        Arranged::Impossible(NO_VERSIONS)
    }
}

#[tokio::test]
async fn on_softhsm_every_case_passes_that_it_can_be_brought_into() {
    let report = conformance::run(&OnToken::new("SoftHSM", Token::softhsm)).await;
    println!("{report}");
    let exceptions = [
        (Case::Rotated, Outcome::NotRun(NO_VERSIONS)),
        (Case::OldVersion, Outcome::NotRun(NO_VERSIONS)),
        (Case::RetiredVersion, Outcome::NotRun(NO_VERSIONS)),
        (Case::Disabled, Outcome::NotRun(NO_DISABLING)),
        (Case::PendingDeletion, Outcome::NotRun(NO_PENDING)),
        (Case::CredentialExpired, Outcome::NotRun(NO_EXPIRY)),
        (Case::Throttled, Outcome::NotRun(NO_LIMIT)),
        (Case::TimedOut, Outcome::NotRun(NO_WAITING)),
        (Case::DisabledAndEnabled, Outcome::NotRun(NO_ABILITY)),
        (Case::DeletionCancelled, Outcome::NotRun(NO_ABILITY)),
        (Case::RotatedByUs, Outcome::NotRun(NO_ABILITY)),
        (Case::RotatedByItself, Outcome::NotRun(NO_ABILITY)),
    ];
    assert_eq!(report.exceptions(), exceptions);
    conformance_table::must_be_documented("SoftHSM", &report);
}

#[tokio::test]
async fn on_kryoptic_every_case_passes_that_it_can_be_brought_into() {
    let report = conformance::run(&OnToken::new("kryoptic", Token::kryoptic)).await;
    println!("{report}");
    let exceptions = [
        (Case::Rotated, Outcome::NotRun(NO_VERSIONS)),
        (Case::OldVersion, Outcome::NotRun(NO_VERSIONS)),
        (Case::RetiredVersion, Outcome::NotRun(NO_VERSIONS)),
        (Case::Disabled, Outcome::NotRun(NO_DISABLING)),
        (Case::PendingDeletion, Outcome::NotRun(NO_PENDING)),
        (Case::DisabledAndEnabled, Outcome::NotRun(NO_ABILITY)),
        (Case::DeletionCancelled, Outcome::NotRun(NO_ABILITY)),
        (Case::RotatedByUs, Outcome::NotRun(NO_ABILITY)),
        (Case::RotatedByItself, Outcome::NotRun(NO_ABILITY)),
    ];
    assert_eq!(report.exceptions(), exceptions);
    conformance_table::must_be_documented("kryoptic", &report);
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once_by_the_whole_process_and_the_right_one_is_taken_up() {
    let token = with_key(Token::kryoptic());
    token.write_pin("hunter2-hunter2");
    // As many providers as would lock the token, and each with a crowd of calls.
    let providers: Vec<_> = (0..12).map(|_| open(&token.uri("root"))).collect();
    for kms in &providers {
        let errors = join_all((0..8).map(|_| refused(&**kms))).await;
        for error in errors {
            assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
            let all = format!("{error:?} {:?}", error.hints().collect::<Vec<_>>());
            assert!(all.contains("does not take the PIN") && !all.contains("hunter2"), "{all}");
        }
    }
    assert_eq!(token.pin_state(), (false, false), "ten wrong ones would have locked it");
    token.write_pin(PIN);
    for kms in &providers {
        works(&**kms).await;
    }
}

#[tokio::test]
async fn the_last_try_before_a_token_locks_is_left_to_people() {
    let token = with_key(Token::kryoptic());
    let tries = (1..20).find(|_| {
        token.try_wrong_pin();
        token.pin_state().0
    });
    assert!(tries.is_some(), "the token never said that one try is left");
    let kms = open(&token.uri("root"));
    let error = refused(&*kms).await;
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.to_string().contains("one more wrong PIN would lock the token"), "{error}");
    assert_eq!(token.pin_state(), (true, false), "not even the right one was tried");

    token.try_wrong_pin();
    assert_eq!(token.pin_state(), (false, true));
    let error = refused(&*kms).await;
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.to_string().contains("has locked the user's PIN"), "{error}");
    token.reset_pin();
    works(&*kms).await;
}

#[tokio::test]
async fn a_pin_comes_from_a_file_that_only_its_owner_may_read_or_from_a_variable() {
    let token = with_key(Token::softhsm());
    let kms = open(&token.uri("root"));
    let mode = |mode| std::fs::set_permissions(token.pin_file(), std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o640).unwrap();
    assert_eq!(refused(&*kms).await.code(), Code::KeyFilePermissions);
    std::fs::remove_file(token.pin_file()).unwrap();
    assert_eq!(refused(&*kms).await.code(), Code::FileFailed);
    token.write_pin(PIN);
    works(&*kms).await;

    let without = token.uri("root").split_once("&pin-source").unwrap().0.to_owned();
    for (uri, variable) in [(without.clone(), "PKCS11_PIN"), (format!("{without}&pin-source=env:NO_PIN"), "NO_PIN")] {
        token.sign_out();
        let error = refused(&*open(&uri)).await;
        assert_eq!(error.code(), Code::KmsAccessDenied);
        assert!(error.to_string().contains(&format!("`{variable}` is not set")), "{error}");
        works(&*kms).await;
    }

    let folder = token.pin_file().parent().unwrap().to_owned();
    let name = token.pin_file().file_name().unwrap().to_str().unwrap().to_owned();
    let relative = open_with(
        &format!("{without}&pin-source=file:{name}"),
        &Pkcs11Options { base: folder, ..Pkcs11Options::default() },
    );
    token.sign_out();
    works(&*relative).await;
}

#[tokio::test]
async fn a_process_that_somebody_signed_out_signs_in_again() {
    for token in [Token::softhsm(), Token::kryoptic()] {
        let token = with_key(token);
        let kms = open(&token.uri("root"));
        works(&*kms).await;
        token.sign_out();
        works(&*kms).await;
    }
}

#[tokio::test]
async fn a_token_that_was_taken_out_is_unavailable_until_it_is_back() {
    let token = with_key(Token::kryoptic());
    let kms = open(&token.uri("root"));
    works(&*kms).await;
    token.trouble("removed");
    for _ in 0..3 {
        let error = refused(&*kms).await;
        assert_eq!(error.code(), Code::KmsUnavailable, "{error}");
        assert!(error.to_string().contains("is in no slot"), "{error}");
    }
    assert_eq!(kms.describer().unwrap().describe().await.unwrap_err().code(), Code::KmsUnavailable);
    token.well_again();
    works(&*kms).await;
}

#[tokio::test]
async fn a_token_that_fails_is_not_taken_for_a_wrap_that_was_changed() {
    let token = with_key(Token::kryoptic());
    let kms = open(&token.uri("root"));
    let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
    for general_error in ["C_Decrypt 0x5", "C_DecryptInit 0x5"] {
        token.trouble(general_error);
        let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
        assert_eq!(error.code(), Code::KmsUnavailable, "{error}");
        assert!(error.to_string().contains("`CKR_GENERAL_ERROR`"), "{error}");
        token.well_again();
        assert!(kms.unwrap_one(&wrapped, &context()).await.is_ok());
    }
}

#[tokio::test]
async fn a_token_that_hangs_blocks_nobody_and_takes_no_more_than_its_sessions() {
    let token = with_key(Token::kryoptic());
    let sessions = NonZeroUsize::new(2).unwrap();
    let patient = Pkcs11Options { sessions, answer_within: Duration::from_secs(30), ..Pkcs11Options::default() };
    let hasty = Pkcs11Options { answer_within: Duration::from_millis(50), ..patient.clone() };
    let kms = open_with(&token.uri("root"), &patient);
    join_all((0..40).map(|_| works(&*kms))).await;
    assert!((1..=2).contains(&token.sessions().unwrap()), "{:?}", token.sessions());

    let hanging = open_with(&token.uri("root"), &hasty);
    let held = token.hold();
    // The runtime of this test has one thread: it is free, or the deadline would not be noticed.
    for error in join_all((0..10).map(|_| refused(&*hanging))).await {
        assert_eq!(error.code(), Code::KmsUnavailable, "{error}");
    }
    drop(held);
    works(&*kms).await;
    assert!(token.sessions().unwrap() <= 4, "two for each root key: {:?}", token.sessions());
}

#[tokio::test]
async fn a_token_that_draws_nonces_itself_may() {
    let token = with_key(Token::kryoptic());
    let kms = open(&token.uri("root"));
    let before = kms.wrap_one(&material(), &context()).await.unwrap();
    token.trouble("draws");
    works(&*kms).await;
    let (one, two) =
        (kms.wrap_one(&material(), &context()).await.unwrap(), kms.wrap_one(&material(), &context()).await.unwrap());
    assert_ne!(nonce(&one), nonce(&two));
    assert_ne!(nonce(&one), [0; 12]);
    assert!(kms.generate_one(&context()).await.is_ok());
    token.well_again();
    for wrapped in [&before, &one, &two] {
        assert!(kms.unwrap_one(wrapped, &context()).await.is_ok());
    }
    works(&*kms).await;
}

#[tokio::test]
async fn a_token_that_seals_under_a_nonce_of_zeros_is_not_used() {
    let token = with_key(Token::kryoptic());
    token.trouble("zeros");
    let error = refused(&*open(&token.uri("root"))).await;
    assert_eq!(error.code(), Code::KmsProtocol, "{error}");
    assert!(error.to_string().contains("drew none itself"), "{error}");
}

/// Behind the header of five bytes.
fn nonce(wrapped: &WrappedKey) -> [u8; 12] {
    wrapped.as_bytes()[5..17].try_into().unwrap()
}

#[tokio::test]
async fn what_else_was_encrypted_under_the_same_key_is_no_wrap() {
    for token in [Token::softhsm(), Token::kryoptic()] {
        let token = with_key(token);
        let kms = open(&token.uri("root"));
        let header = kms.wrap_one(&material(), &context()).await.unwrap().as_bytes()[..5].to_vec();
        for associated in [&[][..], &context().canonical(), &[&header[..], &context().canonical()].concat()] {
            let sealed = token.encrypt("root", [9; 12], associated, material().expose());
            let forged = WrappedKey::new([&header[..], &[9; 12], &sealed].concat()).unwrap();
            let error = kms.unwrap_one(&forged, &context()).await.err().unwrap();
            assert_eq!(error.code(), Code::WrapInvalid, "{error}");
        }
    }
}

#[tokio::test]
async fn a_key_without_a_right_is_refused_and_told_which() {
    for token in [Token::softhsm(), Token::kryoptic()] {
        token.key_with("root", &[Attribute::Decrypt(false)]);
        let kms = open(&token.uri("root"));
        let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
        let error = kms.unwrap_one(&wrapped, &context()).await.err().unwrap();
        assert_eq!(error.code(), Code::KmsAccessDenied, "{error}");
        assert!(error.hints().any(|h| h.contains("`CKA_DECRYPT` to unwrap")), "{error}");
        assert!(!kms.describer().unwrap().describe().await.unwrap().usable);
        token.set("root", Attribute::Decrypt(true));
        assert!(kms.unwrap_one(&wrapped, &context()).await.is_ok());
    }
}

#[tokio::test]
async fn a_description_names_the_key_and_warns_of_one_that_may_leave_its_token() {
    for (token, manager) in
        [(Token::softhsm(), "SoftHSM project (SoftHSM v2)"), (Token::kryoptic(), "Kryoptic Project (v1)")]
    {
        let token = with_key(token);
        let about = open(&token.uri("root")).describer().unwrap().describe().await.unwrap();
        assert_eq!((about.manager.as_str(), &about.warnings[..]), (manager, &[][..]));
        let id = "%72%6F%6F%74";
        let (name, serial) = (token.name_of("root"), token.serial());
        let found = format!("{};id={id}", name.replace(";object", &format!(";serial={serial};object")));
        assert_eq!(about.resolved, found);
        works(&*open(&format!("{found}?{}", token.uri("root").split_once('?').unwrap().1))).await;

        token.key_with("loose", &[Attribute::Extractable(true)]);
        token.key_with("open", &[Attribute::Extractable(true), Attribute::Sensitive(false)]);
        token.key_with("tamed", &[Attribute::Extractable(true)]);
        token.set("tamed", Attribute::Extractable(false));
        for (key, words) in [
            ("loose", &["can be taken out"][..]),
            ("open", &["shows the root key in the clear", "can be taken out"]),
            ("tamed", &["could be taken out of it once"]),
        ] {
            let about = open(&token.uri(key)).describer().unwrap().describe().await.unwrap();
            assert!(about.usable);
            assert_eq!(about.warnings.len(), words.len(), "{key}: {:?}", about.warnings);
            assert!(about.warnings.iter().zip(words).all(|(said, word)| said.contains(word)), "{:?}", about.warnings);
        }
    }
}

#[tokio::test]
async fn what_does_not_name_one_fitting_key_is_refused() {
    let token = with_key(Token::softhsm());
    let refusal = |uri: String| async move { refused(&*open(&uri)).await };
    token.key_with("root", &[Attribute::Id(vec![9])]);
    let error = refusal(token.uri("root")).await;
    assert_eq!(error.code(), Code::KmsUriInvalid, "two keys of that label: {error}");
    works(&*open(&token.uri("root;id=%09"))).await;

    token.key_with("short", &[Attribute::ValueLen(16.into())]);
    let error = refusal(token.uri("short")).await;
    assert_eq!(error.code(), Code::KmsUriInvalid, "128 bits: {error}");
    assert_eq!(refusal(token.uri("missing")).await.code(), Code::KmsKeyNotFound);

    let elsewhere = token.uri("root").replace("token=orders", "token=nowhere");
    assert_eq!(refusal(elsewhere).await.code(), Code::KmsUnavailable);
    let module = token.module().to_str().unwrap();
    let error = refusal(token.uri("root").replace(module, "/nowhere/module.so")).await;
    assert_eq!(error.code(), Code::FileFailed, "{error}");
    let error = refusal(token.uri("root").replace(module, "/etc/hostname")).await;
    assert_eq!(error.code(), Code::FileFailed, "not a module: {error}");
    let error = Pkcs11Kms::open(&token.name_of("root").parse().unwrap(), &Pkcs11Options::default()).err().unwrap();
    assert_eq!(error.code(), Code::KmsUriInvalid);
}

#[tokio::test]
async fn a_token_without_aes_gcm_is_refused() {
    let token = with_key(Token::kryoptic_without_gcm());
    let error = refused(&*open(&token.uri("root"))).await;
    assert_eq!(error.code(), Code::KmsUriInvalid);
    assert!(error.to_string().contains("has no AES-GCM"), "{error}");
}

#[tokio::test]
async fn an_item_of_a_batch_fails_alone_when_another_root_wrapped_it() {
    let token = with_key(Token::softhsm());
    let kms = open(&token.uri("root"));
    let (key, context) = (material(), context());
    let request = WrapRequest { key: &key, context: &context };
    assert!(kms.wrap(&[request; 100]).await.iter().all(Result::is_ok));
    let foreign = WrappedKey::new(b"vault:v1:AAAA".to_vec()).unwrap();
    assert_eq!(kms.unwrap_one(&foreign, &context).await.err().unwrap().code(), Code::WrapInvalid);
}

#[tokio::test]
async fn a_policy_opens_a_token_and_reaches_a_key_in_one_way() {
    let token = with_key(Token::softhsm());
    let registry = |uris: &[String]| {
        let mut builder = Registry::builder(Environment::Production, Path::new("/"));
        for uri in uris {
            builder = builder.root(uri.parse().unwrap(), false);
        }
        builder.build()
    };
    let uri = token.uri("root");
    let one = registry(&[uri.clone(), uri.clone()]).await.unwrap();
    let kms = one.get(&token.name_of("root").parse().unwrap()).unwrap();
    works(&**kms).await;
    assert_eq!(kms.uri().to_string(), token.name_of("root"), "how it is reached is not stored");
    let other = format!("{}&pin-source=env:OTHER", uri.split_once("&pin-source").unwrap().0);
    let error = registry(&[uri, other]).await.err().unwrap();
    assert_eq!(error.code(), Code::KmsUriInvalid, "{error}");
    assert!(error.to_string().contains("reached in two ways"), "{error}");
}
