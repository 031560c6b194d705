//! What every catalog owes, run on all of them: in memory, on SQLite, on Postgres.

mod log;

use std::sync::Arc;
use std::time::Duration;

use enfold_core::KeyId;

use super::{
    Acknowledgement, Application, Begun, Catalog, CustomerLayer, DataKeyRow, EventPage, EventQuery, Holding, Inserted,
    KeyStatus, KeyUse, MemoryCatalog, NamedRequest, Purpose, RootAbout, RootKey, SignedAccess, SignedState,
    StoredEmergency, Swap, Wrap,
};
use crate::Code;
use crate::events::{CallContext, Entry, Event, EventKind, SignedCheckpoint, SubjectTag, WriterId, chained};
use crate::policy::Mode;

use self::log::*;

macro_rules! conformance {
    ($($name:ident)*) => {
        mod memory {
            $( #[tokio::test] async fn $name() { super::$name(std::sync::Arc::new(super::MemoryCatalog::new())).await; } )*
        }
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $( #[tokio::test] async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let catalog = crate::catalog::SqliteCatalog::create(&dir.path().join("catalog.db")).unwrap();
                crate::catalog::Catalog::migrate(&catalog).await.unwrap();
                super::$name(std::sync::Arc::new(catalog)).await;
            } )*
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            $( #[tokio::test] async fn $name() {
                let database = enfold_testkit::postgres::Database::create().await;
                let endpoint = crate::db::postgres::Endpoint::parse_text(&database.url()).unwrap();
                let catalog = crate::catalog::PostgresCatalog::connect(endpoint).await.unwrap();
                crate::catalog::Catalog::migrate(&catalog).await.unwrap();
                super::$name(std::sync::Arc::new(catalog)).await;
            } )*
        }
    };
}

conformance! {
    a_root_key_has_one_id_for_ever
    what_is_known_of_a_root_key_comes_back_and_is_replaced
    a_root_key_gets_its_former_id_back_and_keeps_the_one_it_had_since
    a_data_key_comes_back_as_it_was_stored
    a_customers_layer_comes_back_as_it_was_stored
    a_customers_layer_is_replaced_with_the_wraps
    what_is_written_by_an_epoch_that_has_passed_is_not_written
    the_second_maker_of_a_version_gets_the_first_ones_key
    of_concurrent_makers_one_wins
    keys_are_listed_in_pages
    many_keys_are_found_at_once_and_what_is_not_there_is_left_out
    a_state_is_replaced_only_by_one_who_saw_it
    of_concurrent_publications_one_wins
    a_publication_changes_keys_with_the_state_or_not_at_all
    wraps_are_added_only_to_the_row_that_was_seen
    wraps_are_replaced_only_in_rows_that_were_seen
    of_two_who_replace_the_same_wraps_each_row_takes_one
    an_application_is_there_once_for_each_instance
    the_last_word_of_a_process_counts_as_long_as_it_holds
    the_first_certificate_of_a_destruction_stays
    an_access_list_is_replaced_only_by_one_who_saw_it
    an_emergency_is_changed_only_by_one_who_saw_it
    a_named_request_is_begun_by_one_and_answered_ever_after
    a_named_request_that_nobody_holds_is_begun_again_with_what_it_was_about_to_do
    a_data_key_can_lose_every_wrap
    events_come_back_newest_first
    events_are_found_by_what_they_say
    events_come_in_pages_in_either_order
    an_entry_of_the_log_is_there_once_and_as_it_was_written
    of_two_checkpoints_of_one_number_the_first_stays
    what_is_removed_of_the_log_is_the_first_of_one_writer
    uses_of_a_key_are_summed_by_who_did_it_where
    migrating_again_changes_nothing
}

type Tried = Arc<dyn Catalog>;

fn id(byte: u8) -> KeyId {
    KeyId::from_bytes([byte; 16])
}

fn key(byte: u8, scope: &str, version: u32) -> DataKeyRow {
    let wrap = |root: &str| Wrap { root: root.to_owned(), wrapped: vec![byte, 0, 255] };
    DataKeyRow {
        id: id(byte),
        ring: "ring".into(),
        purpose: Purpose::Seal,
        scope: scope.into(),
        version,
        status: KeyStatus::Active,
        created_ms: 1_700_000_000_123,
        // In the order of their URIs by bytes, whatever a database's collation thinks of it.
        wraps: vec![wrap("aws-kms://b"), wrap("local:A"), wrap("local:a_")],
        customer: None,
        mac: vec![byte; 32],
    }
}

/// As [`key`], with a customer's layer.
fn layered(byte: u8, scope: &str, version: u32) -> DataKeyRow {
    let layer =
        CustomerLayer { root: "vault://theirs/transit/k".into(), wrapped: vec![byte, 1], sealed: vec![2, byte] };
    DataKeyRow { customer: Some(layer), ..key(byte, scope, version) }
}

