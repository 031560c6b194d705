//! The log of events on real databases: signed, changed behind everybody's back, and found out.

#[path = "../common/mod.rs"]
mod common;
mod kinds;
mod place;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{World, code, open, seal, set_mode, who};
use enfold::catalog::EventQuery;
use enfold::events::{CallContext, Entry, EventKind, LogKey, Report, Signer, Sink, Verifier, What};
use enfold::policy::{Mode, format_operator_key};
use enfold::{Code, Enfold, Error, Form, OpenRequest, PayloadType, Place, Result};
use place::Stored;

/// The tests that are run on both databases.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $( #[tokio::test] async fn $name() { super::$name(super::place::sqlite().await).await; } )*
        }
        mod postgres {
            $( #[tokio::test] async fn $name() {
                let database = enfold_testkit::postgres::Database::create().await;
                super::$name(super::place::postgres(&database).await).await;
            } )*
        }
    };
}

#[cfg(feature = "vault")]
mod kms;
mod prune;

on_both! {
    a_log_that_nobody_touched_is_whole_and_signed
    what_somebody_did_to_the_log_is_named
    what_was_changed_before_it_was_signed_is_not_signed
    of_two_who_sign_at_once_the_checkpoints_are_one_chain
    checkpoints_of_a_key_that_is_not_trusted_are_not_built_upon
    a_data_subjects_events_are_found_by_its_tag_alone
}

/// A process that writes events into the catalog, and the column that it uses.
async fn process(place: &Stored, more: &str) -> Enfold {
    let text = format!("{}\n[events]\ncatalog = true\n{more}", common::POLICY);
    let process = place.world.builder_for(place.world.policy(&text)).prepare().build().await.unwrap();
    if process.column("notes.title").unwrap().mode().await.unwrap() == Mode::Legacy {
        set_mode(&process, "notes.title", Mode::Hybrid).await;
    }
    process
}

/// Seals `calls` values, one event each.
async fn work(process: &Enfold, calls: usize) {
    let title = process.column("notes.title").unwrap();
    for n in 0..calls {
        let context = CallContext { request_id: Some(format!("r-{n}")), ..who() };
        title.seal(&context, &Place::none(), Form::Text, PayloadType::Text, b"a title").await.unwrap();
    }
    process.flush().await.unwrap();
}

fn key(place: &Stored) -> LogKey {
    LogKey::init(&place.world.dir.path().join("log.key")).unwrap()
}

fn trusting(key: &LogKey) -> String {
    format!("log_keys = [\"{}\"]", format_operator_key(&key.public_key()))
}

async fn verified(process: &Enfold) -> Report {
    process.flush().await.unwrap();
    process.verify_log(Vec::new()).await.unwrap()
}

async fn a_log_that_nobody_touched_is_whole_and_signed(place: Stored) {
    let key = key(&place);
    let (first, second) = (process(&place, &trusting(&key)).await, process(&place, &trusting(&key)).await);
    work(&first, 5).await;
    let one = first.sign_log(&key).await.unwrap().unwrap();
    work(&second, 5).await;
    work(&first, 5).await;
    let two = second.sign_log(&key).await.unwrap().unwrap();
    assert!(second.sign_log(&key).await.unwrap().is_none(), "nothing was added");
    assert_eq!((one.number, two.number), (1, 2));
    let report = verified(&first).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.writers, report.checkpoints), (2, 2));
    assert!(report.entries >= 15);
    assert_eq!(report.signed, report.entries);
}

