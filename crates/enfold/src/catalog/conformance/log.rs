//! What every catalog owes the log of events.

use super::*;

pub(super) async fn uses_of_a_key_are_summed_by_who_did_it_where(catalog: Tried) {
    let (key, other) = (KeyId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]));
    let event = |kind, key, actor: &str, count, at_ms| {
        let mut event = Event::new(kind, count).ring("r").column("users.email").key(key, Some(1));
        (event.actor, event.at_ms) = (Some(actor.to_owned()), at_ms);
        event
    };
    let events = [
        event(EventKind::Open, key, "ann", 2, 10),
        event(EventKind::Open, key, "bob", 7, 11),
        event(EventKind::Open, key, "ann", 3, 15),
        event(EventKind::Open, other, "ann", 100, 12),
        event(EventKind::Open, key, "ann", 50, 9),
        event(EventKind::KeyRotated, key, "ann", 1, 13),
    ];
    catalog.append_log(&chained(events)).await.unwrap();
    let used = |actor: &str, count, first_ms, last_ms| KeyUse {
        key: key.to_string(),
        kind: "open".to_owned(),
        column: Some("users.email".to_owned()),
        actor: Some(actor.to_owned()),
        source: None,
        count,
        first_ms,
        last_ms,
    };
    assert_eq!(catalog.uses(&[key], 10).await.unwrap(), [used("bob", 7, 11, 11), used("ann", 5, 10, 15)]);
    assert!(catalog.uses(&[], 0).await.unwrap().is_empty());
}

fn sealed(count: u64) -> Event {
    Event::new(EventKind::Seal, count).ring("ring").column("a.\"b\".c").key(id(1), Some(1))
}

pub(super) async fn events_come_back_newest_first(catalog: Tried) {
    let entries = chained((1..=3).map(sealed));
    catalog.append_log(&entries[..2]).await.unwrap();
    catalog.append_log(&entries[2..]).await.unwrap();
    let newest = catalog.events(&EventQuery::newest(2)).await.unwrap();
    assert_eq!(newest, [entries[2].event.clone(), entries[1].event.clone()]);
}

pub(super) async fn events_come_in_pages_in_either_order(catalog: Tried) {
    let entries = chained((1..=5).map(sealed));
    catalog.append_log(&entries).await.unwrap();
    for oldest_first in [false, true] {
        let mut page = EventPage { oldest_first, after: None };
        let mut found = Vec::new();
        loop {
            let events = catalog.event_page(&EventQuery::newest(2), page).await.unwrap();
            let Some((place, _)) = events.last() else { break };
            page.after = Some(*place);
            found.extend(events.into_iter().map(|(_, event)| event));
        }
        let mut expected: Vec<Event> = entries.iter().map(|entry| entry.event.clone()).collect();
        if !oldest_first {
            expected.reverse();
        }
        assert_eq!(found, expected);
    }
}

pub(super) async fn events_are_found_by_what_they_say(catalog: Tried) {
    let ann = CallContext { subject: Some(SubjectTag::new("5".repeat(32))), ..CallContext::new("ann", "support") };
    let at = |at_ms, event: Event| Event { at_ms, ..event };
    let entries = chained([
        at(10, sealed(1)),
        at(20, Event::new(EventKind::Open, 2).column("users.email").key(id(2), Some(1)).context(&ann)),
        at(30, Event::new(EventKind::Open, 3).column("users.email").context(&CallContext::new("bob", "it's \"odd\""))),
    ]);
    catalog.append_log(&entries).await.unwrap();
    let some = |word: &str| Some(vec!["other".to_owned(), word.to_owned()]);
    let all = EventQuery::newest(9);
    for (query, expected) in [
        (all.clone(), vec![3, 2, 1]),
        (EventQuery { since_ms: Some(20), ..all.clone() }, vec![3, 2]),
        (EventQuery { until_ms: Some(20), ..all.clone() }, vec![1]),
        (EventQuery { kinds: some("open"), ..all.clone() }, vec![3, 2]),
        (EventQuery { keys: some(&id(2).to_string()), ..all.clone() }, vec![2]),
        (EventQuery { subjects: some(&"5".repeat(32)), ..all.clone() }, vec![2]),
        (EventQuery { column: Some("users.email".into()), ..all.clone() }, vec![3, 2]),
        (EventQuery { actor: Some("bob".into()), ..all.clone() }, vec![3]),
        (EventQuery { keys: Some(Vec::new()), ..all.clone() }, vec![]),
        (EventQuery { kinds: some("open"), limit: 1, ..all.clone() }, vec![3]),
    ] {
        let found = catalog.events(&query).await.unwrap();
        assert_eq!(found.iter().map(|event| event.count).collect::<Vec<_>>(), expected, "{query:?}");
        assert!(found.iter().all(|event| query.takes(event)));
    }
}