fn state(epoch: u64) -> SignedState {
    SignedState { ring: "ring".into(), epoch, document: format!("{epoch}").into_bytes(), signature: vec![7; 64] }
}

async fn a_root_key_has_one_id_for_ever(catalog: Tried) {
    let first = RootKey::new(id(1), "aws-kms://eu/alias/a");
    let second = RootKey::new(id(2), first.uri.clone());
    let made = catalog.ensure_root(&first).await.unwrap();
    assert_eq!((made.id, &made.uri), (first.id, &first.uri));
    assert_eq!(catalog.ensure_root(&second).await.unwrap(), made);
    assert!(made.about.created_ms.is_some());
    assert_eq!(catalog.roots().await.unwrap(), [made]);
}

async fn what_is_known_of_a_root_key_comes_back_and_is_replaced(catalog: Tried) {
    let root = catalog.ensure_root(&RootKey::new(id(1), "aws-kms://eu/alias/a")).await.unwrap();
    let about = RootAbout {
        alias: Some("orders".into()),
        description: Some("of the shop".into()),
        resolved: Some("arn:aws:kms:eu:1:key/2".into()),
        service_state: Some("enabled".into()),
        version: Some(3),
        created_ms: Some(1),
        described_ms: Some(1_700_000_000_123),
        rotated_ms: Some(1_700_000_000_000),
    };
    catalog.describe_root(&root.uri, &about).await.unwrap();
    let kept = RootAbout { created_ms: root.about.created_ms, ..about };
    assert_eq!(catalog.roots().await.unwrap(), [RootKey { about: kept, ..root.clone() }]);
    catalog.describe_root(&root.uri, &RootAbout::default()).await.unwrap();
    assert_eq!(catalog.roots().await.unwrap(), std::slice::from_ref(&root));
    catalog.describe_root("local:other", &RootAbout::default()).await.unwrap();
    assert_eq!(catalog.roots().await.unwrap(), [root], "nothing was made");
}

async fn a_root_key_gets_its_former_id_back_and_keeps_the_one_it_had_since(catalog: Tried) {
    let made = catalog.restore_root("local:a", id(1)).await.unwrap();
    assert_eq!((made.id, made.other_ids), (id(1), vec![]), "there was no record");
    catalog.ensure_root(&RootKey::new(id(2), "local:b")).await.unwrap();
    for _ in 0..2 {
        let restored = catalog.restore_root("local:b", id(3)).await.unwrap();
        assert_eq!((restored.id, restored.other_ids), (id(3), vec![id(2)]));
    }
    let again = catalog.restore_root("local:b", id(4)).await.unwrap();
    assert_eq!((again.id, again.other_ids.clone()), (id(4), vec![id(3), id(2)]));
    assert!(catalog.roots().await.unwrap().contains(&again));
}

async fn a_data_key_comes_back_as_it_was_stored(catalog: Tried) {
    let stored = key(1, "tenant@ab", 1);
    assert!(matches!(catalog.insert_key(&stored, None).await.unwrap(), Inserted::Made));
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(stored.clone()));
    assert!(catalog.key_version("ring", Purpose::Seal, "tenant@ab", 1).await.unwrap() == Some(stored));
    assert!(catalog.key("other", id(1)).await.unwrap().is_none());
    assert!(catalog.key_version("ring", Purpose::Index, "tenant@ab", 1).await.unwrap().is_none());
    assert!(catalog.key_version("ring", Purpose::Seal, "tenant@ab", 2).await.unwrap().is_none());
}

async fn a_customers_layer_comes_back_as_it_was_stored(catalog: Tried) {
    catalog.takes_customer_layers().await.unwrap();
    catalog.publish(&state(1), None, &[]).await.unwrap();
    let (stored, plain) = (layered(1, "tenant@ab", 1), key(2, "tenant@ab", 2));
    for row in [&stored, &plain] {
        assert!(matches!(catalog.insert_key(row, None).await.unwrap(), Inserted::Made));
    }
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(stored.clone()));
    assert!(catalog.key_version("ring", Purpose::Seal, "tenant@ab", 1).await.unwrap() == Some(stored.clone()));
    assert!(catalog.keys("ring", None, 10).await.unwrap() == [stored.clone(), plain]);
    // What else may change in a row leaves it alone.
    let mut changed = stored.clone();
    changed.status = KeyStatus::Retired;
    changed.mac = vec![9; 32];
    let swap = Swap { key: changed.clone(), expected: stored.mac.clone() };
    assert!(catalog.publish(&state(2), Some(1), &[swap]).await.unwrap());
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(changed.clone()));
    let mut more = changed.clone();
    more.wraps.insert(0, Wrap { root: "aws-kms://a".into(), wrapped: vec![9] });
    assert!(catalog.add_wraps(&more, &changed.mac).await.unwrap());
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(more));
}

