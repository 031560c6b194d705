use super::*;
use crate::catalog::CustomerLayer;

fn state() -> RingState {
    let rows = RowAuthority { key: KeyRef(KeyId::from_bytes([1; 16])), check: "00".repeat(32) };
    let mut state = RingState::new("ring-1", rows);
    state
        .columns
        .insert("users.email".into(), ColumnState { id: "u1".into(), mode: Mode::Hybrid, reads: BTreeSet::new() });
    state
}

fn row(version: u32, byte: u8) -> DataKeyRow {
    DataKeyRow {
        id: KeyId::from_bytes([byte; 16]),
        ring: "ring-1".into(),
        purpose: Purpose::Seal,
        scope: "ring".into(),
        version,
        status: KeyStatus::Active,
        created_ms: 0,
        wraps: Vec::new(),
        customer: None,
        mac: Vec::new(),
    }
}

#[test]
fn a_signed_state_is_read_back_as_it_was() {
    let key = OperatorKey::generate().unwrap();
    let stored = key.sign(&state()).unwrap();
    assert_eq!(RingState::verify(&stored, "ring-1", &key.public_key(), 1).unwrap(), state());
}

#[test]
fn any_changed_byte_of_the_document_or_the_signature_is_refused() {
    let key = OperatorKey::generate().unwrap();
    let stored = key.sign(&state()).unwrap();
    for at in 0..stored.document.len() {
        let mut changed = stored.clone();
        changed.document[at] ^= 1;
        let error = RingState::verify(&changed, "ring-1", &key.public_key(), 1).unwrap_err();
        assert_eq!(error.code(), Code::StateTampered);
    }
    for at in 0..stored.signature.len() {
        let mut changed = stored.clone();
        changed.signature[at] ^= 1;
        assert!(RingState::verify(&changed, "ring-1", &key.public_key(), 1).is_err());
    }
}

#[test]
fn another_signer_another_ring_and_an_older_epoch_are_refused() {
    let (key, other) = (OperatorKey::generate().unwrap(), OperatorKey::generate().unwrap());
    let stored = key.sign(&state()).unwrap();
    let code = |ring: &str, trusted: &OperatorKey, least| {
        RingState::verify(&stored, ring, &trusted.public_key(), least).unwrap_err().code()
    };
    assert_eq!(code("ring-1", &other, 1), Code::StateTampered);
    assert_eq!(code("ring-2", &key, 1), Code::StateTampered);
    assert_eq!(code("ring-1", &key, 2), Code::StateRolledBack);
}

#[test]
fn a_second_spelling_of_a_signed_state_is_refused() {
    let document = state().encode().unwrap();
    let spaced = [b" ", &document[..]].concat();
    let unknown = String::from_utf8(document).unwrap().replacen('{', "{\"x\":1,", 1).into_bytes();
    assert_eq!(RingState::decode(&spaced), None);
    assert_eq!(RingState::decode(&unknown), None);
}

#[test]
fn the_status_of_a_key_follows_from_what_was_signed() {
    let mut state = state();
    assert_eq!(state.status(&row(1, 7)).unwrap(), KeyStatus::Active);
    assert_eq!(state.status(&row(2, 8)).unwrap_err().code(), Code::StateTampered);
    state.set_sealing(&row(2, 8));
    assert_eq!(state.status(&row(1, 7)).unwrap(), KeyStatus::Retired);
    assert_eq!(state.status(&row(2, 8)).unwrap(), KeyStatus::Active);
    assert_eq!(state.status(&row(2, 9)).unwrap_err().code(), Code::StateTampered, "another key of that version");
    state.disabled.insert(KeyRef(row(1, 7).id));
    assert_eq!(state.status(&row(1, 7)).unwrap(), KeyStatus::Disabled);
}

/// A version that has been signed before customers' keys were known is spelled as it was then.
#[test]
fn a_state_without_customers_is_spelled_as_programs_of_before_spell_it() {
    let document = String::from_utf8(state().encode().unwrap()).unwrap();
    assert!(document.ends_with("\"disabled\":[],\"destroyed\":[]}"), "{document}");
    let empty = document.replacen("\"destroyed\":[]", "\"destroyed\":[],\"customers\":{}", 1);
    assert_eq!(RingState::decode(empty.as_bytes()), None, "a second spelling");
}

#[test]
fn a_state_whose_root_keys_are_all_active_is_spelled_as_before_and_one_that_is_not_comes_back() {
    let mut state = state();
    assert!(!String::from_utf8(state.encode().unwrap()).unwrap().contains("roots"));
    state.roots.insert("aws-kms://eu/alias/a".into(), RootState::Retired);
    let again = RingState::decode(&state.encode().unwrap()).unwrap();
    assert_eq!(again.root("aws-kms://eu/alias/a"), RootState::Retired);
    assert_eq!(again.root("vault://h/t/k"), RootState::Active);
}

#[test]
fn readers_are_signed_for_the_columns_that_have_them() {
    let document = String::from_utf8(state().encode().unwrap()).unwrap();
    assert!(document.contains("\"users.email\":{\"id\":\"u1\",\"mode\":\"hybrid\"}"), "{document}");
    let mut state = state();
    state.columns.get_mut("users.email").unwrap().reads = ["old".to_owned()].into();
    let document = state.encode().unwrap();
    assert_eq!(RingState::decode(&document), Some(state.clone()));
    assert_eq!(state.reads("users.email").collect::<Vec<_>>(), ["old"]);
    assert_eq!(state.reads("users.phone").count(), 0);
}

