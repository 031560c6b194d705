//! Many data keys at once: how often the catalog and the key service are asked for them, and that one bad key hides none of
//! the others.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{POLICY, World, code, seal, set_mode, who};
use enfold::catalog::{Catalog, MemoryCatalog, Purpose};
use enfold::kms::{MemoryKms, MemoryState};
use enfold::policy::Mode;
use enfold::{Code, Column, Enfold, Form, OpenRequest, Part, PayloadType, Place, SealRequest};
use enfold_core::{Envelope, text};

/// Three full batches of data keys and a part of a fourth.
const TENANTS: i64 = 500;
const CALLS: u64 = 4;

fn place(tenant: i64) -> Place<'static> {
    Place::tenant(Part::Int(tenant))
}

fn request(tenant: i64) -> SealRequest<'static> {
    SealRequest { place: place(tenant), form: Form::Text, payload: PayloadType::Text, value: b"ann" }
}

async fn email(enfold: &Enfold) -> Column {
    enfold.column("users.email").unwrap()
}

/// A value of each tenant, sealed by a process that is gone.
async fn sealed(world: &World) -> Vec<Vec<u8>> {
    let operators = world.operators().await;
    set_mode(&operators, "users.email", Mode::Kms).await;
    let requests: Vec<_> = (0..TENANTS).map(request).collect();
    let sealed = email(&operators).await.seal_many(&who(), &requests).await;
    sealed.into_iter().map(Result::unwrap).collect()
}

fn opening(stored: &[Vec<u8>]) -> Vec<OpenRequest<'_>> {
    let request = |(tenant, stored)| OpenRequest { place: place(tenant), form: Form::Text, stored, beside: &[] };
    (0..).zip(stored.iter().map(Vec::as_slice)).map(request).collect()
}

/// A process that has looked at the state, so that what is counted from here on is for data keys.
async fn cold(world: &World) -> (Column, impl Fn() -> u64) {
    let application = world.application().await.unwrap();
    let before = world.kms.calls().unwrap;
    let kms = Arc::clone(&world.kms);
    (email(&application).await, move || kms.calls().unwrap - before)
}

#[tokio::test]
async fn values_of_many_tenants_open_with_a_call_for_each_batch_of_data_keys() {
    let world = World::new();
    let stored = sealed(&world).await;
    let (email, calls) = cold(&world).await;
    let opened = email.open_many(&who(), &opening(&stored)).await;
    assert!(opened.iter().all(|opened| opened.as_ref().is_ok_and(|opened| &opened.value[..] == b"ann")));
    assert_eq!(calls(), CALLS);
    assert!(email.open_many(&who(), &opening(&stored)).await.iter().all(Result::is_ok));
    assert_eq!(calls(), CALLS, "now they are known");
}

#[tokio::test]
async fn values_of_many_tenants_are_sealed_with_a_call_for_each_batch_of_data_keys() {
    let world = World::new();
    sealed(&world).await;
    let (email, calls) = cold(&world).await;
    let wraps = world.kms.calls().wrap;
    let requests: Vec<_> = (0..TENANTS).map(request).collect();
    assert!(email.seal_many(&who(), &requests).await.iter().all(Result::is_ok));
    assert_eq!((calls(), world.kms.calls().wrap - wraps), (CALLS, 0));
}

#[tokio::test]
async fn data_keys_are_fetched_before_they_are_asked_for_and_none_is_made() {
    let world = World::new();
    let stored = sealed(&world).await;
    let made = world.catalog.keys("ring-main", None, 10_000).await.unwrap().len();
    let (email, calls) = cold(&world).await;
    let tenants: Vec<_> = (0..=TENANTS).map(Part::Int).collect();
    let warmed = email.warm(&tenants).await;
    assert_eq!(calls(), CALLS);
    let ids: BTreeSet<_> = warmed[..500].iter().map(|id| id.as_ref().unwrap().unwrap()).collect();
    assert_eq!(ids.len(), 500);
    assert!(warmed[500].as_ref().unwrap().is_none(), "nothing was sealed for that one");
    assert_eq!(world.catalog.keys("ring-main", None, 10_000).await.unwrap().len(), made);

    assert!(email.open_many(&who(), &opening(&stored)).await.iter().all(Result::is_ok));
    for tenant in 0..TENANTS {
        seal(&email, place(tenant), "bob").await.unwrap();
    }
    assert_eq!(calls(), CALLS);
}

#[tokio::test]
async fn data_keys_are_fetched_for_tenants_only_where_they_have_any() {
    let world = World::new();
    let enfold = world.operators().await;
    let warm = async |column: &str| enfold.column(column).unwrap().warm(&[Part::Int(1)]).await.pop().unwrap();
    assert_eq!(code(warm("notes.title").await), Code::BindingIncomplete);
    assert!(warm("users.name").await.unwrap().is_none());
    let token = enfold.value("token").unwrap();
    assert_eq!(code(token.warm(&[Part::Int(1)]).await.pop().unwrap()), Code::BindingIncomplete);
}

