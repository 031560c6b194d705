//! How often a table is counted as a whole, by what the server wrote down.

use enfold_testkit::postgres::connect;
use enfold_testkit::postgres_private::Server;

use crate::harness::{Sandbox, policy};

/// Statements of the server's log since `from` that sort a column's values by their stored form. Those of a sample are
/// counted apart.
fn counts(server: &Server, from: &mut usize) -> (usize, usize) {
    let log = server.log();
    let (sampled, full): (Vec<&str>, Vec<&str>) = log[*from..]
        .lines()
        .filter(|line| line.contains("THEN 'like' ELSE 'plain' END"))
        .partition(|line| line.contains("TABLESAMPLE"));
    *from = log.len();
    (full.len(), sampled.len())
}

#[tokio::test]
async fn only_a_plan_and_a_full_audit_count_a_whole_table_by_form() {
    let server = Server::start(&[("log_statement", "'all'")]);
    let client = connect(&server.config()).await;
    client
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text);
             INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 10) n",
        )
        .await
        .expect("a table");
    let shop = Sandbox::empty();
    let email = "[tables.\"public.users\".columns.email]\nid = \"users.email\"\nring = \"main\"\n";
    shop.write("enfold.toml", policy(&server.url()) + email);
    let mut from = server.log().len();
    for (args, full, sampled) in [
        (&["plan", "--save", "users.plan"][..], 1, 0),
        (&["apply", "users.plan", "--yes"], 0, 0),
        (&["enforce", "--all", "--yes"], 0, 0),
        (&["verify", "--all"], 0, 0),
        (&["audit", "--full"], 1, 0),
        (&["audit"], 0, 1),
        (&["audit", "--residue"], 0, 1),
        (&["doctor"], 0, 0),
        (&["rollback", "--all", "--yes"], 0, 0),
    ] {
        let ran = shop.run(args);
        assert!(ran.code == 0 || args.contains(&"--residue"), "enfold {}: {}", ran.args, ran.stderr);
        assert_eq!(counts(&server, &mut from), (full, sampled), "enfold {}", ran.args);
    }
}