async fn a_customers_layer_is_replaced_with_the_wraps(catalog: Tried) {
    let (first, second, plain) = (layered(1, "tenant@ab", 1), layered(2, "tenant@cd", 1), key(3, "ring", 1));
    for row in [&first, &second, &plain] {
        catalog.insert_key(row, None).await.unwrap();
    }
    let renewed = |row: &DataKeyRow, expected: &[u8]| {
        let layer = CustomerLayer { root: "aws-kms://theirs".into(), wrapped: vec![8], sealed: vec![9, 9] };
        let key = DataKeyRow { customer: Some(layer), mac: vec![row.mac[0] + 100; 32], ..row.clone() };
        Swap { key, expected: expected.to_vec() }
    };
    let (done, late, beside) = (renewed(&first, &first.mac), renewed(&second, &[0; 32]), swap(3, 9));
    let beside = Swap { key: DataKeyRow { version: 1, ..beside.key }, expected: beside.expected };
    let swapped = catalog.swap_wraps("ring", &[done.clone(), late, beside.clone()], None).await.unwrap();
    assert_eq!(swapped, [true, false, true]);
    assert!(catalog.keys("ring", None, 9).await.unwrap() == [done.key, second, beside.key]);
}

async fn what_is_written_by_an_epoch_that_has_passed_is_not_written(catalog: Tried) {
    let row = layered(1, "tenant@ab", 1);
    let refused = catalog.insert_key(&row, Some(1)).await.err().unwrap();
    assert_eq!(refused.code(), Code::Busy, "there is no state");
    catalog.publish(&state(1), None, &[]).await.unwrap();
    assert!(matches!(catalog.insert_key(&row, Some(1)).await.unwrap(), Inserted::Made));
    catalog.publish(&state(2), Some(1), &[]).await.unwrap();
    let other = layered(2, "tenant@cd", 1);
    assert_eq!(catalog.insert_key(&other, Some(1)).await.err().unwrap().code(), Code::Busy);
    let swap = Swap { key: DataKeyRow { mac: vec![9; 32], ..row.clone() }, expected: row.mac.clone() };
    let refused = catalog.swap_wraps("ring", std::slice::from_ref(&swap), Some(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Busy);
    assert!(catalog.keys("ring", None, 9).await.unwrap() == [row], "nothing was written");
    assert_eq!(catalog.swap_wraps("ring", &[swap], Some(2)).await.unwrap(), [true]);
    assert!(matches!(catalog.insert_key(&other, Some(2)).await.unwrap(), Inserted::Made));
}

async fn the_second_maker_of_a_version_gets_the_first_ones_key(catalog: Tried) {
    catalog.insert_key(&key(1, "ring", 1), None).await.unwrap();
    match catalog.insert_key(&key(2, "ring", 1), None).await.unwrap() {
        Inserted::Exists(row) => assert!(row == key(1, "ring", 1)),
        Inserted::Made => panic!("two keys of one version"),
    }
    assert!(catalog.key("ring", id(2)).await.unwrap().is_none());
    assert!(matches!(catalog.insert_key(&key(2, "ring", 2), None).await.unwrap(), Inserted::Made));
    assert!(matches!(catalog.insert_key(&key(3, "record", 1), None).await.unwrap(), Inserted::Made));
}

async fn of_concurrent_makers_one_wins(catalog: Tried) {
    let makers = (1..=20).map(|byte| {
        let catalog = Arc::clone(&catalog);
        tokio::spawn(async move {
            match catalog.insert_key(&key(byte, "ring", 1), None).await.unwrap() {
                Inserted::Made => (true, id(byte)),
                Inserted::Exists(row) => (false, row.id),
            }
        })
    });
    let outcomes = futures_util::future::join_all(makers).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(outcomes.iter().filter(|(made, _)| *made).count(), 1);
    assert!(outcomes.iter().all(|(_, id)| *id == outcomes[0].1));
}

async fn keys_are_listed_in_pages(catalog: Tried) {
    for byte in 1..=5 {
        catalog.insert_key(&key(byte, "ring", u32::from(byte)), None).await.unwrap();
    }
    let ids = |rows: Vec<DataKeyRow>| rows.iter().map(|k| k.id).collect::<Vec<_>>();
    assert_eq!(ids(catalog.keys("ring", None, 2).await.unwrap()), [id(1), id(2)]);
    assert_eq!(ids(catalog.keys("ring", Some(id(2)), 2).await.unwrap()), [id(3), id(4)]);
    assert_eq!(ids(catalog.keys("ring", Some(id(4)), 2).await.unwrap()), [id(5)]);
    assert!(catalog.keys("other", None, 2).await.unwrap().is_empty());
}

async fn many_keys_are_found_at_once_and_what_is_not_there_is_left_out(catalog: Tried) {
    let sorted = |mut rows: Vec<DataKeyRow>| {
        rows.sort_by_key(|row| row.id);
        rows
    };
    for row in [key(1, "tenant@a", 1), key(2, "tenant@b", 1), key(3, "tenant@b", 2)] {
        catalog.insert_key(&row, None).await.unwrap();
    }
    let named = catalog.keys_named("ring", &[id(3), id(9), id(1)]).await.unwrap();
    assert!(sorted(named) == [key(1, "tenant@a", 1), key(3, "tenant@b", 2)]);
    assert!(catalog.keys_named("other", &[id(1)]).await.unwrap().is_empty());
    assert!(catalog.keys_named("ring", &[]).await.unwrap().is_empty());

    let wanted = [("tenant@b".to_owned(), 1), ("tenant@a".to_owned(), 2), ("tenant@a".to_owned(), 1)];
    let found = catalog.key_versions("ring", Purpose::Seal, &wanted).await.unwrap();
    assert!(sorted(found) == [key(1, "tenant@a", 1), key(2, "tenant@b", 1)]);
    assert!(catalog.key_versions("ring", Purpose::Index, &wanted).await.unwrap().is_empty());
}

async fn a_state_is_replaced_only_by_one_who_saw_it(catalog: Tried) {
    assert!(catalog.states().await.unwrap().is_empty());
    assert!(!catalog.publish(&state(2), Some(1), &[]).await.unwrap(), "there is nothing to build upon");
    assert!(catalog.publish(&state(1), None, &[]).await.unwrap());
    assert!(!catalog.publish(&state(1), None, &[]).await.unwrap(), "there is one already");
    assert!(catalog.publish(&state(2), Some(1), &[]).await.unwrap());
    assert!(!catalog.publish(&state(3), Some(1), &[]).await.unwrap(), "somebody else published");
    assert_eq!(catalog.states().await.unwrap(), [state(2)]);
}

async fn of_concurrent_publications_one_wins(catalog: Tried) {
    catalog.publish(&state(1), None, &[]).await.unwrap();
    let publishers = (0..20).map(|_| {
        let catalog = Arc::clone(&catalog);
        tokio::spawn(async move { catalog.publish(&state(2), Some(1), &[]).await.unwrap() })
    });
    let won = futures_util::future::join_all(publishers).await.into_iter().filter(|r| *r.as_ref().unwrap()).count();
    assert_eq!(won, 1);
}

async fn a_publication_changes_keys_with_the_state_or_not_at_all(catalog: Tried) {
    catalog.publish(&state(1), None, &[]).await.unwrap();
    catalog.insert_key(&key(1, "ring", 1), None).await.unwrap();
    let mut changed = key(1, "ring", 1);
    changed.status = KeyStatus::Retired;
    changed.mac = vec![9; 32];
    let swap = |expected: &[u8]| [Swap { key: changed.clone(), expected: expected.to_vec() }];
    let seen = key(1, "ring", 1).mac;
    assert!(!catalog.publish(&state(3), Some(2), &swap(&seen)).await.unwrap());
    assert!(!catalog.publish(&state(2), Some(1), &swap(b"of a row before a rewrap")).await.unwrap());
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(key(1, "ring", 1)), "lost, so nothing was written");
    assert_eq!(catalog.states().await.unwrap()[0].epoch, 1, "neither time");
    assert!(catalog.publish(&state(2), Some(1), &swap(&seen)).await.unwrap());
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(changed));
}