#[tokio::test]
async fn a_disabled_data_key_of_a_batch_does_not_hide_the_others() {
    let world = World::new();
    let stored = sealed(&world).await;
    let envelope = text::decode(std::str::from_utf8(&stored[7]).unwrap()).unwrap();
    let bad = Envelope::parse(&envelope).unwrap().key_id();
    world.operators().await.operator().unwrap().disable("main", bad, &who()).await.unwrap();
    let (email, calls) = cold(&world).await;
    let opened = email.open_many(&who(), &opening(&stored)).await;
    for (at, opened) in opened.into_iter().enumerate() {
        match at {
            7 => assert_eq!(code(opened), Code::KeyDisabled),
            _ => assert!(opened.is_ok(), "{at}"),
        }
    }
    assert_eq!(calls(), CALLS);
    let warmed = email.warm(&[Part::Int(6), Part::Int(7)]).await;
    assert!(warmed[0].as_ref().is_ok_and(Option::is_some));
    assert_eq!(warmed[1].as_ref().unwrap_err().code(), Code::KeyDisabled);
}

#[tokio::test]
async fn a_row_that_was_taken_away_or_changed_hides_none_of_the_others() {
    let world = World::new();
    let stored = sealed(&world).await;
    // A catalog with the same rows, but for one that was changed and one that was taken away.
    let fresh = MemoryCatalog::new();
    for root in world.catalog.roots().await.unwrap() {
        fresh.ensure_root(&root).await.unwrap();
    }
    for state in world.catalog.states().await.unwrap() {
        let (mut changed, mut gone) = (state.ring != "ring-main", state.ring != "ring-main");
        for mut row in world.catalog.keys(&state.ring, None, 10_000).await.unwrap() {
            if row.purpose == Purpose::Seal && !changed {
                row.created_ms += 1;
                changed = true;
            } else if row.purpose == Purpose::Seal && !gone {
                gone = true;
                continue;
            }
            fresh.insert_key(&row, None).await.unwrap();
        }
        assert!(fresh.publish(&state, None, &[]).await.unwrap());
    }
    let application = world.builder().catalog(Arc::new(fresh)).build().await.unwrap();
    let opened = email(&application).await.open_many(&who(), &opening(&stored)).await;
    let refused: Vec<_> = opened.iter().filter_map(|opened| opened.as_ref().err().map(enfold::Error::code)).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.contains(&Code::StateTampered) && refused.contains(&Code::KeyNotFound), "{refused:?}");
}

#[tokio::test]
async fn what_the_first_root_key_does_not_unwrap_is_asked_of_the_second_in_batches_too() {
    let second = Arc::new(MemoryKms::new("second").unwrap());
    let policy = POLICY.replacen(r#"["memory:root"]"#, r#"["memory:root", "memory:second"]"#, 1);
    let world = World::new();
    let build = || {
        let builder = world.builder_for(world.policy(&policy));
        builder.provider(Arc::clone(&second) as _)
    };
    let operators = build().prepare().build().await.unwrap();
    set_mode(&operators, "users.email", Mode::Kms).await;
    let requests: Vec<_> = (0..TENANTS).map(request).collect();
    let sealed = email(&operators).await.seal_many(&who(), &requests).await;
    let stored: Vec<_> = sealed.into_iter().map(Result::unwrap).collect();

    let application = build().build().await.unwrap();
    world.kms.set_state(MemoryState::Disabled);
    let before = second.calls().unwrap;
    let opened = email(&application).await.open_many(&who(), &opening(&stored)).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(second.calls().unwrap - before, CALLS);
}

#[tokio::test]
async fn a_small_cache_opens_many_tenants_too() {
    let world = World::new();
    let stored = sealed(&world).await;
    let policy = POLICY.replacen("[rings.wide]", "[rings.main.cache]\nmax_keys = 3\n\n[rings.wide]", 1);
    let application = world.builder_for(world.policy(&policy)).build().await.unwrap();
    let email = email(&application).await;
    assert!(email.open_many(&who(), &opening(&stored)).await.iter().all(Result::is_ok));
    let requests: Vec<_> = (0..TENANTS).map(request).collect();
    assert!(email.seal_many(&who(), &requests).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn an_outage_is_asked_about_once_a_batch() {
    let world = World::new();
    let stored = sealed(&world).await;
    let (email, calls) = cold(&world).await;
    world.kms.set_state(MemoryState::Denied);
    let opened = email.open_many(&who(), &opening(&stored)).await;
    assert!(opened.into_iter().all(|opened| code(opened) == Code::KmsAccessDenied));
    assert_eq!(calls(), CALLS);
}
