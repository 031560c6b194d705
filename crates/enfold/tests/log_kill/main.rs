//! A process is killed at any moment under load, with its catalog now there and now away: no event is lost whose call was answered.
//!
//! The process is this program again. It tells on its standard output which of its calls were answered, and each call has a request id
//! of its own, so that it is an event of its own.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::who;
use enfold::events::{Entry, LogKey, Report, Signer, Verifier};
use enfold::policy::{Mode, Variables};
use enfold::{CallContext, Column, Enfold, Form, PayloadType, Place};
use enfold_testkit::faultproxy::{Fault, FaultProxy};
use enfold_testkit::own_main::{self, this_program};
use enfold_testkit::postgres::{Database, server_url};
use enfold_testkit::rng::Rng;

const KILLS: u64 = 12;
const CALLERS: u64 = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--as-caller", folder, url, name] => runtime.block_on(call(Path::new(folder), url, name)),
        _ => own_main::run("no_event_is_lost_whose_call_was_answered", |seed| runtime.block_on(kill(seed))),
    }
}

async fn open(folder: &Path, url: &str) -> Enfold {
    let text = format!(
        "environment = \"development\"\n[database]\nurl = \"{url}\"\n\
         [events]\ncatalog = true\nbefore_answer = true\nspill = \"spilled\"\n\
         [rings.main]\nid = \"main\"\nroots = [\"local:root.key\"]\nscope = \"column\"\n\
         [tables.\"public.users\".columns.email]\nid = \"users.email\"\nring = \"main\"\n"
    );
    let policy = enfold::policy::parse(&text, &folder.join("enfold.toml"), &Variables::new()).expect("a policy");
    Enfold::open(policy).await.expect("opens")
}

/// What the killed process does: calls, until it is at its end.
async fn call(folder: &Path, url: &str, name: &str) {
    let enfold = open(folder, url).await;
    let email = enfold.column("public.users.email").expect("a column");
    futures_util::future::join_all((0..CALLERS).map(|caller| tell(&email, format!("{name}-{caller}")))).await;
}

async fn tell(email: &Column, caller: String) {
    for n in 0_u64.. {
        let request = format!("{caller}-{n}");
        let context = CallContext { request_id: Some(request.clone()), ..who() };
        let sealed = email.seal(&context, &Place::none(), Form::Text, PayloadType::Text, b"ada@example.com").await;
        if sealed.is_ok() {
            // One write for each line: a line that the parent reads was a whole answer.
            std::io::stdout().lock().write_all(format!("{request}\n").as_bytes()).expect("a parent");
        }
    }
}

async fn kill(seed: u64) {
    let mut random = Rng::new(seed);
    let (folder, database) = (tempfile::tempdir().expect("a folder"), Database::create().await);
    let server: tokio_postgres::Config = server_url().parse().expect("a Postgres URL");
    let port = server.get_ports()[0];
    let proxy = FaultProxy::to(([127, 0, 0, 1], port).into());
    let through = database.url().replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    let direct = database.url();
    database.connect().await.batch_execute("CREATE TABLE users (email text)").await.expect("a table");
    open(folder.path(), &direct)
        .await
        .operator()
        .expect("the key")
        .set_mode("public.users.email", Mode::Hybrid)
        .await
        .expect("a mode");
    let mut answered = BTreeSet::new();
    for life in 0..KILLS {
        let child = this_program(&["--as-caller", folder.path().to_str().expect("text"), &through, &life.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        answered.extend(watch(child, &proxy, &mut random));
        proxy.set(Fault::None);
    }
    // The next process hands on what the killed ones left.
    let last = open(folder.path(), &direct).await;
    let email = last.column("public.users.email").expect("a column");
    email.seal(&who(), &Place::none(), Form::Text, PayloadType::Text, b"x").await.expect("seals");
    assert_eq!(std::fs::read_dir(folder.path().join("spilled")).expect("a folder").count(), 0);
    let (report, logged) = read(&last, folder.path()).await;
    assert!(report.is_whole(), "seed {seed}: {report:?}");
    assert_eq!(report.signed, report.entries);
    let lost: Vec<&String> = answered.difference(&logged).collect();
    assert!(lost.is_empty(), "seed {seed}: {} of {} answers are not in the log: {lost:?}", lost.len(), answered.len());
    assert!(answered.len() as u64 > KILLS * CALLERS, "{}", answered.len());
}

/// Takes the catalog away and gives it back, and ends the process after some hundreds of answers; which those were.
fn watch(mut child: Child, proxy: &FaultProxy, random: &mut Rng) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut left = 50 + random.below(400);
    let mut answered = Vec::new();
    let mut lines = lines.map_while(Result::ok);
    while left > 0 {
        let Some(line) = lines.next() else { panic!("the process ended by itself") };
        answered.push(line);
        left -= 1;
        match random.below(60) {
            0 => {
                proxy.set(Fault::CutAfter(0));
                proxy.cut();
            }
            1 => proxy.set(Fault::None),
            _ => {}
        }
    }
    std::thread::sleep(Duration::from_micros(random.below(3_000)));
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
    // What it wrote before it died was answered too.
    answered.extend(lines);
    answered
}

/// The log, verified and signed, and the requests in it.
async fn read(enfold: &Enfold, folder: &Path) -> (Report, BTreeSet<String>) {
    let key = LogKey::init(&folder.join("log.key")).expect("a key");
    enfold.sign_log(&key).await.expect("signs").expect("something to sign");
    let by = Verifier { trusted: vec![key.public_key()], ..Verifier::default() };
    let report = by.verify(enfold).await.expect("reads");
    let mut requests = Vec::new();
    let mut take = |line: &str| requests.extend(Entry::parse(line).ok().and_then(|entry| entry.event.request_id));
    enfold.export_log(&mut take).await.expect("reads");
    let (count, logged) = (requests.len(), BTreeSet::from_iter(requests));
    assert_eq!(count, logged.len(), "an event is there twice");
    (report, logged)
}
