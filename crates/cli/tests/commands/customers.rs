//! A tenant's own root key, in an OpenBao: signed, withdrawn, given back.

use enfold_testkit::openbao::ROOT_TOKEN;

use crate::harness::{Sandbox, policy};
use crate::vault::{HIDDEN, Key, wait};

const MEMBERS: &str = "CREATE TABLE members (id INTEGER PRIMARY KEY, org TEXT NOT NULL, email TEXT);
    INSERT INTO members (org, email) VALUES ('acme', 'ada@acme.example'), ('globex', 'hank@globex.example'),
        ('acme', 'grace@acme.example'), ('globex', 'homer@globex.example');";

fn shop(customer_key: &str) -> Sandbox {
    let shop = Sandbox::empty();
    shop.sql(MEMBERS);
    describe(&shop, customer_key, &[]);
    shop
}

fn describe(shop: &Sandbox, customer_key: &str, former: &[&str]) {
    let policy = policy("sqlite:app.db").replace("scope = \"column\"", "scope = \"tenant\"");
    let held = format!(
        "[rings.main.tenants.acme]\ncustomer_key = \"{customer_key}\"\nformer_customer_keys = {former:?}\n\
         [tables.members]\ntenant = \"org\"\n[tables.members.columns.email]\nid = \"members.email\"\nring = \"main\"\n"
    );
    shop.write("enfold.toml", policy + &held);
}

/// How many values of a tenant are still plaintext.
fn plain(shop: &Sandbox, tenant: &str) -> u32 {
    let sql = "SELECT count(*) FROM members WHERE org = ? AND email NOT LIKE 'enf1:%'";
    shop.database().query_row(sql, [tenant], |row| row.get(0)).expect("counted")
}

#[test]
fn a_customer_withdraws_its_root_key_and_a_job_converts_everybody_elses_rows() {
    let key = wait(Key::new());
    let (token, shop) = (wait(key.token()), shop(&key.uri));
    let run = |args: &[&str]| shop.run_with(args, &[("VAULT_TOKEN", &token)]);
    // Columns are as wide as what is hidden.
    let hidden = [HIDDEN, &[(r"KEY +SIGNED", "KEY  SIGNED")]].concat();
    run(&["keys", "customers"]).snapshot_hiding("keys_customers_unsigned", &hidden);
    run(&["keys", "customers", "--sign"]).snapshot_hiding("keys_customers_sign", &hidden);

    wait(key.allow(false));
    run(&["doctor"]).snapshot_hiding("doctor_customer_withdrew", &hidden);
    run(&["keys", "customers", "--sign"]).snapshot_hiding("keys_customers_withdrawn", &hidden);
    let left = run(&["apply", "--yes"]);
    assert_eq!(left.code, 6, "{}", left.stderr);
    assert_eq!(left.stderr.matches("(customer-key-refused)").count(), 2, "{}", left.stderr);
    assert_eq!((plain(&shop, "acme"), plain(&shop, "globex")), (2, 0));

    wait(key.allow(true));
    let again = run(&["apply", "--yes"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_eq!((plain(&shop, "acme"), plain(&shop, "globex")), (0, 0));
    run(&["keys", "wraps"]).snapshot_hiding("keys_wraps_customer", &hidden);
    run(&["keys", "customers", "--json"]).snapshot_hiding("keys_customers_json", &hidden);

    wait(key.allow(false));
    let opened = run(&["verify", "--all"]);
    assert_eq!(opened.code, 4, "{}", opened.stderr);
    assert!(opened.stderr.contains("customer-key-refused"), "{}", opened.stderr);
}

#[test]
fn a_customer_rotates_its_root_key_and_then_brings_another() {
    let (key, next) = (wait(Key::new()), wait(Key::new()));
    let shop = shop(&key.uri);
    let run = |args: &[&str]| shop.run_with(args, &[("VAULT_TOKEN", ROOT_TOKEN)]);
    // Columns are as wide as what is hidden.
    let widths = [(r"KEY +(UNWRAPS|SIGNED)", "KEY  $1"), (r"in \d+\.\d s\.", "in [n] s.")];
    let hidden = [HIDDEN, &widths].concat();
    for args in [&["keys", "customers", "--sign"][..], &["apply", "--yes"]] {
        let ran = run(args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    wait(key.rotate());
    run(&["keys", "rewrap", "main", "--dry-run"]).snapshot_hiding("keys_rewrap_customer_dry_run", &hidden);
    run(&["keys", "rewrap", "main", "--yes"]).snapshot_hiding("keys_rewrap_customer", &hidden);

    describe(&shop, &next.uri, &[&key.uri]);
    run(&["keys", "customers", "--sign"]).snapshot_hiding("keys_customers_replaced", &hidden);
    describe(&shop, &next.uri, &[]);
    run(&["keys", "customers", "--sign"]).snapshot_hiding("keys_customers_still_needed", &hidden);
    describe(&shop, &next.uri, &[&key.uri]);
    let rewrapped = run(&["keys", "rewrap", "main", "--yes"]);
    assert_eq!(rewrapped.code, 0, "{}", rewrapped.stderr);
    run(&["keys", "customers"]).snapshot_hiding("keys_customers_not_needed", &hidden);
    describe(&shop, &next.uri, &[]);
    wait(key.remove());
    for args in [&["keys", "customers", "--sign"][..], &["verify", "--all"]] {
        let ran = run(args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
}
