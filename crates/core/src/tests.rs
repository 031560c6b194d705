//! The first promises, end to end.

use crate::*;

fn key() -> (DataKey, KeyId) {
    (DataKey::from_bytes(&mut [9; 32]), KeyId::from_bytes([5; 16]))
}

fn binding() -> Binding {
    Binding::new("main", "users.email").tenant(Some(Part::Int(7))).row_key(&[Part::Uuid([2; 16])])
}

#[test]
fn what_was_sealed_opens_in_its_place_with_its_type() {
    let (key, id) = key();
    let sealer = Sealer::new(&key, id).unwrap();
    let opener = Opener::new(&key, id);
    for padding in [Padding::None, Padding::Block(64)] {
        for plaintext in [&b""[..], b"a", &[0; 100]] {
            let bytes = sealer.seal(&binding(), PayloadType::Json, padding, plaintext).unwrap();
            assert_eq!(bytes.len(), sealed_len(None, padding, plaintext.len()).unwrap());
            assert_eq!(bytes.capacity(), bytes.len());
            assert!(bytes.starts_with(&binary_key_prefix(Kind::ByReference, id)));
            assert!(text::encode(&bytes).starts_with(&text::key_prefix(Kind::ByReference, id)));
            let opened = opener.open(&Envelope::parse(&bytes).unwrap(), &binding()).unwrap();
            assert_eq!(&opened.plaintext[..], plaintext);
            assert_eq!(opened.payload, PayloadType::Json);
        }
    }
}

#[test]
fn a_record_key_travels_in_its_envelope() {
    let (key, id) = key();
    let bytes = RecordSealer::new(&key, id).seal(&binding(), PayloadType::Text, Padding::None, b"value").unwrap();
    let envelope = Envelope::parse(&bytes).unwrap();
    assert_eq!(envelope.kind(), Kind::InlineRing);
    assert_eq!(&Opener::new(&key, id).open(&envelope, &binding()).unwrap().plaintext[..], b"value");
    let elsewhere = Binding::new("main", "users.phone");
    assert_eq!(Opener::new(&key, id).open(&envelope, &elsewhere).err(), Some(Error::OpenFailed));
}
