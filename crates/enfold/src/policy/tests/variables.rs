use std::time::Duration;

use insta::assert_snapshot;

use super::{SHORT, load_with, refused_with};
use crate::policy::Scope;

#[test]
fn a_variable_stands_for_any_part_of_a_string() {
    let text = SHORT.replace("sqlite:app.db", "sqlite:${DIR}/${NAME:-app}.db");
    let policy = load_with(&text, &[("DIR", "/data")]).unwrap();
    assert_eq!(policy.database.display(), "sqlite:/data/app.db");
    let policy = load_with(&text, &[("DIR", "/data"), ("NAME", "shop")]).unwrap();
    assert_eq!(policy.database.display(), "sqlite:/data/shop.db");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let text = SHORT.replace("sqlite:app.db", "sqlite:${NAME:-app.db}");
    assert_eq!(load_with(&text, &[("NAME", "")]).unwrap().database.display(), "sqlite:app.db");
}

#[test]
fn a_doubled_dollar_is_the_character_itself() {
    let text = SHORT.replace("sqlite:app.db", "sqlite:$${HOME}$5.db");
    assert_eq!(load_with(&text, &[("HOME", "x")]).unwrap().database.display(), "sqlite:${HOME}$5.db");
}

#[test]
fn a_variable_holds_numbers_booleans_and_lists_too() {
    let text = format!("{SHORT}\n[jobs]\nrate = \"${{RATE}}\"\n[context]\nrequire_actor = \"${{ACTOR}}\"\n");
    let variables = [("RATE", "500"), ("ACTOR", "true"), ("ENFOLD_RINGS_CUSTOMERS_ROOTS", "local:a.key, local:b.key")];
    let policy = load_with(&text, &variables).unwrap();
    assert_eq!(policy.jobs.rate, Some(500));
    assert!(policy.context.require_actor);
    assert_eq!(policy.rings["customers"].roots, ["local:a.key", "local:b.key"]);
}

#[test]
fn a_missing_variable_is_an_error_at_its_place() {
    let text = SHORT.replace("sqlite:app.db", "${SHOP_URL}").replace("local:dev.key", "local:${KEY");
    assert_snapshot!(refused_with(&text, &[]), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:4: database.url: the environment variable `SHOP_URL` is not set
    enfold.toml:4: database.url: expected `postgres://user@host/database` or `sqlite:path`
    enfold.toml:7: rings.customers.roots: `${` without its `}`
    "#);
}

#[test]
fn a_settings_own_variable_goes_before_the_file() {
    let variables = [
        ("ENFOLD_DATABASE_URL", "sqlite:/other.db"),
        ("ENFOLD_RINGS_CUSTOMERS_SCOPE", "ring"),
        ("ENFOLD_RINGS_CUSTOMERS_CACHE_TTL", "1m"),
        ("ENFOLD_TABLES_USERS_COLUMNS_EMAIL_CLASS", "email"),
        ("ENFOLD_LOG_LEVELS_KMS", "debug"),
        ("ENFOLD_CONFIG", "not a setting"),
    ];
    let policy = load_with(SHORT, &variables).unwrap();
    assert_eq!(policy.database.display(), "sqlite:/other.db");
    assert_eq!(policy.rings["customers"].scope, Scope::Ring);
    assert_eq!(policy.rings["customers"].cache.ttl, Duration::from_secs(60));
    assert_eq!(policy.tables["users"].columns["email"].class.as_deref(), Some("email"));
    assert_eq!(policy.log.levels, ["kms=debug"]);
}

#[test]
fn errors_of_a_variable_name_it_and_never_its_value() {
    let variables = [
        ("ENFOLD_DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("ENFOLD_RINGS_CUSTOMERS_SCOPE", "hunter2"),
        ("ENFOLD_JOBS_RATE", "hunter2"),
        ("ENFOLD_TRUST_MIN_EPOHC", "3"),
        ("ENFOLD_RINGS_CUSTOMER_SCOPE", "ring"),
    ];
    let lines = refused_with(SHORT, &variables);
    assert!(!lines.contains("hunter2"), "{lines}");
    assert_snapshot!(lines, @r#"
    policy-invalid: the policy `enfold.toml` has 5 errors
    ENFOLD_DATABASE_URL: database.url: unknown kind of database; expected `postgres://` or `sqlite:`
    ENFOLD_JOBS_RATE: jobs.rate: expected an integer, found something else in the variable
    ENFOLD_RINGS_CUSTOMERS_SCOPE: rings.customers.scope: expected one of `record`, `tenant`, `column`, `ring`
    ENFOLD_RINGS_CUSTOMER_SCOPE: no setting of this policy has this variable (did you mean `ENFOLD_RINGS_CUSTOMERS_SCOPE`?)
    ENFOLD_TRUST_MIN_EPOHC: no setting of this policy has this variable (did you mean `ENFOLD_TRUST_MIN_EPOCH`?)
    "#);
}

#[test]
fn a_variable_that_could_mean_two_settings_is_refused() {
    let text = format!(
        "{SHORT}\n[rings.a-b]\nid=\"1\"\nroots=[\"local:x\"]\nscope=\"ring\"\n[rings.a_b]\nid=\"2\"\nroots=[\"local:x\"]\nscope=\"ring\"\n"
    );
    assert_snapshot!(refused_with(&text, &[("ENFOLD_RINGS_A_B_SCOPE", "column")]), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    ENFOLD_RINGS_A_B_SCOPE: the variable may mean `rings.a-b.scope` or `rings.a_b.scope`; set it in the file
    "#);
}
