use super::super::chain::chained;
use super::super::checkpoint::{Head, LogKey, Signer};
use super::super::{CallContext, EventKind};
use super::*;

const LENGTH: u64 = 7;

fn chain() -> Vec<Entry> {
    chained((1..=LENGTH).map(|n| Event::new(EventKind::Open, n).context(&CallContext::new("ann", "support"))))
}

fn lines_of(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.line().to_owned()).collect()
}

fn key() -> LogKey {
    LogKey::init(&tempfile::tempdir().unwrap().path().join("log.key")).unwrap()
}

/// A checkpoint over the first `upto` entries of each chain.
async fn checkpoint(
    key: &LogKey,
    before: Option<&SignedCheckpoint>,
    chains: &[&[Entry]],
    upto: usize,
) -> SignedCheckpoint {
    let head = |entry: &Entry| (entry.writer, Head { seq: entry.seq, hash: entry.hash() });
    let heads = chains.iter().map(|entries| head(&entries[upto - 1])).collect();
    Checkpoint::after(before, &key.public_key(), heads).sign(key).await.unwrap()
}

async fn verify(by: &Verifier, lines: &[String]) -> Report {
    by.verify(lines).await.unwrap()
}

/// What is found where nothing is signed.
async fn found(lines: &[String]) -> Option<(What, Option<u64>)> {
    let findings = verify(&Verifier::default(), lines).await.findings;
    assert!(findings.len() <= 1, "{findings:?}");
    findings.first().map(|finding| (finding.what, finding.number))
}

fn trusting(key: &LogKey) -> Verifier {
    Verifier { trusted: vec![key.public_key()], ..Verifier::default() }
}

fn changed(line: &str) -> String {
    let changed = line.replace("support", "nothing");
    assert_ne!(changed, line);
    changed
}

#[tokio::test]
async fn a_log_that_nobody_touched_is_whole_in_any_order_of_its_writers() {
    let (key, first, second) = (key(), chain(), chain());
    let signed = checkpoint(&key, None, &[&first, &second], 5).await;
    let mut lines: Vec<String> =
        first.iter().zip(&second).flat_map(|(a, b)| [a, b]).map(|e| e.line().to_owned()).collect();
    lines.insert(3, signed.to_line());
    let report = verify(&trusting(&key), &lines).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.writers, report.entries, report.signed, report.checkpoints), (2, 2 * LENGTH, 10, 1));
    assert!(report.signed_until_ms.is_some());
}

#[tokio::test]
async fn the_entry_that_was_changed_is_named() {
    let entries = chain();
    for at in 0..entries.len() - 1 {
        let mut lines = lines_of(&entries);
        lines[at] = changed(&lines[at]);
        assert_eq!(found(&lines).await, Some((What::Changed, Some(at as u64 + 1))));
    }
}

#[tokio::test]
async fn the_last_entry_needs_a_checkpoint_for_its_change_to_show() {
    let (key, entries) = (key(), chain());
    let mut lines = lines_of(&entries);
    lines[6] = changed(&lines[6]);
    assert_eq!(found(&lines).await, None);
    lines.push(checkpoint(&key, None, &[&entries[..]], 7).await.to_line());
    let report = verify(&trusting(&key), &lines).await;
    assert_eq!(report.findings[0].what, What::Rewritten { signed: 7 });
    assert_eq!(report.findings[0].number, Some(1));
}

#[tokio::test]
async fn entries_that_are_missing_are_named_by_the_first_of_them() {
    let entries = chain();
    for at in 0..entries.len() - 2 {
        for several in 1..=2 {
            let mut lines = lines_of(&entries);
            lines.drain(at..at + several);
            let (first, until) = (at as u64 + 1, (at + several) as u64 + 1);
            assert_eq!(
                found(&lines).await,
                if until > LENGTH { None } else { Some((What::Removed { until }, Some(first))) }
            );
        }
    }
}

#[tokio::test]
async fn an_end_that_was_cut_off_shows_by_the_checkpoint() {
    let (key, entries) = (key(), chain());
    let signed = checkpoint(&key, None, &[&entries[..]], 7).await;
    for left in 0..entries.len() {
        let mut lines = lines_of(&entries[..left]);
        lines.push(signed.to_line());
        let report = verify(&trusting(&key), &lines).await;
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert_eq!(report.findings[0].what, What::CutOff { signed: 7 });
        assert_eq!(report.findings[0].number, Some(left as u64 + 1));
    }
}

#[tokio::test]
async fn an_entry_that_stands_elsewhere_is_named() {
    let entries = chain();
    for from in 0..entries.len() {
        for to in 0..entries.len() {
            let mut lines = lines_of(&entries);
            let line = lines.remove(from);
            lines.insert(to, line);
            let found = found(&lines).await;
            if from == to {
                assert_eq!(found, None);
            } else {
                // The first that is not where it belongs.
                let (at, next) = (from.min(to) as u64 + 1, if from < to { from + 2 } else { from + 1 } as u64);
                assert_eq!(found, Some((What::Moved { expected: at }, Some(next))), "{from} to {to}");
            }
        }
    }
}

