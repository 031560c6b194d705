//! What was kept long enough goes, with a proof, and what somebody else takes out shows all the same.

use std::sync::Arc;
use std::time::Duration;

use enfold::events::{Checkpoint, Cut, LogKey, Report, Signer, Verifier, What};
use enfold::{Code, Enfold, LogDue};

use super::common::{POLICY, code, who};
use super::place::{self, Stored};
use super::{key, process, trusting, verified, work};

on_both! {
    what_is_due_goes_with_a_proof_and_fits_what_was_exported_before
    a_cut_by_somebody_else_shows_before_and_after_one_that_was_signed
    who_was_killed_in_between_left_a_whole_log_and_the_next_one_goes_on
    a_chain_that_does_not_hold_together_stays
    who_signs_goes_on_by_the_keep_that_somebody_confirmed_and_by_no_other
    a_second_pruning_hangs_on_to_the_first_and_to_chains_that_rest
}

/// Everything that was signed is due.
const AT_ONCE: Duration = Duration::ZERO;

/// A process with an archive, and its log in three checkpoints.
async fn signed(place: &Stored, key: &LogKey) -> Enfold {
    let process = process(place, &format!("{}\narchive = \"archive\"", trusting(key))).await;
    for _ in 0..3 {
        work(&process, 4).await;
        process.sign_log(key).await.unwrap().unwrap();
    }
    process
}

/// What is due by what was signed until now: another moment is over then.
async fn due(process: &Enfold) -> LogDue {
    let last = process.catalog().last_checkpoint().await.unwrap().unwrap().read().unwrap().at_ms;
    while jiff::Timestamp::now().as_millisecond() <= last {
        tokio::task::yield_now().await;
    }
    process.log_due(AT_ONCE).await.unwrap().unwrap()
}

async fn pruned(process: &Enfold, key: &LogKey) -> Cut {
    process.prune_log(key, &due(process).await, &who()).await.unwrap()
}

pub(crate) async fn exported(process: &Enfold) -> Vec<String> {
    let mut lines = Vec::new();
    process.flush().await.unwrap();
    process.export_log(&mut |line| lines.push(line.to_owned())).await.unwrap();
    lines
}

async fn verify(key: &LogKey, lines: &[String]) -> Report {
    verify_by(&key.public_key(), lines).await
}

pub(crate) async fn verify_by(key: &[u8; 32], lines: &[String]) -> Report {
    let by = Verifier { trusted: vec![*key], ..Verifier::default() };
    by.verify(lines).await.unwrap()
}

async fn what_is_due_goes_with_a_proof_and_fits_what_was_exported_before(place: Stored) {
    let key = key(&place);
    let process = signed(&place, &key).await;
    assert!(process.log_due(Duration::from_secs(3_600)).await.unwrap().is_none(), "nothing is an hour old");
    let before = exported(&process).await;
    let due = due(&process).await;
    assert_eq!(due.checkpoints(), 3);
    let cut = process.prune_log(&key, &due, &who()).await.unwrap();
    assert_eq!((cut.entries, cut.by.as_deref()), (before.len() as u64 - 3, Some("test")));
    work(&process, 2).await;
    process.sign_log(&key).await.unwrap().unwrap();
    let report = verified(&process).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.cut.as_ref(), Some(&cut));
    assert_eq!(report.signed, report.entries);
    let left = exported(&process).await;
    assert!(left.len() < before.len(), "{} lines stay", left.len());
    // What is left by itself, with what was exported before, and with the archive, which is the same.
    assert!(verify(&key, &left).await.is_whole());
    let archive = cut.archive.unwrap();
    let bytes = std::fs::read(&archive.file).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    assert_eq!(archive.sha256, digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let archived: Vec<String> = String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(archived, before);
    let whole = [before, left].concat();
    let report = verify(&key, &whole).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.entries, report.signed);
    // Of the two together nothing may be missing in the middle either.
    let (first, rest) = whole.split_at(1);
    let report = verify(&key, &[first, &rest[1..]].concat()).await;
    assert_eq!(report.findings[0].what, What::Removed { until: 3 });
}

async fn a_cut_by_somebody_else_shows_before_and_after_one_that_was_signed(place: Stored) {
    let key = key(&place);
    let process = signed(&place, &key).await;
    pruned(&process, &key).await;
    work(&process, 4).await;
    process.sign_log(&key).await.unwrap().unwrap();
    let events = place.events;
    let first = format!("(SELECT min(seq) FROM {events})");
    for (more, what) in [(format!("seq <= {first}"), true), (format!("seq > {first} + 1"), false)] {
        place.keep().await;
        place.run(&format!("DELETE FROM {events} WHERE {more}")).await;
        let findings = verified(&process).await.findings;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(matches!(findings[0].what, What::Removed { .. }), what, "{findings:?}");
        place.put_back().await;
    }
    let checkpoints = events.replace("events", "log_checkpoints");
    place.run(&format!("DELETE FROM {checkpoints} WHERE number = (SELECT min(number) FROM {checkpoints})")).await;
    let findings = verified(&process).await.findings;
    assert!(!findings.is_empty(), "the proof itself is gone");
}

