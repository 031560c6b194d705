//! What holds for every value, every place and every change.

use enfold_core::index::{BlindIndex, IndexSpec, Normaliser};
use enfold_core::stored::Stored;
use enfold_core::{
    Binding, DataKey, Envelope, Error, Form, KeyId, Kind, OpenItem, Opener, OwnedPart, Padding, PayloadType,
    RecordSealer, Salt, SealItem, Sealer, sealed_len, stored, text,
};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    ring: String,
    column: String,
    tenant: Option<Shown>,
    row_key: Vec<Shown>,
}

/// Parts do not print themselves; a failing case must.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Text(String),
    Int(i64),
    Uuid([u8; 16]),
    Bytes(Vec<u8>),
}

impl Shown {
    fn part(&self) -> OwnedPart {
        match self.clone() {
            Shown::Text(text) => OwnedPart::Text(text),
            Shown::Int(int) => OwnedPart::Int(int),
            Shown::Uuid(uuid) => OwnedPart::Uuid(uuid),
            Shown::Bytes(bytes) => OwnedPart::Bytes(bytes),
        }
    }
}

impl Place {
    fn binding(&self) -> Binding {
        let tenant = self.tenant.as_ref().map(Shown::part);
        let row_key: Vec<_> = self.row_key.iter().map(Shown::part).collect();
        let row_key: Vec<_> = row_key.iter().map(OwnedPart::as_part).collect();
        Binding::new(&self.ring, &self.column).tenant(tenant.as_ref().map(OwnedPart::as_part)).row_key(&row_key)
    }
}

