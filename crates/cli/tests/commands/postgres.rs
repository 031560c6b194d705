//! What only a real Postgres server can refuse: a role without rights.

use enfold_testkit::postgres::Database;

use crate::harness::Sandbox;

#[tokio::test]
async fn a_role_without_rights_is_told_which_are_missing_and_changes_nothing() {
    let database = Database::create().await;
    let owner = database.connect().await;
    let role = format!("enfold_cli_{}", std::process::id());
    owner
        .batch_execute(&format!(
            "CREATE TABLE users (id int PRIMARY KEY, email text);
             INSERT INTO users VALUES (1, 'ada@example.com');
             DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN"
        ))
        .await
        .expect("a table and a role");
    let shop = Sandbox::shop();
    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    shop.write(
        "enfold.toml",
        format!(
            "environment = \"development\"\n[database]\nurl = \"{url}\"\n[trust]\noperator_key_file = \"op.key\"\n\
             [rings.main]\nid = \"main\"\nroots = [\"local:root.key\"]\nscope = \"column\"\n\
             [catalog]\nurl = \"sqlite:catalog.db\"\n\
             [tables.\"public.users\".columns.email]\nid = \"users.email\"\nring = \"main\"\n"
        ),
    );
    // The owner's own session may or may not be there to be seen.
    let hidden = [
        (role.as_str(), "[role]"),
        (r"(?m)^mind \[connected-application\].*\n.*\n", ""),
        (r"(?m)^connected and not registered: .*\n", ""),
    ];
    // The catalog lives elsewhere, where this role may write; an empty file is an empty SQLite database.
    shop.write("catalog.db", "");
    shop.run(&["plan"]).snapshot_hiding("no_rights_plan", &hidden);
    shop.run(&["apply", "--yes"]).snapshot_hiding("no_rights_apply", &hidden);
    shop.run(&["audit", "--full"]).snapshot_hiding("no_rights_audit", &hidden);
    let email: String = owner.query_one("SELECT email FROM users", &[]).await.expect("a row").get(0);
    assert_eq!(email, "ada@example.com");
    owner.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.expect("the role goes");
}