async fn who_was_killed_in_between_left_a_whole_log_and_the_next_one_goes_on(place: Stored) {
    let key = key(&place);
    let process = signed(&place, &key).await;
    // What is left where the proof was signed and only some of it was removed, is this: the rest is put back.
    let events = place.events;
    let checkpoints = events.replace("events", "log_checkpoints");
    place.run(&format!("CREATE TABLE kept_log AS SELECT at_ms, event, writer, seq FROM {events}")).await;
    place.run(&format!("CREATE TABLE kept_checkpoints AS SELECT * FROM {checkpoints}")).await;
    pruned(&process, &key).await;
    for from in [1, 6] {
        place
            .run(&format!(
                "INSERT INTO {events} (at_ms, event, writer, seq) SELECT at_ms, event, writer, seq FROM kept_log
                     WHERE seq >= {from};
                 INSERT INTO {checkpoints} SELECT * FROM kept_checkpoints"
            ))
            .await;
        let report = verified(&process).await;
        assert!(report.is_whole(), "{report:?}");
        // A process that begins now builds upon it.
        let next = self::process(&place, &trusting(&key)).await;
        work(&next, 1).await;
        next.sign_log(&key).await.unwrap().unwrap();
        assert!(next.finish_pruning_log().await.unwrap());
        assert!(!next.finish_pruning_log().await.unwrap(), "it was finished");
        let report = verified(&process).await;
        assert!(report.is_whole(), "{report:?}");
    }
}

/// Signs once a second, and looks after that whether anything is due.
async fn signs_by_itself(place: &Stored, key: &LogKey, keep: &str) -> Enfold {
    let more = "archive = \"archive\"\nsigning_key_file = \"log.key\"\ncheckpoint_every = \"1s\"";
    let text = format!("{}\n[events]\ncatalog = true\n{}\n{more}\nkeep = \"{keep}\"", POLICY, trusting(key));
    let builder = Enfold::builder(place.world.policy(&text)).catalog(Arc::clone(&place.world.catalog));
    builder.provider(Arc::clone(&place.world.kms) as _).build().await.unwrap()
}

/// The last checkpoint, when there is one that is as it should be.
async fn when(process: &Enfold, is: impl Fn(&Checkpoint) -> bool) -> Checkpoint {
    loop {
        let last = process.catalog().last_checkpoint().await.unwrap().unwrap().read().unwrap();
        if is(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn who_signs_goes_on_by_the_keep_that_somebody_confirmed_and_by_no_other(place: Stored) {
    let key = key(&place);
    let process = signed(&place, &key).await;
    let before = process.catalog().last_checkpoint().await.unwrap().unwrap().number;
    // Nobody confirmed anything yet. It looks after it has signed for the first time, and then signs once more.
    let unconfirmed = signs_by_itself(&place, &key, "0s").await;
    for more in 1..=2 {
        work(&process, 1).await;
        let last = when(&process, |last| last.number >= before + more).await;
        assert!(last.cut.is_none());
    }
    drop(unconfirmed);
    // What is confirmed is to keep everything for seven years, and so nothing is due by it.
    let confirmed = pruned(&process, &key).await;
    assert_eq!(confirmed.keep_s, 7 * 31_557_600);
    let other = signs_by_itself(&place, &key, "0s").await;
    let before = process.catalog().last_checkpoint().await.unwrap().unwrap().number;
    for more in 1..=2 {
        work(&process, 1).await;
        assert!(when(&process, |last| last.number >= before + more).await.cut.is_none());
    }
    drop(other);
    let other = process_keeping(&place, &key).await;
    let confirmed = other.prune_log(&key, &due(&other).await, &who()).await.unwrap();
    assert_eq!(confirmed.keep_s, 0);
    work(&process, 1).await;
    let _signs = signs_by_itself(&place, &key, "0s").await;
    let last = when(&process, |last| last.cut.as_ref().is_some_and(|cut| cut.by.as_deref() == Some("schedule"))).await;
    assert_eq!(last.cut.unwrap().keep_s, 0);
    let report = verified(&process).await;
    assert!(report.is_whole(), "{report:?}");
}

/// A process whose policy keeps nothing.
async fn process_keeping(place: &Stored, key: &LogKey) -> Enfold {
    process(place, &format!("{}\narchive = \"archive\"\nkeep = \"0s\"", trusting(key))).await
}

async fn a_chain_that_does_not_hold_together_stays(place: Stored) {
    let key = key(&place);
    let process = signed(&place, &key).await;
    let events = place.events;
    place.run(&format!("UPDATE {events} SET event = replace(event, 'a test', 'a joke') WHERE seq = 3")).await;
    let before = exported(&process).await;
    let due = due(&process).await;
    assert_eq!(code(process.prune_log(&key, &due, &who()).await), Code::LogTampered);
    assert_eq!(exported(&process).await, before);
}

async fn a_second_pruning_hangs_on_to_the_first_and_to_chains_that_rest(place: Stored) {
    let key = key(&place);
    let resting = process(&place, &trusting(&key)).await;
    work(&resting, 3).await;
    let process = signed(&place, &key).await;
    let first = pruned(&process, &key).await;
    assert_eq!(first.chains.len(), 2);
    work(&process, 4).await;
    process.sign_log(&key).await.unwrap().unwrap();
    let stale = due(&process).await;
    let second = pruned(&process, &key).await;
    assert_eq!(code(process.prune_log(&key, &stale, &who()).await), Code::Busy);
    assert!(second.checkpoint.number > first.checkpoint.number);
    // The one that rested goes on where it was, though none of its entries is there.
    work(&resting, 2).await;
    process.flush().await.unwrap();
    resting.sign_log(&key).await.unwrap().unwrap();
    let report = verified(&process).await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.signed, report.entries);
    let archives = [first, second].map(|cut| std::fs::read_to_string(cut.archive.unwrap().file).unwrap());
    let mut lines: Vec<String> = archives.concat().lines().map(str::to_owned).collect();
    lines.extend(exported(&process).await);
    let report = verify(&key, &lines).await;
    assert!(report.is_whole(), "{report:?}");
}