async fn wraps_are_added_only_to_the_row_that_was_seen(catalog: Tried) {
    let stored = key(1, "ring", 1);
    catalog.insert_key(&stored, None).await.unwrap();
    catalog.insert_key(&key(2, "ring", 2), None).await.unwrap();
    let mut more = stored.clone();
    more.wraps.insert(0, Wrap { root: "aws-kms://a".into(), wrapped: vec![9] });
    more.mac = vec![9; 32];
    assert!(!catalog.add_wraps(&more, &[8; 32]).await.unwrap(), "somebody changed it");
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(stored.clone()));
    assert!(catalog.add_wraps(&more, &stored.mac).await.unwrap());
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(more.clone()));
    assert!(!catalog.add_wraps(&more, &stored.mac).await.unwrap(), "once is enough");
    assert!(catalog.key("ring", id(2)).await.unwrap() == Some(key(2, "ring", 2)));
}

fn swap(byte: u8, by: u8) -> Swap {
    let before = key(byte, "ring", u32::from(byte));
    let wraps =
        vec![Wrap { root: "local:a_".into(), wrapped: vec![by] }, Wrap { root: "vault://n".into(), wrapped: vec![by] }];
    Swap { key: DataKeyRow { wraps, mac: vec![by; 32], ..before.clone() }, expected: before.mac }
}