async fn what_somebody_did_to_the_log_is_named(place: Stored) {
    let key = key(&place);
    let process = process(&place, &trusting(&key)).await;
    work(&process, 8).await;
    process.sign_log(&key).await.unwrap().unwrap();
    let events = place.events;
    let change = format!("UPDATE {events} SET event = replace(event, 'a test', 'a joke') WHERE seq = 4");
    let remove = format!("DELETE FROM {events} WHERE seq BETWEEN 3 AND 4");
    let cut_off = format!("DELETE FROM {events} WHERE seq > 5");
    let exchange = format!(
        "UPDATE {events} SET seq = 1000 WHERE seq = 3; UPDATE {events} SET seq = 3 WHERE seq = 4;
         UPDATE {events} SET seq = 4 WHERE seq = 1000"
    );
    let insert = format!(
        "INSERT INTO {events} (at_ms, event, writer, seq) SELECT at_ms, replace(event, 'a test', 'a joke'), writer, 1000
         FROM {events} WHERE seq = 4"
    );
    let last = verified(&process).await.entries;
    for (what, sql) in [
        (What::Changed, change),
        (What::Removed { until: 5 }, remove),
        (What::CutOff { signed: last }, cut_off),
        (What::Moved { expected: 3 }, exchange),
        (What::Inserted, insert),
    ] {
        place.keep().await;
        place.run(&sql).await;
        let report = verified(&process).await;
        let found = report.findings.iter().map(|finding| finding.what).collect::<Vec<_>>();
        assert_eq!(found, [what], "{sql}");
        let number = report.findings[0].number.unwrap();
        assert_eq!(
            number,
            match what {
                What::Removed { .. } => 3,
                What::CutOff { .. } => 6,
                _ => 4,
            }
        );
        place.put_back().await;
        assert!(verified(&process).await.is_whole());
    }
}

async fn what_was_changed_before_it_was_signed_is_not_signed(place: Stored) {
    let key = key(&place);
    let process = process(&place, &trusting(&key)).await;
    work(&process, 8).await;
    place.run(&format!("UPDATE {} SET event = replace(event, 'a test', 'a joke') WHERE seq = 4", place.events)).await;
    process.sign_log(&key).await.unwrap().unwrap();
    let report = verified(&process).await;
    assert_eq!(report.findings[0].what, What::Changed);
    assert!(report.signed <= 4, "{report:?}");
    let said = process.catalog().events(&EventQuery::newest(1)).await.unwrap();
    assert_eq!(said[0].kind, EventKind::LogBroken);
}

async fn of_two_who_sign_at_once_the_checkpoints_are_one_chain(place: Stored) {
    let key = key(&place);
    let (first, second) = (process(&place, &trusting(&key)).await, process(&place, &trusting(&key)).await);
    for _ in 0..5 {
        work(&first, 1).await;
        work(&second, 1).await;
        let (one, two) = tokio::join!(first.sign_log(&key), second.sign_log(&key));
        assert!(one.unwrap().is_some() || two.unwrap().is_some());
    }
    let report = verified(&first).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.signed, report.entries);
}

async fn checkpoints_of_a_key_that_is_not_trusted_are_not_built_upon(place: Stored) {
    let key = key(&place);
    let stranger = LogKey::init(&place.world.dir.path().join("stranger.key")).unwrap();
    let process = process(&place, &trusting(&key)).await;
    work(&process, 1).await;
    process.sign_log(&stranger).await.unwrap().unwrap();
    work(&process, 1).await;
    let other = self::process(&place, &trusting(&key)).await;
    assert_eq!(code(other.sign_log(&key).await), Code::LogTampered);
    assert_eq!(verified(&other).await.findings[0].what, What::CheckpointNotSigned);
}

async fn a_data_subjects_events_are_found_by_its_tag_alone(place: Stored) {
    let process = process(&place, "").await;
    let title = process.column("notes.title").unwrap();
    let tag = process.subject_tag("columns", "user 4711").await.unwrap();
    let about = CallContext { subject: Some(tag.clone()), ..who() };
    title.seal(&about, &Place::none(), Form::Text, PayloadType::Text, b"a title").await.unwrap();
    work(&process, 1).await;
    let events = process.catalog().events(&EventQuery::newest(100)).await.unwrap();
    let found = events.iter().filter(|event| event.subject.as_ref() == Some(&tag)).count();
    assert_eq!(found, 1);
    assert!(events.iter().all(|event| !event.to_json().contains("4711")));
    assert_ne!(process.subject_tag("main", "user 4711").await.unwrap(), tag, "each ring has tags of its own");
    assert_eq!(process.subject_tag("columns", "user 4711").await.unwrap(), tag);
}

/// A sink that can be out of order.
#[derive(Default)]
struct Breakable(AtomicBool);

#[async_trait::async_trait]
impl Sink for Breakable {
    async fn write(&self, _: &[Entry]) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::new(Code::FileFailed, "out of order")) } else { Ok(()) }
    }
}

