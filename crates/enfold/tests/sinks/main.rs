//! The log's lines on their way to receivers outside: real servers that are slow, away, choosy or somebody else.

#[path = "../common/mod.rs"]
mod common;
mod http;
mod syslog;

use std::path::Path;
use std::time::Duration;

use common::World;
use enfold::Enfold;
use enfold::events::{CallContext, Event, EventKind, SinkStanding};

/// A secret of webhooks, and the bytes in it.
const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const SECRET_BYTES: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A process that writes its log into the catalog, and sends it to this sink.
async fn process(world: &World, sink: &str) -> Enfold {
    opened(world, sink).await.unwrap()
}

async fn opened(world: &World, sink: &str) -> enfold::Result<Enfold> {
    let text = format!("{}\n[events]\ncatalog = true\n[events.sinks.siem]\n{sink}", common::POLICY);
    world.builder_for(world.policy(&text)).prepare().build().await
}

/// Writes a file that nobody else may read, and gives its path.
fn private(folder: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// So many events, told apart by their requests.
fn happen(process: &Enfold, names: impl IntoIterator<Item = String>) {
    for name in names {
        let context =
            CallContext { request_id: Some(name), ..CallContext::new("ann \"the\" <auditor>", "näher ]besehen\n") };
        process.log(Event::new(EventKind::HealthCheck, 1).ring("main").context(&context));
    }
}

fn numbered(n: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    n.map(|n| format!("r-{n}"))
}

fn standing(process: &Enfold) -> SinkStanding {
    process.metrics().sinks.into_iter().next().unwrap()
}

/// The lines of the catalog, letter for letter.
async fn lines(process: &Enfold) -> Vec<String> {
    let mut lines = Vec::new();
    process.export_log(&mut |line| lines.push(line.to_owned())).await.unwrap();
    lines
}

/// What the log says of what did not reach the receiver.
fn undelivered(world: &World) -> Vec<(u64, String)> {
    let events = world.sink.0.lock().unwrap();
    let undelivered = events.iter().filter(|event| event.kind == EventKind::Undelivered);
    undelivered.map(|event| (event.count, event.detail.clone().unwrap())).collect()
}

/// Waits for what nobody tells of.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come about"));
}