async fn wraps_are_replaced_only_in_rows_that_were_seen(catalog: Tried) {
    for byte in 1..=3 {
        catalog.insert_key(&key(byte, "ring", u32::from(byte)), None).await.unwrap();
    }
    let (done, mut late, gone) = (swap(3, 9), swap(1, 9), swap(4, 9));
    late.expected = vec![8; 32];
    let swapped = catalog.swap_wraps("ring", &[done.clone(), late, gone], None).await.unwrap();
    assert_eq!(swapped, [true, false, false]);
    assert!(catalog.keys("ring", None, 9).await.unwrap() == [key(1, "ring", 1), key(2, "ring", 2), done.key.clone()]);
    assert_eq!(catalog.swap_wraps("ring", std::slice::from_ref(&done), None).await.unwrap(), [false], "once is enough");
    assert_eq!(catalog.swap_wraps("other", &[swap(1, 9)], None).await.unwrap(), [false]);
    assert!(catalog.swap_wraps("ring", &[], None).await.unwrap().is_empty());
}

async fn of_two_who_replace_the_same_wraps_each_row_takes_one(catalog: Tried) {
    for byte in 1..=50 {
        catalog.insert_key(&key(byte, "ring", u32::from(byte)), None).await.unwrap();
    }
    let one = |by: u8, backwards: bool| {
        let catalog = Arc::clone(&catalog);
        let mut swaps: Vec<_> = (1..=50).map(|byte| swap(byte, by)).collect();
        if backwards {
            swaps.reverse();
        }
        tokio::spawn(async move {
            let swapped = catalog.swap_wraps("ring", &swaps, None).await.unwrap();
            swapped.into_iter().filter(|swapped| *swapped).count()
        })
    };
    let (a, b) = (one(101, false), one(102, true));
    assert_eq!(a.await.unwrap() + b.await.unwrap(), 50);
    for row in catalog.keys("ring", None, 100).await.unwrap() {
        assert!(row.wraps.len() == 2 && row.wraps.iter().all(|wrap| wrap.wrapped == row.mac[..1]), "{}", row.id);
    }
}

async fn an_application_is_there_once_for_each_instance(catalog: Tried) {
    let application = |instance: &str, version: &str, last_seen_ms| Application {
        name: "shop".into(),
        version: version.into(),
        instance: instance.into(),
        columns: vec!["public.users.email".into(), "public.users.na me".into()],
        ready: Mode::Kms,
        last_seen_ms,
    };
    for a in [application("a", "1", 10), application("b", "1", 20), application("a", "2", 30)] {
        catalog.register(&a).await.unwrap();
    }
    assert_eq!(catalog.applications(0).await.unwrap(), [application("a", "2", 30), application("b", "1", 20)]);
    assert_eq!(catalog.applications(25).await.unwrap(), [application("a", "2", 30)]);
}

async fn the_last_word_of_a_process_counts_as_long_as_it_holds(catalog: Tried) {
    let minute = Duration::from_secs(60);
    let word = |ring: &str, process: &str, epoch, holds| Acknowledgement {
        ring: ring.into(),
        process: process.into(),
        application: (process == "a").then(|| "shop 2".into()),
        epoch,
        holds,
    };
    let nothing = Duration::ZERO;
    for said in [
        word("r", "a", 3, minute),
        word("r", "b", 4, minute),
        word("r", "gone", 1, nothing),
        word("other", "a", 9, minute),
        word("r", "a", 5, minute),
    ] {
        catalog.acknowledge(&said).await.unwrap();
    }
    // A moment that is not over has not passed by every clock.
    let held = loop {
        let held = catalog.acknowledgements("r").await.unwrap();
        if held.len() < 3 {
            break held;
        }
        tokio::task::yield_now().await;
    };
    assert!(held.iter().all(|word| word.holds <= minute && word.holds > minute / 2));
    let held: Vec<_> = held.into_iter().map(|held| Acknowledgement { holds: minute, ..held }).collect();
    assert_eq!(held, [word("r", "b", 4, minute), word("r", "a", 5, minute)]);
    assert!(catalog.acknowledgements("none").await.unwrap().is_empty());
}

const HOLDING: Holding = Holding { held: Duration::from_secs(60), kept: Duration::from_secs(3_600) };

async fn a_named_request_is_begun_by_one_and_answered_ever_after(catalog: Tried) {
    let request = NamedRequest::new("ops", "yearly", &[b"rotate"]);
    let begun = futures_util::future::join_all((0..8).map(|_| catalog.begin_request(&request, HOLDING))).await;
    let begun: Vec<Begun> = begun.into_iter().map(Result::unwrap).collect();
    assert_eq!(begun.iter().filter(|one| **one == Begun::ToDo { intent: None }).count(), 1, "{begun:?}");
    let running = |one: &&Begun| matches!(one, Begun::Running(left) if *left <= HOLDING.held);
    assert_eq!(begun.iter().filter(running).count(), 7, "{begun:?}");
    let other = NamedRequest::new("ops", "yearly", &[b"cancel"]);
    assert_eq!(catalog.begin_request(&other, HOLDING).await.unwrap(), Begun::Another);
    let others = NamedRequest::new("somebody else", "yearly", &[b"rotate"]);
    assert_eq!(catalog.begin_request(&others, HOLDING).await.unwrap(), Begun::ToDo { intent: None });

    catalog.end_request(&request.id, Some("done")).await.unwrap();
    catalog.end_request(&request.id, Some("done twice")).await.unwrap();
    catalog.end_request(&request.id, None).await.unwrap();
    catalog.intend_request(&request.id, "too late").await.unwrap();
    let answered = Begun::Answered("done".to_owned());
    assert_eq!(catalog.begin_request(&request, HOLDING).await.unwrap(), answered, "the first answer stays");
    assert_eq!(catalog.begin_request(&other, HOLDING).await.unwrap(), Begun::Another);
}