#[tokio::test]
async fn nobody_has_a_value_whose_event_cannot_be_written_where_the_policy_says_so() {
    let world = World::new();
    let text = format!("{}\n[events]\ncatalog = true\nbefore_answer = true\n", common::POLICY);
    let sink = Arc::new(Breakable::default());
    let build = world.builder_for(world.policy(&text)).sink(Arc::clone(&sink) as _).prepare().build();
    let process = build.await.unwrap();
    set_mode(&process, "notes.title", Mode::Hybrid).await;
    let title = process.column("notes.title").unwrap();
    let stored = seal(&title, Place::none(), "a title").await.unwrap();
    assert_eq!(open(&title, Place::none(), &stored).await.unwrap(), "a title");
    sink.0.store(true, Ordering::Relaxed);
    // The first is found near, the second goes the whole way.
    assert_eq!(code(open(&title, Place::none(), &stored).await), Code::EventsUnwritten);
    let request = OpenRequest { place: Place::none(), form: Form::Text, stored: &stored, beside: &[] };
    let opened = title.open_many(&who(), &[request, request]).await;
    assert!(opened.into_iter().all(|opened| code(opened) == Code::EventsUnwritten));
    assert_eq!(code(seal(&title, Place::none(), "a title").await), Code::EventsUnwritten);
    sink.0.store(false, Ordering::Relaxed);
    assert_eq!(open(&title, Place::none(), &stored).await.unwrap(), "a title");
    // What was asked for and not answered is in the log too.
    let opens: u64 = counts(&world, EventKind::Open).iter().sum();
    assert_eq!(opens, 1 + 1 + 2 + 1);
}

fn counts(world: &World, kind: EventKind) -> Vec<u64> {
    world.sink.0.lock().unwrap().iter().filter(|event| event.kind == kind).map(|event| event.count).collect()
}

#[tokio::test]
async fn the_policy_says_which_calls_are_written_down_and_some_are_always() {
    for (policy, expected, conversions) in [
        ("", vec![1, 1], vec![2]),
        ("opens = \"minute\"", vec![2], vec![2]),
        ("opens = \"off\"\njobs = \"off\"", vec![], vec![]),
        ("jobs = \"each\"", vec![1, 1], vec![1, 1]),
    ] {
        let world = World::new();
        let text = format!("{}\n[events]\n{policy}\n", common::POLICY);
        let process = world.builder_for(world.policy(&text)).prepare().build().await.unwrap();
        set_mode(&process, "notes.title", Mode::Hybrid).await;
        let title = process.column("notes.title").unwrap();
        let stored = seal(&title, Place::none(), "a title").await.unwrap();
        let reads = async |column: &enfold::Column, each: bool| {
            world.sink.0.lock().unwrap().clear();
            for request in ["r-1", "r-2"] {
                let context = CallContext { request_id: Some(request.to_owned()), each, ..who() };
                column.open(&context, &Place::none(), Form::Text, &stored).await.unwrap();
            }
            process.flush().await.unwrap();
            counts(&world, EventKind::Open)
        };
        assert_eq!(reads(&title, false).await, expected, "{policy}");
        assert_eq!(reads(&title.for_conversion(), false).await, conversions, "{policy}");
        assert_eq!(reads(&title, true).await, [1, 1], "{policy}");
    }
}

#[tokio::test]
async fn a_file_of_events_is_verified_as_it_is() {
    let world = World::new();
    let key = LogKey::init(&world.dir.path().join("log.key")).unwrap();
    let text = format!("{}\n[events]\ncatalog = true\nfile = \"events.jsonl\"\n", common::POLICY);
    let process = world.builder_for(world.policy(&text)).prepare().build().await.unwrap();
    set_mode(&process, "notes.title", Mode::Hybrid).await;
    work(&process, 3).await;
    process.sign_log(&key).await.unwrap().unwrap();
    work(&process, 2).await;
    let lines = std::fs::read_to_string(world.dir.path().join("events.jsonl")).unwrap();
    let by = Verifier { trusted: vec![key.public_key()], partial: true, ..Verifier::default() };
    let verify = async |lines: &str| {
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        by.verify(lines.as_slice()).await.unwrap()
    };
    let report = verify(&lines).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.writers, report.checkpoints, report.entries - report.signed), (1, 1, 2));
    let cut: Vec<&str> = lines.lines().skip(2).collect();
    assert_eq!(verify(&cut.join("\n")).await.findings[0].what, What::Removed { until: 3 });
}
