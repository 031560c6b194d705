//! A build with the feature `fips` runs on the validated module: it says so itself, and counts what it did that is an
//! approved service (its security policy's "service indicator").
#![cfg(feature = "fips")]

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use enfold_core::index::{BlindIndex, IndexSpec};
use enfold_core::mac::RowMac;
use enfold_core::wrap::{KeyWrap, WrapContext};
use enfold_core::{Binding, DataKey, Envelope, KeyId, OpenItem, Opener, Padding, Part, PayloadType, SealItem, Sealer};

const VALUES: usize = 10;

/// What came of `call`, and how many approved services this thread used in it.
fn approved<T>(call: impl FnOnce() -> T) -> (T, u64) {
    #[allow(unsafe_code, reason = "reads this thread's counter; takes and changes nothing")]
    let (before, after) = (
        || unsafe { aws_lc_fips_sys::FIPS_service_indicator_before_call() },
        || unsafe { aws_lc_fips_sys::FIPS_service_indicator_after_call() },
    );
    let counted = before();
    let result = call();
    (result, after() - counted)
}

#[test]
fn the_module_says_that_it_is_in_fips_mode_and_passes_its_self_test() {
    assert_eq!(aws_lc_rs::try_fips_mode(), Ok(()));
    assert!(aws_lc_rs::try_fips_self_test().is_ok());
    let (version, page) = (aws_lc_rs::awslc_version(), include_str!("../../../docs/concepts/fips.md"));
    assert!(page.contains(&format!("AWS-LC-FIPS {version}")), "docs/concepts/fips.md names another version: {version}");
}

#[test]
fn a_nonce_that_is_given_is_no_approved_service() {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
    let seal = || key.seal_in_place_separate_tag(Nonce::assume_unique_for_key([2; 12]), Aad::empty(), &mut [0; 8]);
    let (sealed, count) = approved(seal);
    assert!(sealed.is_ok());
    assert_eq!(count, 0, "then `cipher.rs` need not let the module draw the nonce");
}

#[test]
fn every_value_is_sealed_and_opened_by_approved_services() {
    let (key, id, binding) = (DataKey::generate().unwrap(), KeyId::random().unwrap(), Binding::new("ring", "column"));
    let sealer = Sealer::new(&key, id).unwrap();
    let item =
        SealItem { binding: &binding, payload: PayloadType::Bytes, padding: Padding::None, plaintext: b"ann@example" };
    let (_, first) = approved(|| sealer.seal_many(&[item]));
    assert!(first > 1, "the first value derives the subkey, by an approved service as well");

    let (sealed, count) = approved(|| sealer.seal_many(&[item; VALUES]));
    assert_eq!(count, VALUES as u64, "one for each value");
    let sealed: Vec<Vec<u8>> = sealed.into_iter().map(Result::unwrap).collect();

    let opener = Opener::new(&key, id);
    let envelopes: Vec<_> = sealed.iter().map(|bytes| Envelope::parse(bytes).unwrap()).collect();
    // The first one derives the subkey.
    opener.open(&envelopes[0], &binding).unwrap();
    let items: Vec<_> = envelopes.iter().map(|envelope| OpenItem { envelope: *envelope, binding: &binding }).collect();
    let (opened, count) = approved(|| opener.open_many(&items));
    assert_eq!(count, VALUES as u64, "one for each value");
    assert!(opened.into_iter().all(|value| &value.unwrap().plaintext[..] == b"ann@example"));
}

#[test]
fn whatever_else_enfold_asks_of_the_library_is_an_approved_service() {
    let (key, id) = (DataKey::generate().unwrap(), KeyId::random().unwrap());
    let is = |what: &str, count: u64| assert!(count > 0, "{what} is none");

    let mac = RowMac::new(&key, id).unwrap();
    is("the tag of a row", approved(|| mac.tag(&[Part::Int(1)])).1);
    let spec = IndexSpec {
        ring_id: "ring".to_owned(),
        column_ids: vec!["column".to_owned()],
        name: "index".to_owned(),
        normalise: vec![],
        bits: 256,
        unique: true,
        cross_tenant: true,
        generation: 1,
    };
    let index = BlindIndex::new(&key, id, spec).unwrap();
    is("a blind index", approved(|| index.compute(None, &["ann@example"]).unwrap()).1);
    let (wrapper, context) = (KeyWrap::new(&key, id), WrapContext::of(&[Part::Int(1)]));
    is("a data key under another", approved(|| wrapper.wrap(&DataKey::generate().unwrap(), &context).unwrap()).1);
    is("a digest", approved(|| digest(&SHA256, b"x")).1);

    // Ring states.
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let operators = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let (signature, count) = approved(|| operators.sign(b"state"));
    is("an operators' signature", count);
    let public = UnparsedPublicKey::new(&ED25519, operators.public_key().as_ref());
    is("its check", approved(|| public.verify(b"state", signature.as_ref()).unwrap()).1);

    // Assertions to Google and to Azure.
    let account = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    for scheme in [&RSA_PKCS1_SHA256, &RSA_PSS_SHA256] {
        let mut signature = vec![0; account.public_modulus_len()];
        let sign = || account.sign(scheme, &SystemRandom::new(), b"assertion", &mut signature).unwrap();
        is("a signed assertion", approved(sign).1);
    }
}