async fn a_named_request_that_nobody_holds_is_begun_again_with_what_it_was_about_to_do(catalog: Tried) {
    let request = NamedRequest::new("ops", "yearly", &[b"rotate"]);
    let died = Holding { held: Duration::ZERO, ..HOLDING };
    assert_eq!(catalog.begin_request(&request, died).await.unwrap(), Begun::ToDo { intent: None });
    catalog.intend_request(&request.id, "from version 1").await.unwrap();
    let intent = Some("from version 1".to_owned());
    assert_eq!(catalog.begin_request(&request, HOLDING).await.unwrap(), Begun::ToDo { intent: intent.clone() });
    assert!(matches!(catalog.begin_request(&request, HOLDING).await.unwrap(), Begun::Running(_)));
    catalog.end_request(&request.id, None).await.unwrap();
    assert_eq!(catalog.begin_request(&request, HOLDING).await.unwrap(), Begun::ToDo { intent });

    let forgotten = NamedRequest::new("ops", "daily", &[b"rotate"]);
    let short = Holding { kept: Duration::ZERO, ..HOLDING };
    catalog.begin_request(&forgotten, short).await.unwrap();
    catalog.intend_request(&forgotten.id, "from version 1").await.unwrap();
    let anew = catalog.begin_request(&forgotten, HOLDING).await.unwrap();
    assert_eq!(anew, Begun::ToDo { intent: None }, "its time is over");
}

async fn an_access_list_is_replaced_only_by_one_who_saw_it(catalog: Tried) {
    let list = |epoch: u64, by: u8| SignedAccess { epoch, document: vec![by, 0, 255], signature: vec![by; 64] };
    assert_eq!(catalog.access_list().await.unwrap(), None);
    assert!(!catalog.publish_access_list(&list(2, 1), Some(1)).await.unwrap(), "there is none to replace");
    assert!(catalog.publish_access_list(&list(1, 1), None).await.unwrap());
    assert!(!catalog.publish_access_list(&list(1, 2), None).await.unwrap(), "there is one already");
    assert_eq!(catalog.access_list().await.unwrap(), Some(list(1, 1)));
    assert!(catalog.publish_access_list(&list(2, 3), Some(1)).await.unwrap());
    assert!(!catalog.publish_access_list(&list(2, 4), Some(1)).await.unwrap(), "somebody was quicker");
    assert_eq!(catalog.access_list().await.unwrap(), Some(list(2, 3)));
}

async fn an_emergency_is_changed_only_by_one_who_saw_it(catalog: Tried) {
    let stored = |id: &str, revision: u64, at_ms: i64| StoredEmergency {
        id: id.to_owned(),
        revision,
        at_ms,
        document: vec![u8::try_from(revision).unwrap(), 0, 255],
        mac: vec![7; 32],
    };
    assert_eq!(catalog.emergency("a").await.unwrap(), None);
    assert!(!catalog.put_emergency(&stored("a", 2, 1), Some(1)).await.unwrap(), "there is none to replace");
    assert!(catalog.put_emergency(&stored("a", 1, 1), None).await.unwrap());
    assert!(!catalog.put_emergency(&stored("a", 1, 5), None).await.unwrap(), "there is one already");
    assert!(catalog.put_emergency(&stored("a", 2, 1), Some(1)).await.unwrap());
    assert!(!catalog.put_emergency(&stored("a", 2, 1), Some(1)).await.unwrap(), "somebody was quicker");
    assert!(catalog.put_emergency(&stored("b", 1, 2), None).await.unwrap());
    assert_eq!(catalog.emergency("a").await.unwrap(), Some(stored("a", 2, 1)));
    assert_eq!(catalog.emergencies(5).await.unwrap(), [stored("b", 1, 2), stored("a", 2, 1)]);
    assert_eq!(catalog.emergencies(1).await.unwrap(), [stored("b", 1, 2)]);
}

async fn the_first_certificate_of_a_destruction_stays(catalog: Tried) {
    assert_eq!(catalog.certificate("r", "ring").await.unwrap(), None);
    catalog.keep_certificate("r", "ring", "{\"a\": 'b'}").await.unwrap();
    catalog.keep_certificate("r", "ring", "another").await.unwrap();
    catalog.keep_certificate("r", "other", "of a tenant").await.unwrap();
    assert_eq!(catalog.certificate("r", "ring").await.unwrap().as_deref(), Some("{\"a\": 'b'}"));
    assert_eq!(catalog.certificate("r", "other").await.unwrap().as_deref(), Some("of a tenant"));
}