pub(super) async fn an_entry_of_the_log_is_there_once_and_as_it_was_written(catalog: Tried) {
    let (first, second) = (chained((1..=5).map(sealed)), chained((1..=2).map(sealed)));
    let lines = |entries: &[Entry]| entries.iter().map(|e| (e.seq, e.line().to_owned())).collect::<Vec<_>>();
    // An answer was lost, so the batch came again, and more with it.
    catalog.append_log(&first[..3]).await.unwrap();
    catalog.append_log(&first[1..]).await.unwrap();
    catalog.append_log(&second).await.unwrap();
    catalog.append_log(&[]).await.unwrap();
    let mut heads = catalog.log_heads().await.unwrap();
    heads.sort_unstable();
    let mut expected = [(first[0].writer, 5), (second[0].writer, 2)];
    expected.sort_unstable();
    assert_eq!(heads, expected);
    assert_eq!(catalog.log_of(first[0].writer, 0, 9).await.unwrap(), lines(&first));
    assert_eq!(catalog.log_of(first[0].writer, 2, 2).await.unwrap(), lines(&first[2..4]));
    assert!(catalog.log_of(WriterId::from_bytes([0; 16]), 0, 9).await.unwrap().is_empty());
    assert!(catalog.unchained_log(0, 9).await.unwrap().is_empty());
}

pub(super) async fn what_is_removed_of_the_log_is_the_first_of_one_writer(catalog: Tried) {
    let (one, other) = (chained((1..=5).map(sealed)), chained((1..=2).map(sealed)));
    catalog.append_log(&one).await.unwrap();
    catalog.append_log(&other).await.unwrap();
    let numbers = async |of: &Entry| {
        let lines = catalog.log_of(of.writer, 0, 9).await.unwrap();
        lines.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
    };
    assert_eq!(catalog.remove_log(one[0].writer, 4, 3).await.unwrap(), 3);
    assert_eq!(numbers(&one[0]).await, [4, 5]);
    assert_eq!(catalog.remove_log(one[0].writer, 4, 3).await.unwrap(), 1);
    assert_eq!(catalog.remove_log(one[0].writer, 4, 3).await.unwrap(), 0);
    assert_eq!((numbers(&one[0]).await, numbers(&other[0]).await), (vec![5], vec![1, 2]));
    assert_eq!(catalog.log_heads().await.unwrap().len(), 2);
    for number in 1..=3 {
        let checkpoint = SignedCheckpoint { number, document: "a".into(), signature: "00".into() };
        assert!(catalog.add_checkpoint(&checkpoint).await.unwrap());
    }
    assert_eq!(catalog.remove_checkpoints(2, 1).await.unwrap(), 1);
    assert_eq!(catalog.remove_checkpoints(2, 9).await.unwrap(), 1);
    assert_eq!(catalog.checkpoints(0, 9).await.unwrap().len(), 1);
}

pub(super) async fn of_two_checkpoints_of_one_number_the_first_stays(catalog: Tried) {
    let checkpoint = |number, says: &str| SignedCheckpoint { number, document: says.into(), signature: "00".into() };
    assert!(catalog.last_checkpoint().await.unwrap().is_none());
    assert!(catalog.add_checkpoint(&checkpoint(1, "a")).await.unwrap());
    assert!(!catalog.add_checkpoint(&checkpoint(1, "b")).await.unwrap());
    assert!(catalog.add_checkpoint(&checkpoint(2, "c")).await.unwrap());
    assert_eq!(catalog.last_checkpoint().await.unwrap(), Some(checkpoint(2, "c")));
    assert_eq!(catalog.checkpoints(0, 9).await.unwrap(), [checkpoint(1, "a"), checkpoint(2, "c")]);
    assert_eq!(catalog.checkpoints(1, 9).await.unwrap(), [checkpoint(2, "c")]);
}