/// Short and from a small alphabet, so that two places are often nearly the same.
fn part() -> impl Strategy<Value = Shown> {
    prop_oneof![
        "[ab]{0,2}".prop_map(Shown::Text),
        (-1_i64..2).prop_map(Shown::Int),
        any::<i64>().prop_map(Shown::Int),
        any::<[u8; 16]>().prop_map(Shown::Uuid),
        prop::collection::vec(0_u8..2, 0..3).prop_map(Shown::Bytes),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    ("[ab]{1,2}", "[ab]{1,2}", prop::option::of(part()), prop::collection::vec(part(), 0..3))
        .prop_map(|(ring, column, tenant, row_key)| Place { ring, column, tenant, row_key })
}

fn padding() -> impl Strategy<Value = Padding> {
    prop_oneof![Just(Padding::None), (1_u32..300).prop_map(Padding::Block)]
}

fn payload() -> impl Strategy<Value = PayloadType> {
    prop_oneof![Just(PayloadType::Bytes), Just(PayloadType::Text), Just(PayloadType::Json)]
}

fn key() -> (DataKey, KeyId) {
    (DataKey::from_bytes(&mut [3; 32]), KeyId::from_bytes([4; 16]))
}

/// Every way to make an envelope that an opener of the key opens.
fn seal(way: u8, place: &Place, payload: PayloadType, padding: Padding, plaintext: &[u8]) -> Vec<u8> {
    let (key, id) = key();
    let binding = place.binding();
    match way {
        0 => Sealer::new(&key, id).unwrap().seal(&binding, payload, padding, plaintext),
        1 => Sealer::with_salt(&key, id, Salt::Each).unwrap().seal(&binding, payload, padding, plaintext),
        2 => RecordSealer::new(&key, id).seal(&binding, payload, padding, plaintext),
        _ => {
            let item = SealItem { binding: &binding, payload, padding, plaintext };
            Sealer::new(&key, id).unwrap().seal_many(&[item]).remove(0)
        }
    }
    .unwrap()
}

fn open(bytes: &[u8], place: &Place) -> enfold_core::Result<(PayloadType, Vec<u8>)> {
    let (key, id) = key();
    let opened = Opener::new(&key, id).open(&Envelope::parse(bytes)?, &place.binding())?;
    Ok((opened.payload, opened.plaintext.to_vec()))
}

proptest! {
    #[test]
    fn what_is_sealed_opens_in_its_place(
        way in 0_u8..4, place in place(), payload in payload(), padding in padding(),
        plaintext in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let bytes = seal(way, &place, payload, padding, &plaintext);
        let wrapped = Envelope::parse(&bytes).unwrap().wrapped().map(<[u8]>::len);
        prop_assert_eq!(bytes.len(), sealed_len(wrapped, padding, plaintext.len()).unwrap());
        prop_assert_eq!(open(&bytes, &place).unwrap(), (payload, plaintext));
    }

    #[test]
    fn any_changed_bit_refuses(
        way in 0_u8..4, place in place(), padding in padding(),
        plaintext in prop::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let mut bytes = seal(way, &place, PayloadType::Bytes, padding, &plaintext);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(open(&bytes, &place).is_err(), "bit {} of byte {}", bit, at);
    }

    #[test]
    fn any_other_length_refuses(
        way in 0_u8..4, place in place(), plaintext in prop::collection::vec(any::<u8>(), 0..60),
        at in any::<prop::sample::Index>(), extra in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let bytes = seal(way, &place, PayloadType::Bytes, Padding::None, &plaintext);
        prop_assert!(open(&bytes[..at.index(bytes.len())], &place).is_err());
        prop_assert!(open(&[&bytes[..], &extra].concat(), &place).is_err());
    }

    #[test]
    fn any_other_place_refuses(way in 0_u8..4, home in place(), elsewhere in place()) {
        let bytes = seal(way, &home, PayloadType::Text, Padding::None, b"value");
        prop_assert_eq!(home.binding().encoded() == elsewhere.binding().encoded(), home == elsewhere);
        match open(&bytes, &elsewhere) {
            Ok(_) => prop_assert_eq!(home, elsewhere),
            Err(error) => {
                prop_assert_ne!(home, elsewhere);
                prop_assert_eq!(error, Error::OpenFailed);
            }
        }
    }

    #[test]
    fn any_other_key_refuses(other in any::<[u8; 32]>(), plaintext in prop::collection::vec(any::<u8>(), 0..60)) {
        prop_assume!(other != [3; 32]);
        let place = Place { ring: "r".into(), column: "c".into(), tenant: None, row_key: vec![] };
        for way in 0..4 {
            let bytes = seal(way, &place, PayloadType::Text, Padding::None, &plaintext);
            let opener = Opener::new(&DataKey::from_bytes(&mut { other }), key().1);
            let refused = opener.open(&Envelope::parse(&bytes).unwrap(), &place.binding()).err();
            prop_assert_eq!(refused, Some(Error::OpenFailed));
        }
    }

    #[test]
    fn a_place_that_was_changed_is_the_place_that_was_made(one in place(), other in place()) {
        let mut binding = Place { ring: other.ring.clone(), column: other.column.clone(), ..one }.binding();
        let tenant = other.tenant.as_ref().map(Shown::part);
        let row_key: Vec<_> = other.row_key.iter().map(Shown::part).collect();
        let row_key: Vec<_> = row_key.iter().map(OwnedPart::as_part).collect();
        binding.set_place(tenant.as_ref().map(OwnedPart::as_part), &row_key);
        prop_assert!(binding == other.binding());
        let reversed = Binding::new(&other.ring, &other.column)
            .row_key(&row_key)
            .tenant(tenant.as_ref().map(OwnedPart::as_part));
        prop_assert!(reversed == other.binding(), "the order of the calls does not matter");
    }

    #[test]
    fn every_form_gives_the_envelope_back(plaintext in prop::collection::vec(any::<u8>(), 0..60), way in 0_u8..4) {
        let place = Place { ring: "r".into(), column: "c".into(), tenant: None, row_key: vec![] };
        let bytes = seal(way, &place, PayloadType::Bytes, Padding::None, &plaintext);
        for form in [Form::Bytes, Form::Text, Form::Json] {
            let cell = stored::encode(form, bytes.clone());
            prop_assert!(stored::detect(form, &cell) == Stored::Envelope(bytes.clone()));
        }
        let text = text::encode(&bytes);
        prop_assert_eq!(text.len(), text::encoded_len(bytes.len()));
        let object = stored::encode_object(&bytes, &[("a", serde_json::json!({"enf": 1}))]).to_string();
        prop_assert!(stored::detect(Form::Json, object.as_bytes()) == Stored::Envelope(bytes));
    }

    #[test]
    fn a_text_has_one_spelling(plaintext in prop::collection::vec(any::<u8>(), 0..10), at in any::<prop::sample::Index>(), to in any::<char>()) {
        let place = Place { ring: "r".into(), column: "c".into(), tenant: None, row_key: vec![] };
        let bytes = seal(0, &place, PayloadType::Bytes, Padding::None, &plaintext);
        let text = text::encode(&bytes);
        let at = at.index(text.len());
        let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
        if changed != text && let Ok(decoded) = text::decode(&changed) {
            prop_assert_ne!(decoded, bytes);
        }
    }

    #[test]
    fn an_index_is_equal_exactly_where_its_normalised_values_are(
        one in prop::collection::vec("[aA ]{0,3}", 2), other in prop::collection::vec("[aA ]{0,3}", 2),
        tenants in prop::collection::vec(0_i64..2, 2),
    ) {
        let spec = IndexSpec {
            ring_id: "r".into(),
            column_ids: vec!["a".into(), "b".into()],
            name: "n".into(),
            normalise: vec![Normaliser::Trim, Normaliser::Lower],
            bits: 256,
            unique: true,
            cross_tenant: false,
            generation: 3,
        };
        let (key, id) = key();
        let index = BlindIndex::new(&key, id, spec).unwrap();
        let compute = |tenant: i64, values: &[String]| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            index.compute(Some(OwnedPart::Int(tenant).as_part()), &values).unwrap()
        };
        let normal = |values: &[String]| values.iter().map(|value| value.trim().to_lowercase()).collect::<Vec<_>>();
        let same = tenants[0] == tenants[1] && normal(&one) == normal(&other);
        prop_assert_eq!(compute(tenants[0], &one) == compute(tenants[1], &other), same);
        prop_assert!(compute(tenants[0], &one).starts_with(&[0, 3]));
    }

    #[test]
    fn a_batch_keeps_its_order_and_one_bad_value_hides_no_other(lens in prop::collection::vec(0_usize..50, 1..40), bad in any::<prop::sample::Index>()) {
        let (key, id) = key();
        let binding = Binding::new("r", "c");
        let values: Vec<Vec<u8>> = lens.iter().map(|len| vec![7; *len]).collect();
        let bad = bad.index(values.len());
        let items: Vec<SealItem<'_>> = values.iter().enumerate().map(|(at, plaintext)| SealItem {
            binding: &binding,
            payload: PayloadType::Bytes,
            padding: if at == bad { Padding::Block(0) } else { Padding::None },
            plaintext,
        }).collect();
        let sealed = Sealer::new(&key, id).unwrap().seal_many(&items);
        prop_assert_eq!(sealed[bad].as_ref().err(), Some(&Error::PaddingBlock(0)));
        let good: Vec<&Vec<u8>> = sealed.iter().flatten().collect();
        prop_assert_eq!(good.len(), values.len() - 1);
        let opening: Vec<OpenItem<'_>> =
            good.iter().map(|bytes| OpenItem { envelope: Envelope::parse(bytes).unwrap(), binding: &binding }).collect();
        let opened = Opener::new(&key, id).open_many(&opening);
        let expected: Vec<&Vec<u8>> = values.iter().enumerate().filter(|(at, _)| *at != bad).map(|(_, value)| value).collect();
        for (opened, value) in opened.into_iter().zip(expected) {
            prop_assert_eq!(&opened.unwrap().plaintext[..], &value[..]);
        }
        let nonces: std::collections::BTreeSet<_> = opening.iter().map(|item| *item.envelope.nonce()).collect();
        prop_assert_eq!(nonces.len(), opening.len());
        let salts: std::collections::BTreeSet<_> = opening.iter().map(|item| *item.envelope.salt()).collect();
        prop_assert!(salts.len() <= 1);
    }
}

