//! The runs: ten thousand seeds hold every rule, and every rule that is left out is missed.

use super::{Broken, Outcome, run};

const SEEDS: u64 = 10_000;

/// Runs seeds on every core until a violation says `about` (anything, when empty); and sums over all.
fn sweep_seeds(seeds: std::ops::Range<u64>, broken: Broken, about: &str) -> (Option<(u64, Vec<String>)>, Outcome) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let parts = std::thread::scope(|scope| {
        let part = |n: u64| {
            let seeds = seeds.clone();
            scope.spawn(move || {
                let mut sum = Outcome::default();
                for seed in seeds.filter(|seed| seed % threads == n) {
                    let outcome = run(seed, broken);
                    if outcome.violations.iter().any(|said| said.contains(about)) {
                        return (Some((seed, outcome.violations)), sum);
                    }
                    sum.steps += outcome.steps;
                    sum.crashes += outcome.crashes;
                    sum.hangs += outcome.hangs;
                    sum.jumps += outcome.jumps;
                    sum.lost_races += outcome.lost_races;
                    sum.conversions += outcome.conversions;
                }
                (None, sum)
            })
        };
        (0..threads).map(part).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    let mut first = None;
    let mut sum = Outcome::default();
    for (failure, part) in parts {
        if let Some(failure) = failure {
            first =
                Some(first.map_or(failure.clone(), |f: (u64, Vec<String>)| if f.0 < failure.0 { f } else { failure }));
        }
        sum.steps += part.steps;
        sum.crashes += part.crashes;
        sum.hangs += part.hangs;
        sum.jumps += part.jumps;
        sum.lost_races += part.lost_races;
        sum.conversions += part.conversions;
    }
    (first, sum)
}

#[test]
fn ten_thousand_seeds_lose_double_expose_and_overwrite_nothing() {
    let (failure, sum) = sweep_seeds(0..SEEDS, Broken::Nothing, "");
    if let Some((seed, said)) = failure {
        panic!("replay with ENFOLD_SIM_SEED={seed}: {said:#?}");
    }
    // The runs must have been as hostile as they claim.
    assert!(sum.crashes > SEEDS / 10 && sum.hangs > SEEDS / 10, "{} crashes, {} hangs", sum.crashes, sum.hangs);
    assert!(sum.jumps > SEEDS / 2, "{} jumps of clocks", sum.jumps);
    assert!(sum.lost_races > SEEDS / 10 && sum.conversions > SEEDS * 5, "{} races", sum.lost_races);
    println!(
        "{SEEDS} seeds, {} steps, {} crashes, {} hangs, {} jumps of clocks, {} lost races, {} rows converted",
        sum.steps, sum.crashes, sum.hangs, sum.jumps, sum.lost_races, sum.conversions
    );
}

#[test]
fn a_seed_from_the_environment_replays() {
    let seed = std::env::var("ENFOLD_SIM_SEED").map_or(1, |s| s.parse().expect("ENFOLD_SIM_SEED is a number"));
    let (one, two) = (run(seed, Broken::Nothing), run(seed, Broken::Nothing));
    assert_eq!(one.steps, two.steps, "a seed gives the same run every time");
    assert_eq!(one.conversions, two.conversions);
    assert!(one.violations.is_empty(), "seed {seed}: {:#?}", one.violations);
}

/// The checker must miss the rule within so many seeds.
fn caught(broken: Broken, says: &str) {
    let (failure, _) = sweep_seeds(0..1_500, broken, says);
    assert!(failure.is_some(), "{broken:?} was not noticed");
}

#[test]
fn a_store_that_does_not_compare_versions_is_caught() {
    caught(Broken::NoVersionCheck, "not what its last writer wrote");
}

#[test]
fn a_store_that_compares_as_citext_does_is_caught() {
    caught(Broken::VersionByMeaning, "not what its last writer wrote");
}

#[test]
fn a_store_that_leaves_the_tenant_out_of_the_version_is_caught() {
    caught(Broken::VersionWithoutTenant, "does not open in its place");
}

#[test]
fn a_checkpoint_before_its_rows_is_caught() {
    caught(Broken::CheckpointFirst, "left behind in a range that was called done");
}

#[test]
fn a_checkpoint_after_its_rows_is_caught() {
    caught(Broken::CheckpointLast, "counted");
}

#[test]
fn a_store_without_fencing_is_caught() {
    caught(Broken::NoFencing, "after another had taken its range");
}

#[test]
fn leases_by_the_clock_of_whoever_asks_are_caught() {
    caught(Broken::LeasesByMachine, "does not end");
}

#[test]
fn a_store_that_takes_what_a_trigger_made_of_a_value_is_caught() {
    caught(Broken::NoComparison, "not what its last writer wrote");
}

#[test]
fn a_codec_that_seals_envelopes_again_is_caught() {
    caught(Broken::SealsAgain, "sealed twice");
}

#[test]
fn a_pruning_that_does_not_compare_versions_is_caught() {
    caught(Broken::NoVersionCheck, "was not to go");
}

#[test]
fn a_pruning_that_does_not_look_again_whether_a_row_goes_is_caught() {
    caught(Broken::NoSecondLook, "was not to go");
}

#[test]
fn a_codec_that_leaves_a_whole_row_for_one_bad_cell_is_caught() {
    caught(Broken::WholeRows, "left plain");
}
