//! What a hook says after a VM snapshot was restored concerns the whole process, so this test has one to itself.

use enfold_core::wrap::{KeyWrap, WrapContext};
use enfold_core::{
    Binding, DataKey, Envelope, Error, KeyId, Opener, Padding, PayloadType, RecordSealer, Salt, SealItem, Sealer,
    process,
};

#[test]
fn after_a_restored_snapshot_everything_that_seals_refuses_and_opening_goes_on() {
    let (key, id) = (DataKey::generate().unwrap(), KeyId::random().unwrap());
    let binding = Binding::new("main", "users.email");
    let item = SealItem { binding: &binding, payload: PayloadType::Text, padding: Padding::None, plaintext: b"v" };
    let sealers = [Salt::Shared, Salt::Each].map(|salt| Sealer::with_salt(&key, id, salt).unwrap());
    let (record, wrap) = (RecordSealer::new(&key, id), KeyWrap::new(&key, id));
    let sealed = sealers[0].seal(&binding, PayloadType::Text, Padding::None, b"v").unwrap();
    let opener = Opener::new(&key, id);

    // Whether or not somebody watches forks.
    for watched in [false, true] {
        if watched {
            process::forks_are_watched();
        } else {
            process::is_a_copy();
        }
        for sealer in &sealers {
            assert_eq!(sealer.seal_many(&[item; 3]), vec![Err(Error::ProcessChanged); 3]);
            let one = sealer.seal(&binding, PayloadType::Text, Padding::None, b"v");
            assert_eq!(one, Err(Error::ProcessChanged));
        }
        let one = record.seal(&binding, PayloadType::Text, Padding::None, b"v");
        assert_eq!(one, Err(Error::ProcessChanged));
        assert_eq!(wrap.wrap(&key, &WrapContext::of(&[])), Err(Error::ProcessChanged));
        assert!(opener.open(&Envelope::parse(&sealed).unwrap(), &binding).is_ok());
        let anew = Sealer::new(&key, id).unwrap().seal(&binding, PayloadType::Text, Padding::None, b"v");
        assert!(anew.is_ok());
    }
}