#[test]
fn a_data_key_of_a_customer_has_the_layer_that_was_signed_or_was_there_before() {
    let (tag, other) = ("00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100");
    let of = |tag: &str, byte, root: Option<&str>| DataKeyRow {
        scope: format!("tenant@{tag}"),
        customer: root.map(|root| CustomerLayer { root: root.into(), wrapped: vec![1], sealed: vec![2] }),
        ..row(1, byte)
    };
    let mut state = state();
    let refused = |state: &RingState, row: &DataKeyRow| state.status(row).unwrap_err().code();
    assert_eq!(state.status(&of(tag, 7, None)).unwrap(), KeyStatus::Active);
    assert_eq!(refused(&state, &of(tag, 7, Some("vault://a"))), Code::StateTampered, "nobody signed it");

    let bare = BTreeSet::from([KeyRef(row(1, 7).id)]);
    state.customers.insert(tag.into(), CustomerState { key: "vault://a".into(), bare, former: BTreeSet::new() });
    assert_eq!(state.status(&of(tag, 7, None)).unwrap(), KeyStatus::Active, "it was there before");
    assert_eq!(state.status(&of(tag, 8, Some("vault://a"))).unwrap(), KeyStatus::Active);
    assert_eq!(refused(&state, &of(tag, 8, None)), Code::StateTampered, "taken away");
    assert_eq!(refused(&state, &of(tag, 8, Some("vault://b"))), Code::StateTampered, "another put in");
    assert_eq!(state.status(&of(other, 9, None)).unwrap(), KeyStatus::Active, "another tenant");
    assert_eq!(refused(&state, &of(other, 9, Some("vault://a"))), Code::StateTampered);
    let index = |root| DataKeyRow { purpose: Purpose::Index, scope: format!("index:u1/eq@{tag}"), ..of(tag, 9, root) };
    assert_eq!(refused(&state, &index(None)), Code::StateTampered, "index keys of the tenant too");
    assert_eq!(state.status(&index(Some("vault://a"))).unwrap(), KeyStatus::Active);
    assert_eq!(state.status(&row(1, 7)).unwrap(), KeyStatus::Active, "a scope of no tenant");

    // While another takes its place, either.
    assert!(!String::from_utf8(state.encode().unwrap()).unwrap().contains("former"), "spelled as before");
    let next =
        CustomerState { key: "vault://b".into(), bare: BTreeSet::new(), former: ["vault://a".to_owned()].into() };
    state.customers.insert(tag.into(), next);
    assert_eq!(state.status(&of(tag, 8, Some("vault://a"))).unwrap(), KeyStatus::Active);
    assert_eq!(state.status(&of(tag, 8, Some("vault://b"))).unwrap(), KeyStatus::Active);
    assert_eq!(refused(&state, &of(tag, 8, Some("vault://c"))), Code::StateTampered);
    assert_eq!(RingState::decode(&state.encode().unwrap()), Some(state));
}

#[test]
fn a_column_with_another_id_than_the_signed_one_is_refused() {
    assert_eq!(state().mode("users.email", "u1").unwrap(), Mode::Hybrid);
    assert_eq!(state().mode("users.phone", "u2").unwrap(), Mode::Legacy);
    assert_eq!(state().mode("users.email", "u2").unwrap_err().code(), Code::StateTampered);
}

#[test]
fn a_destruction_and_a_minimum_decide_before_what_was_rotated_and_are_left_out_where_there_are_none() {
    let mut state = state();
    let document = String::from_utf8(state.encode().unwrap()).unwrap();
    assert!(!document.contains("destructions") && !document.contains("minimums"), "{document}");
    state.set_sealing(&row(3, 8));
    state.minimums.insert("ring".into(), 2);
    assert_eq!(state.status(&row(1, 6)).unwrap(), KeyStatus::Disabled);
    assert_eq!(state.status(&row(2, 7)).unwrap(), KeyStatus::Retired);
    assert_eq!(state.status(&row(3, 8)).unwrap(), KeyStatus::Active);
    let index = DataKeyRow { purpose: Purpose::Index, ..row(1, 9) };
    assert_eq!(state.status(&index).unwrap(), KeyStatus::Active, "versions of index keys are their own");

    let announced = Destruction { asked_ms: 1, due_ms: 2, done_ms: None, by: None, reason: None, backups_ms: None };
    state.destructions.insert(Subject::ring(), announced.clone());
    assert_eq!(state.status(&row(3, 8)).unwrap(), KeyStatus::Destroying);
    assert_eq!(state.status(&index).unwrap(), KeyStatus::Destroying);
    let rows = DataKeyRow { purpose: Purpose::Rows, scope: "rows".into(), ..row(1, 5) };
    assert_eq!(state.status(&rows).unwrap(), KeyStatus::Active);
    state.destructions.insert(Subject::ring(), Destruction { done_ms: Some(3), ..announced });
    assert_eq!(state.status(&row(1, 6)).unwrap(), KeyStatus::Destroyed, "whatever else was decided");
    assert_eq!(RingState::decode(&state.encode().unwrap()), Some(state));
}