#[tokio::test]
async fn an_entry_that_was_put_in_is_named() {
    let entries = chain();
    for at in 0..entries.len() - 1 {
        let genuine = lines_of(&entries);
        // Whoever puts it in can give it the number and the hash that belong there, and cannot have the next one know it.
        let forged = changed(&genuine[at]);
        for place in [at, at + 1] {
            let mut lines = genuine.clone();
            lines.insert(place, forged.clone());
            let report = verify(&Verifier::default(), &lines).await;
            assert_eq!(report.findings.len(), 1);
            let finding = &report.findings[0];
            assert_eq!((finding.what, finding.number), (What::Inserted, Some(at as u64 + 1)));
            assert_eq!(finding.line, Some(place as u64 + 1));
        }
        // And one that came twice is no less of an addition.
        let mut lines = genuine.clone();
        lines.insert(at + 1, genuine[at].clone());
        assert_eq!(found(&lines).await, Some((What::Inserted, Some(at as u64 + 1))));
    }
}

#[tokio::test]
async fn a_chain_made_anew_is_another_than_was_signed() {
    let (key, entries) = (key(), chain());
    let early = checkpoint(&key, None, &[&entries[..]], 3).await;
    let late = checkpoint(&key, Some(&early), &[&entries[..]], 6).await;
    // From entry 5 on everything was written again, so that it holds together.
    let mut lines = lines_of(&entries[..4]);
    let mut before = entries[3].hash();
    for entry in &entries[4..] {
        let line = changed(entry.line()).replace(&entry.previous.to_string(), &before.to_string());
        before = Entry::parse(&line).unwrap().hash();
        lines.push(line);
    }
    assert_eq!(found(&lines).await, None);
    lines.extend([early.to_line(), late.to_line()]);
    let report = verify(&trusting(&key), &lines).await;
    assert_eq!((report.findings[0].what, report.findings[0].number), (What::Rewritten { signed: 6 }, Some(4)));
    assert_eq!(report.signed, 3);
}

#[tokio::test]
async fn what_is_damaged_beyond_reading_is_named_by_its_line() {
    let entries = chain();
    let mut lines = lines_of(&entries);
    lines[3].truncate(20);
    let report = verify(&Verifier::default(), &lines).await;
    let found = report.findings.iter().map(|f| (f.what, f.line)).collect::<Vec<_>>();
    assert_eq!(found, [(What::NotAnEntry, Some(4)), (What::Removed { until: 5 }, Some(5))]);
}

#[tokio::test]
async fn checkpoints_are_missed_forged_and_kept_elsewhere() {
    let (ours, other, entries) = (key(), key(), chain());
    let chains = [&entries[..]];
    let first = checkpoint(&ours, None, &chains, 2).await;
    let second = checkpoint(&ours, Some(&first), &chains, 4).await;
    let third = checkpoint(&ours, Some(&second), &chains, 6).await;
    let by = trusting(&ours);
    let with = |some: &[&SignedCheckpoint]| {
        let mut lines = lines_of(&entries);
        lines.extend(some.iter().map(|checkpoint| checkpoint.to_line()));
        lines
    };
    let found = async |by: &Verifier, lines: Vec<String>| {
        let report = verify(by, &lines).await;
        report.findings.iter().map(|f| (f.what, f.number.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(found(&by, with(&[&first, &second, &third])).await, []);
    assert_eq!(found(&by, with(&[&first, &third])).await, [(What::CheckpointRemoved, 2)]);
    assert_eq!(found(&Verifier { partial: true, ..by.clone() }, with(&[&first, &third])).await, []);
    let forged = checkpoint(&other, Some(&second), &chains, 6).await;
    assert_eq!(found(&by, with(&[&first, &second, &forged])).await, [(What::CheckpointNotSigned, 3)]);
    let fork = checkpoint(&ours, Some(&first), &chains, 3).await;
    assert_eq!(found(&by, with(&[&first, &second, &fork])).await, [(What::CheckpointForked, 2)]);
    let elsewhere = Verifier { anchors: vec![third.clone()], ..by.clone() };
    let cut = [&lines_of(&entries[..4])[..], &[first.to_line(), second.to_line()]].concat();
    assert_eq!(found(&by, cut.clone()).await, []);
    assert_eq!(found(&elsewhere, cut).await, [(What::CutOff { signed: 6 }, 5)]);
}

#[tokio::test]
async fn lines_of_before_there_were_chains_are_counted_and_vouched_for_by_nobody() {
    let mut lines = lines_of(&chain());
    lines.insert(0, Event::new(EventKind::Seal, 3).to_json());
    let report = verify(&Verifier::default(), &lines).await;
    assert!(report.is_whole());
    assert_eq!((report.unchained, report.entries, report.signed), (1, LENGTH, 0));
}