async fn a_data_key_can_lose_every_wrap(catalog: Tried) {
    let stored = key(1, "ring", 1);
    catalog.insert_key(&stored, None).await.unwrap();
    catalog.insert_key(&key(2, "ring", 2), None).await.unwrap();
    let bare = DataKeyRow { wraps: Vec::new(), mac: vec![9; 32], ..stored.clone() };
    let swaps = [Swap { key: bare.clone(), expected: stored.mac }];
    assert_eq!(catalog.swap_wraps("ring", &swaps, None).await.unwrap(), [true]);
    assert!(catalog.keys("ring", None, 9).await.unwrap() == [bare, key(2, "ring", 2)]);
}

async fn migrating_again_changes_nothing(catalog: Tried) {
    catalog.insert_key(&key(1, "ring", 1), None).await.unwrap();
    catalog.migrate().await.unwrap();
    catalog.check().await.unwrap();
    assert!(catalog.key("ring", id(1)).await.unwrap().is_some());
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_catalog_without_tables_and_one_of_a_newer_program_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let catalog = super::SqliteCatalog::create(&path).unwrap();
    assert_eq!(catalog.check().await.unwrap_err().code(), Code::CatalogVersion);
    catalog.migrate().await.unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute(
            "INSERT INTO enfold_migrations (series, version, name, checksum) VALUES ('catalog', 99, 'x', x'00')",
            [],
        )
        .unwrap();
    assert_eq!(catalog.check().await.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!(catalog.migrate().await.unwrap_err().code(), Code::CatalogVersion);
}

/// What a program owes to a catalog that was made by the one before it: everything but what is new.
async fn on_the_earlier_schema(catalog: &dyn Catalog) {
    catalog.check().await.unwrap();
    catalog.insert_key(&key(1, "ring", 1), None).await.unwrap();
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(key(1, "ring", 1)));
    assert!(catalog.key_version("ring", Purpose::Seal, "ring", 1).await.unwrap() == Some(key(1, "ring", 1)));
    assert!(catalog.keys("ring", None, 10).await.unwrap() == [key(1, "ring", 1)]);
    let refused = catalog.insert_key(&layered(2, "tenant@ab", 1), None).await.err().unwrap();
    assert_eq!(refused.code(), Code::CatalogVersion);
    assert_eq!(catalog.takes_customer_layers().await.unwrap_err().code(), Code::CatalogVersion);
    let root = RootKey::new(id(3), "local:a");
    assert_eq!(catalog.ensure_root(&root).await.unwrap(), root);
    assert_eq!(catalog.roots().await.unwrap(), [root]);
    let described = catalog.describe_root("local:a", &RootAbout::default()).await;
    assert_eq!(described.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!(catalog.restore_root("local:a", id(4)).await.unwrap_err().code(), Code::CatalogVersion);
    let word = Acknowledgement {
        ring: "ring".into(),
        process: "p".into(),
        application: None,
        epoch: 1,
        holds: Duration::from_secs(60),
    };
    assert_eq!(catalog.acknowledge(&word).await.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!(catalog.acknowledgements("ring").await.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!(catalog.keep_certificate("ring", "ring", "").await.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!(catalog.certificate("ring", "ring").await.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!(catalog.access_list().await.unwrap(), None, "nobody was ever let in");
    let list = SignedAccess { epoch: 1, document: Vec::new(), signature: Vec::new() };
    assert_eq!(catalog.publish_access_list(&list, None).await.unwrap_err().code(), Code::CatalogVersion);
    let emergency =
        StoredEmergency { id: "a".to_owned(), revision: 1, at_ms: 1, document: Vec::new(), mac: Vec::new() };
    assert_eq!(catalog.put_emergency(&emergency, None).await.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!((catalog.emergency("a").await.unwrap(), catalog.emergencies(1).await.unwrap()), (None, Vec::new()));
    let begun = catalog.begin_request(&NamedRequest::new("a", "n", &[]), HOLDING).await;
    assert_eq!(begun.unwrap_err().code(), Code::CatalogVersion);
    assert_eq!(catalog.swap_wraps("ring", &[swap(1, 1)], None).await.unwrap(), [true]);
    catalog.swap_wraps("ring", &[Swap { key: key(1, "ring", 1), expected: vec![1; 32] }], None).await.unwrap();
    assert!(catalog.key("ring", id(2)).await.unwrap().is_none(), "nothing was written");
}

/// And what it finds when another process has brought the schema up to date meanwhile.
async fn on_the_newer_one(catalog: &dyn Catalog) {
    assert!(catalog.key("ring", id(1)).await.unwrap() == Some(key(1, "ring", 1)));
    catalog.insert_key(&layered(2, "tenant@ab", 1), None).await.unwrap();
    assert!(catalog.key("ring", id(2)).await.unwrap() == Some(layered(2, "tenant@ab", 1)));
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn new_code_runs_with_the_previous_schema_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let mut connection = rusqlite::Connection::open(&path).unwrap();
    let earlier = &super::sqlite::MIGRATIONS[..1];
    crate::db::migrations::sqlite::migrate(&mut connection, super::sqlite::SERIES, earlier).unwrap();
    let catalog = super::SqliteCatalog::open(&path).unwrap();
    on_the_earlier_schema(&catalog).await;
    super::SqliteCatalog::open(&path).unwrap().migrate().await.unwrap();
    on_the_newer_one(&catalog).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn new_code_runs_with_the_previous_schema_on_postgres() {
    let database = enfold_testkit::postgres::Database::create().await;
    let endpoint = || crate::db::postgres::Endpoint::parse_text(&database.url()).unwrap();
    let mut client = endpoint().connect().await.unwrap();
    let earlier = &super::postgres::MIGRATIONS[..1];
    crate::db::migrations::postgres::migrate(&mut client, super::postgres::SERIES, earlier).await.unwrap();
    let catalog = super::PostgresCatalog::connect(endpoint()).await.unwrap();
    on_the_earlier_schema(&catalog).await;
    super::PostgresCatalog::connect(endpoint()).await.unwrap().migrate().await.unwrap();
    on_the_newer_one(&catalog).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_connection_that_was_cut_is_made_again() {
    let database = enfold_testkit::postgres::Database::create().await;
    let endpoint = crate::db::postgres::Endpoint::parse_text(&database.url()).unwrap();
    let catalog = super::PostgresCatalog::connect(endpoint).await.unwrap();
    catalog.migrate().await.unwrap();
    let killer = database.connect().await;
    killer
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
    // The first call after the cut may find the old connection; the one after that must not.
    if let Err(error) = catalog.states().await {
        assert_eq!(error.code(), Code::DatabaseUnavailable);
    }
    catalog.states().await.unwrap();
}

/// Every start enters its root keys: for one that only reads they are there already.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_role_that_may_only_read_finds_the_root_keys_that_are_there() {
    let database = enfold_testkit::postgres::Database::create().await;
    let endpoint = crate::db::postgres::Endpoint::parse_text(&database.url()).unwrap();
    let catalog = super::PostgresCatalog::connect(endpoint).await.unwrap();
    catalog.migrate().await.unwrap();
    let root = RootKey::new(KeyId::from_bytes([1; 16]), "local:a");
    catalog.ensure_root(&root).await.unwrap();
    let admin = database.connect().await;
    let name: String = admin.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    let role = format!("{name}_reader");
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA enfold TO {role}; \
         GRANT SELECT ON ALL TABLES IN SCHEMA enfold TO {role}"
    );
    admin.batch_execute(&grants).await.unwrap();
    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    let reader = super::PostgresCatalog::connect(crate::db::postgres::Endpoint::parse_text(&url).unwrap()).await;
    let reader = reader.unwrap();
    let found = reader.ensure_root(&root).await;
    let new = RootKey::new(KeyId::from_bytes([2; 16]), "local:b");
    let refused = reader.ensure_root(&new).await;
    admin.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    assert_eq!(found.unwrap().id, root.id);
    assert_eq!(refused.unwrap_err().code(), Code::DatabaseDenied);
}

/// Whoever signs something away and then counts has counted everything: with connections of their own.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn nothing_that_was_written_by_an_epoch_comes_after_the_next() {
    let database = enfold_testkit::postgres::Database::create().await;
    let connect = async || {
        let endpoint = crate::db::postgres::Endpoint::parse_text(&database.url()).unwrap();
        super::PostgresCatalog::connect(endpoint).await.unwrap()
    };
    let catalog = connect().await;
    catalog.migrate().await.unwrap();
    catalog.publish(&state(1), None, &[]).await.unwrap();
    let mut makers = Vec::new();
    for maker in 0..8 {
        let catalog = connect().await;
        makers.push(tokio::spawn(async move {
            let mut made = 0;
            for n in 1..=20 {
                let row = layered(maker * 20 + n, &format!("tenant@{maker}"), u32::from(n));
                match catalog.insert_key(&row, Some(1)).await {
                    Ok(_) => made += 1,
                    Err(error) => assert_eq!(error.code(), Code::Busy),
                }
            }
            made
        }));
    }
    while catalog.keys("ring", None, 200).await.unwrap().len() < 8 {
        tokio::task::yield_now().await;
    }
    assert!(catalog.publish(&state(2), Some(1), &[]).await.unwrap());
    let counted = catalog.keys("ring", None, 200).await.unwrap().len();
    let mut made = 0;
    for maker in makers {
        made += maker.await.unwrap();
    }
    assert_eq!((made, catalog.keys("ring", None, 200).await.unwrap().len()), (counted, counted));
}
