//! What must hold for any bytes at all. The fuzz target (`fuzz/`) and the test beside this file drive it.

use enfold_core::layout::{FIXED_LEN, KEY_PREFIX_LEN, OVERHEAD};
use enfold_core::stored::Stored;
use enfold_core::wrap::{KeyUnwrap, WrapContext};
use enfold_core::{Binding, DataKey, Envelope, Form, Kind, Opener, binary_key_prefix, record, stored, text};

/// Panics if a promise of the readers is broken for these bytes.
pub(crate) fn drive(data: &[u8]) {
    for form in [Form::Bytes, Form::Text, Form::Json] {
        let found = stored::detect(form, data);
        match (&found, stored::decode(form, data)) {
            (Stored::Envelope(bytes), Ok(decoded)) => {
                assert_eq!(*bytes, decoded);
                well_formed(bytes);
                // Whatever spelling it came in, the bytes have one spelling that is read back.
                let cell = stored::encode(form, bytes.clone());
                assert!(stored::detect(form, &cell) == found);
            }
            (Stored::Lookalike(found), Err(error)) => assert_eq!(*found, error),
            (Stored::Plain, Err(_)) => {}
            _ => panic!("detect and decode disagree"),
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(decoded) = text::decode(text)
    {
        assert_eq!(text::encode(&decoded), text, "two spellings");
        assert_eq!(text::encoded_len(decoded.len()), text.len());
    }
    if Envelope::parse(data).is_ok() {
        well_formed(data);
    }
    let key = DataKey::from_bytes(&mut [0xc3; 32]);
    let id = enfold_core::KeyId::from_bytes([0xc4; 16]);
    assert!(KeyUnwrap::new(&key, id).unwrap(data, &WrapContext::of(&[])).is_err(), "unwrapped without its key");
}

fn well_formed(bytes: &[u8]) {
    let envelope = Envelope::parse(bytes).expect("a detected envelope parses");
    assert_eq!(bytes[..KEY_PREFIX_LEN], binary_key_prefix(envelope.kind(), envelope.key_id()));
    assert!(text::encode(bytes).starts_with(&text::key_prefix(envelope.kind(), envelope.key_id())));
    let wrapped = envelope.wrapped().map_or(0, |wrapped| 2 + wrapped.len());
    assert_eq!(wrapped == 0, envelope.kind() == Kind::ByReference);
    assert_eq!(OVERHEAD + wrapped + envelope.ciphertext_len(), bytes.len());
    assert_eq!(bytes[FIXED_LEN + wrapped..][..16], envelope.salt()[..]);
    assert_eq!(bytes[FIXED_LEN + wrapped + 16..][..32], envelope.commitment()[..]);
    assert_eq!(bytes[FIXED_LEN + wrapped + 48..][..12], envelope.nonce()[..]);

    // Nobody has this key, so nothing opens.
    let key = DataKey::from_bytes(&mut [0xc3; 32]);
    let binding = Binding::new("main", "users.email");
    assert!(Opener::new(&key, envelope.key_id()).open(&envelope, &binding).is_err());
    assert!(record::open_with(&key, &envelope, &binding).is_err());
}
