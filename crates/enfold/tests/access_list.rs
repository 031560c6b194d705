//! The access list: signed, replaced as a whole, and never by an older one.

mod common;

use common::{World, code, who};
use enfold::access::{Grant, NewServiceKey, Role, ShownKey};
use enfold::catalog::{Catalog, MemoryCatalog, SignedAccess};
use enfold::state::OperatorKey;
use enfold::{Code, Enfold};
use std::sync::Arc;

fn wanted(name: &str, expires_ms: i64) -> NewServiceKey {
    NewServiceKey { name: name.to_owned(), grants: vec![Grant::of(Role::App)], expires_ms, instead: false }
}

async fn make(enfold: &Enfold, name: &str) -> (String, String) {
    let (id, secret) = enfold.operator().unwrap().make_service_key(&wanted(name, i64::MAX), &who()).await.unwrap();
    (id, secret.expose().to_owned())
}

/// Whether the list of now lets in whoever shows this.
async fn lets_in(enfold: &Enfold, secret: &str, now_ms: i64) -> bool {
    let list = enfold.access_list(0).await.unwrap();
    list.holder(&ShownKey::parse(secret).unwrap(), now_ms).is_some()
}

#[tokio::test]
async fn a_key_lets_in_until_it_expires_or_is_revoked() {
    let world = World::new();
    let operators = world.operators().await;
    let application = world.application().await.unwrap();
    assert_eq!(application.access_list(0).await.unwrap().epoch, 0, "there never was one");
    let operator = operators.operator().unwrap();
    let (_, secret) =
        operator.make_service_key(&wanted("short", 1_000_000), &who()).await.map_err(|e| e.code()).unwrap();
    assert!(lets_in(&application, secret.expose(), 999_999).await);
    assert!(!lets_in(&application, secret.expose(), 1_000_000).await);

    let (id, secret) = make(&operators, "long").await;
    assert!(lets_in(&application, &secret, 0).await);
    assert_eq!(operator.revoke_service_key(&id, &who()).await.unwrap().name, "long");
    assert!(!lets_in(&application, &secret, 0).await);
    assert_eq!(code(operator.revoke_service_key("0123456789abcdef", &who()).await), Code::Usage);
}

#[tokio::test]
async fn a_key_made_instead_of_others_of_its_name_revokes_those_and_no_more() {
    let world = World::new();
    let operators = world.operators().await;
    let ((_, former), (_, other)) = (make(&operators, "same").await, make(&operators, "other").await);
    let instead = NewServiceKey { instead: true, ..wanted("same", i64::MAX) };
    let (_, secret) = operators.operator().unwrap().make_service_key(&instead, &who()).await.unwrap();
    assert!(lets_in(&operators, secret.expose(), 0).await && lets_in(&operators, &other, 0).await);
    assert!(!lets_in(&operators, &former, 0).await);
}

#[tokio::test]
async fn operators_who_make_keys_at_once_lose_none() {
    let world = World::new();
    let operators = world.operators().await;
    let made = futures_util::future::join_all((0..4).map(|n| {
        let operators = operators.clone();
        async move { make(&operators, &format!("key {n}")).await }
    }))
    .await;
    let list = operators.access_list(0).await.unwrap();
    assert_eq!((list.keys.len(), list.epoch), (4, 4));
    assert!(made.iter().all(|(id, _)| list.keys.contains_key(id)));
}

#[tokio::test]
async fn a_list_that_was_changed_swapped_or_signed_by_another_is_refused() {
    let catalog = Arc::new(MemoryCatalog::new());
    let world = World::over(Arc::clone(&catalog) as _);
    let operators = world.operators().await;
    make(&operators, "one").await;
    let signed = catalog.access_list().await.unwrap().unwrap();
    let put = async |list: SignedAccess| {
        let epoch = catalog.access_list().await.unwrap().map(|list| list.epoch);
        assert!(catalog.publish_access_list(&list, epoch).await.unwrap());
        operators.access_list(0).await
    };

    let mut changed = signed.clone();
    let at = changed.document.windows(3).position(|text| text == b"app").unwrap();
    changed.document[at..at + 3].copy_from_slice(b"apq");
    assert_eq!(code(put(changed).await), Code::StateTampered);
    let unsigned = SignedAccess { signature: Vec::new(), ..signed.clone() };
    assert_eq!(code(put(unsigned).await), Code::StateTampered);
    // The signature of a ring's state says nothing of an access list, though the same key made it.
    let state = catalog.states().await.unwrap().swap_remove(0);
    let swapped = SignedAccess { epoch: state.epoch, document: state.document, signature: state.signature };
    assert_eq!(code(put(swapped).await), Code::StateTampered);

    let others = Arc::new(MemoryCatalog::new());
    let another = World::over(Arc::clone(&others) as _);
    let strangers = another.builder().operator_key(OperatorKey::generate().unwrap()).prepare().build().await.unwrap();
    make(&strangers, "stranger").await;
    assert_eq!(code(put(others.access_list().await.unwrap().unwrap()).await), Code::StateTampered);

    assert_eq!(put(signed).await.unwrap().keys.len(), 1);
    assert_eq!(code(operators.access_list(2).await), Code::StateRolledBack);
}
