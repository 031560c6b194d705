//! The memory of a service under load.

use std::time::{Duration, Instant};

use super::service::running::Service;
use super::{Ours, median};

/// Another time, in minutes: two at least.
const MINUTES: &str = "ENFOLD_BENCH_MINUTES";
const MINUTE: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 4;
/// What the last minute may have of the second, by when every cache is full.
const BOUND: f64 = 1.1;

pub(crate) fn measure() {
    let minutes = std::env::var(MINUTES).map_or(10, |minutes| minutes.parse().expect("a number of minutes"));
    assert!(minutes >= 2, "the first minute is not counted");
    let ours = Ours::start("", "");
    let requests = [ours.seals(1), ours.opens(1), ours.seals(100), ours.opens(100)];
    let time = MINUTE * minutes;
    let resident = std::thread::scope(|scope| {
        let load: Vec<_> =
            requests.iter().map(|request| scope.spawn(|| request.turn(CONNECTIONS, 200, time).a_second())).collect();
        let resident = watched(&ours.service, time);
        let a_second: f64 = load.into_iter().map(|load| load.join().expect("a thread")).sum();
        println!(
            r#"{{"name":"service_under_load","bound":null,"requests_a_second":{a_second:.0},"minutes":{minutes}}}"#
        );
        resident
    });
    let minute = |n: usize| median(resident[n * 60..((n + 1) * 60).min(resident.len())].to_vec());
    let last = minutes as usize - 1;
    let ratio = minute(last) / minute(1);
    println!(
        r#"{{"name":"service_memory","ratio":{ratio:.3},"bound":{BOUND},"met":{},"better":"less","second_minute_mib":{:.1},"last_minute_mib":{:.1},"minutes":{minutes}}}"#,
        ratio <= BOUND,
        minute(1),
        minute(last),
    );
    assert_eq!(ours.lost(), 0, "an event was lost");
}

/// What it has in memory, in MiB, second by second.
#[allow(clippy::cast_precision_loss, reason = "a size")]
fn watched(service: &Service, time: Duration) -> Vec<f64> {
    let began = Instant::now();
    (1..=time.as_secs())
        .map(|second| {
            std::thread::sleep(Duration::from_secs(second).saturating_sub(began.elapsed()));
            service.resident_kib() as f64 / 1024.0
        })
        .collect()
}