#[test]
fn salt_each_gives_every_value_its_own() {
    let (key, id) = key();
    let binding = Binding::new("r", "c");
    let item = SealItem { binding: &binding, payload: PayloadType::Text, padding: Padding::None, plaintext: b"v" };
    let sealed = Sealer::with_salt(&key, id, Salt::Each).unwrap().seal_many(&[item; 50]);
    let sealed: Vec<Vec<u8>> = sealed.into_iter().flatten().collect();
    let salts: std::collections::BTreeSet<_> =
        sealed.iter().map(|bytes| *Envelope::parse(bytes).unwrap().salt()).collect();
    assert_eq!(salts.len(), 50);
}

#[test]
fn a_batch_longer_than_one_run_is_sealed_whole_with_no_nonce_twice() {
    let (key, id) = key();
    let binding = Binding::new("r", "c");
    let item = SealItem { binding: &binding, payload: PayloadType::Text, padding: Padding::None, plaintext: b"v" };
    let sealed: Vec<Vec<u8>> =
        Sealer::new(&key, id).unwrap().seal_many(&vec![item; 5000]).into_iter().map(Result::unwrap).collect();
    let nonces: std::collections::BTreeSet<_> =
        sealed.iter().map(|bytes| *Envelope::parse(bytes).unwrap().nonce()).collect();
    assert_eq!(nonces.len(), 5000);
}

#[test]
fn an_inline_root_envelope_is_not_opened_by_the_rings_key() {
    let (key, id) = key();
    let binding = Binding::new("r", "c");
    let item = SealItem { binding: &binding, payload: PayloadType::Text, padding: Padding::None, plaintext: b"v" };
    let bytes = enfold_core::record::seal_with(&key, id, b"wrapped", &item).unwrap();
    let envelope = Envelope::parse(&bytes).unwrap();
    assert_eq!((envelope.kind(), envelope.wrapped()), (Kind::InlineRoot, Some(&b"wrapped"[..])));
    assert_eq!(Opener::new(&key, id).open(&envelope, &binding).err(), Some(Error::KeyMismatch));
    assert_eq!(&enfold_core::record::open_with(&key, &envelope, &binding).unwrap().plaintext[..], b"v");
    for wrapped in [&[][..], &[0; 65_536]] {
        let refused = enfold_core::record::seal_with(&key, id, wrapped, &item);
        assert_eq!(refused, Err(Error::WrappedLength(wrapped.len())));
    }
}
