//! Ctrl-C, once and twice, while a table is converted: what was committed stays, and the same command goes on.

use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::process::{Child, ChildStderr};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Sandbox, policy};

const ROWS: u32 = 1_000;

/// The line after which the values are being sealed.
const SEALING: &str = "  done     people: sign mode hybrid for people.name";

/// A table that takes a while at the rate of the tests, with nothing to index.
fn crowd() -> Sandbox {
    let shop = Sandbox::shop();
    shop.sql(&format!(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO people (name) SELECT 'person number ' || i FROM n"
    ));
    let name = "[jobs]\nbatch_rows = 20\n[tables.people.columns.name]\nid = \"people.name\"\nring = \"main\"\n";
    shop.write("enfold.toml", policy("sqlite:app.db") + name);
    shop
}

fn count(shop: &Sandbox, condition: &str) -> u32 {
    let sql = format!("SELECT count(*) FROM people WHERE {condition}");
    shop.database().query_row(&sql, [], |row| row.get(0)).expect("counted")
}

fn interrupt(child: &Child) {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(id, Signal::INT).expect("the signal is sent");
}

/// Reads talk until a line that begins so. The command's end before it fails the test.
fn wait_for(talk: &mut Lines<BufReader<ChildStderr>>, start: &str) {
    let mut seen = String::new();
    for line in talk {
        let line = line.expect("a line");
        if line.starts_with(start) {
            return;
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    panic!("the command ended before `{start}`:\n{seen}");
}

/// Waits, with a process that lives, until a row is sealed.
fn wait_for_a_sealed_row(shop: &Sandbox, child: &mut Child) {
    while count(shop, "name LIKE 'enf1:%'") == 0 {
        assert!(child.try_wait().expect("asked").is_none(), "the command ended early");
        std::thread::yield_now();
    }
}

/// The command goes on from where it stopped, and back to where it began.
fn goes_on_and_comes_back(shop: &Sandbox) {
    let sealed = count(shop, "name LIKE 'enf1:%'");
    assert!(0 < sealed && sealed < ROWS, "{sealed} of {ROWS} rows were sealed when it stopped");
    assert_eq!(count(shop, "name = 'person number ' || id"), ROWS - sealed, "a row is neither plain nor sealed");
    // The job keeps its rate until another is given.
    shop.ok(&["apply", "--yes", "--rate", "100000"]);
    shop.ok(&["audit", "--full"]);
    shop.ok(&["verify", "--all"]);
    shop.ok(&["rollback", "--all", "--yes"]);
    assert_eq!(count(shop, "name = 'person number ' || id"), ROWS);
}

#[test]
fn one_ctrl_c_stops_after_the_batch_and_the_same_command_goes_on() {
    let shop = crowd();
    let mut child = shop.start(&["apply", "--yes", "--rate", "50"]);
    let mut talk = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    wait_for(&mut talk, SEALING);
    wait_for_a_sealed_row(&shop, &mut child);
    interrupt(&child);
    wait_for(&mut talk, "stopping after the batch that is being written (Ctrl-C again to stop at once)");
    let rest: Vec<String> = talk.map(|line| line.expect("a line")).collect();
    assert_eq!(child.wait().expect("it ends").code(), Some(6), "{rest:?}");
    assert!(rest.iter().any(|line| line == "code: interrupted"), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("hint: ")), "{rest:?}");
    goes_on_and_comes_back(&shop);
}

#[test]
fn a_second_ctrl_c_stops_at_once_and_loses_nothing() {
    let shop = crowd();
    let mut child = shop.start(&["apply", "--yes", "--rate", "50"]);
    let mut talk = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    wait_for(&mut talk, SEALING);
    wait_for_a_sealed_row(&shop, &mut child);
    // While we hold the one write lock the batch cannot end, so the first Ctrl-C alone cannot be enough.
    let database = shop.database();
    database.busy_timeout(std::time::Duration::from_secs(60)).expect("set");
    database.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    interrupt(&child);
    wait_for(&mut talk, "stopping after the batch");
    interrupt(&child);
    wait_for(&mut talk, "stopped at once; what was not committed is rolled back");
    assert_eq!(child.wait().expect("it ends").code(), Some(6));
    let mut out = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut out).expect("text");
    assert_eq!(out, "", "a result was printed for what did not happen");
    database.execute_batch("ROLLBACK").expect("released");
    drop(database);
    goes_on_and_comes_back(&shop);
}
