//! `docs/guides/key-compromise.md`, run: every command of its blocks in their order, on Postgres, with an application that reads. When
//! each mark of the guide was reached goes to the test's report; nothing depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use enfold::{CallContext, Enfold, Form, Place};
use enfold_testkit::postgres::Database;

use crate::harness::Sandbox;

const GUIDE: &str = include_str!("../../../../docs/guides/key-compromise.md");

/// A command, and by how many hours the guide wants it done.
struct Step {
    mark: u32,
    args: Vec<String>,
}

fn steps() -> Vec<Step> {
    let (mut mark, mut in_block, mut steps) = (0, false, Vec::new());
    for line in GUIDE.lines() {
        if let Some(within) = line.strip_prefix("## Within ") {
            let hours = within.split(' ').next().and_then(|hours| hours.parse().ok());
            mark = hours.expect("a number of hours");
        }
        if line.starts_with("```") {
            in_block = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ enfold ").filter(|_| in_block) {
            steps.push(Step { mark, args: words(command) });
        }
    }
    steps
}

/// Words as a shell takes them apart, as far as the guide has need of it.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("one at least").push(c),
        }
    }
    words
}

#[test]
fn the_guide_for_a_key_that_somebody_may_have_is_run_as_it_is_written() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (database, client) = runtime.block_on(async {
        let database = Database::create().await;
        let client = database.connect().await;
        let table = "CREATE TABLE users (id int PRIMARY KEY, email text);
            INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 2000) n";
        client.batch_execute(table).await.expect("a table");
        (database, client)
    });
    let shop = Sandbox::empty();
    shop.write(
        "enfold.toml",
        format!(
            "environment = \"development\"\n[database]\nurl = \"{}\"\n[trust]\noperator_key_file = \"op.key\"\n\
             [events]\ncatalog = true\n[jobs]\nmax_requested_checkpoints = 10000\n\
             [rings.customers]\nid = \"customers\"\nroots = [\"local:root.key\"]\nscope = \"ring\"\n\
             [rings.customers.cache]\nmax_unseen = \"1s\"\n\
             [tables.\"public.users\".columns.email]\nid = \"users.email\"\nring = \"customers\"\n",
            database.url()
        ),
    );
    shop.ok(&["apply", "--yes"]);
    let stored = |id: i32| -> String {
        let row = runtime.block_on(client.query_one("SELECT email FROM users WHERE id = $1", &[&id]));
        row.expect("a row").get(0)
    };
    let inspected = shop.pipe(&["inspect", "--json"], stored(1).as_bytes());
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    let key = inspected["key_id"].as_str().expect("the key's id").to_owned();
    let open = |envelope: &str| shop.pipe(&["open", "public.users.email"], envelope.as_bytes());

    let begun = Instant::now();
    let steps = steps();
    let marks: std::collections::BTreeSet<u32> = steps.iter().map(|step| step.mark).collect();
    assert_eq!(marks.into_iter().collect::<Vec<_>>(), [1, 4, 24, 48], "the marks of the guide");
    let (stop, mut reader) = (Arc::new(AtomicBool::new(false)), None);
    for step in &steps {
        let mut args: Vec<&str> =
            step.args.iter().map(|word| if word == "KEY" { key.as_str() } else { word }).collect();
        // In a terminal it asks.
        let does = if args[0] == "keys" { args[1].to_owned() } else { String::new() };
        if ["disable", "enable", "rotate", "set-minimum"].contains(&does.as_str()) {
            args.push("--yes");
        }
        if step.mark > 1 && reader.is_none() {
            let client = runtime.block_on(database.connect());
            reader = Some(runtime.spawn(application(shop.path("enfold.toml"), client, Arc::clone(&stop))));
        }
        let ran = shop.run(&args);
        assert_eq!(ran.code, 0, "enfold {}: {}{}", ran.args, ran.stdout(), ran.stderr);
        let (command, at) = (step.args.join(" "), begun.elapsed().as_secs_f64());
        eprintln!("within {} h: after {at:.1} s: enfold {command}", step.mark);
        match does.as_str() {
            "disable" => assert!(open(&stored(1)).stderr.contains("key-disabled"), "the door is shut"),
            "enable" => assert_eq!(open(&stored(1)).stdout(), "person1@example.com"),
            "rotate" => {
                let under = shop.ok(&["audit", "--full", "--json"]);
                assert!(!under.stdout().contains(&key), "every value has left it");
                let shown = shop.ok(&["keys", "show", &key, "--json"]);
                assert!(shown.stdout().contains("\"status\": \"disabled\""), "{}", shown.stdout());
            }
            _ => {}
        }
    }
    stop.store(true, Ordering::Relaxed);
    let read = runtime.block_on(reader.expect("an application ran")).expect("nothing that it read failed");
    assert!(read > 0);
    eprintln!("the application read {read} values meanwhile");
    assert_eq!(open(&stored(1)).stdout(), "person1@example.com");
}

/// An application: reads a row, opens what it finds, again and again. Once the door was opened again nothing that it reads fails.
async fn application(policy: std::path::PathBuf, client: tokio_postgres::Client, stop: Arc<AtomicBool>) -> u64 {
    let policy = enfold::policy::load(&policy, &enfold::policy::Variables::default()).expect("the policy");
    let enfold = Enfold::open(policy).await.expect("the keys");
    let email = enfold.column("public.users.email").expect("a column");
    let context = CallContext::new("application", "a page");
    let mut read = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = i32::try_from(read % 2_000).expect("a number") + 1;
        let row = client.query_one("SELECT email FROM users WHERE id = $1", &[&id]).await.expect("a row");
        let stored: String = row.get(0);
        let opened = email.open(&context, &Place::none(), Form::Text, stored.as_bytes()).await.expect("it opens");
        assert_eq!(opened.value.as_slice(), format!("person{id}@example.com").as_bytes());
        read += 1;
    }
    enfold.flush().await.expect("its events are written");
    enfold.sign_off().await;
    read
}
