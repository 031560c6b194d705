use std::path::{Path, PathBuf};
use std::time::Duration;

use enfold_core::index::Normaliser;
use proptest::prelude::*;

use super::{SHORT, load, load_with};
use crate::policy::{
    self, Environment, Level, Lookalikes, Mode, RecordWrap, Salt, Scheme, Scope, TriggerChoice, Variables, parse,
};

/// The example that the documentation shows; it sets every key.
fn example() -> policy::Policy {
    // Tests run in the folder of their crate.
    let path = Path::new("../../examples/enfold.toml");
    let variables: Variables = [("DATABASE_URL".to_owned(), "postgres://app:hidden@db/shop".to_owned())].into();
    policy::load(path, &variables).unwrap_or_else(|e| panic!("{e:?}"))
}

#[test]
fn the_example_loads_whole() {
    let policy = example();
    assert_eq!(policy.environment, Environment::Production);
    assert_eq!(policy.database.display(), "postgres://app:***@db/shop");
    assert_eq!(policy.database.scheme(), Scheme::Postgres);
    assert_ne!(policy.catalog, policy.database);
    assert!(policy.trust.operator_key.is_some());
    assert_eq!(policy.trust.min_epoch, 7);
    assert!(policy.trust.operator_key_file.as_ref().unwrap().ends_with("examples/operator.key"));
    assert!(policy.context.require_actor && !policy.context.require_reason);
    assert!(policy.log.json);
    assert_eq!(policy.log.level, Level::Info);
    assert_eq!(policy.log.levels, ["kms=debug"]);
    assert!(policy.log.filter().starts_with("off,enfold=info,"));
    assert!(policy.log.filter().ends_with(",enfold::kms=debug"));
    assert!(policy.events.catalog);
    assert!(policy.events.file.as_ref().unwrap().ends_with("examples/enfold-events.jsonl"));

    let ring = &policy.rings["customers"];
    assert_eq!((ring.id.as_str(), ring.scope, ring.roots.len()), ("customers", Scope::Tenant, 2));
    assert_eq!(ring.labels["data_class"], "personal");
    let rotation = &ring.rotation;
    assert_eq!((rotation.cadence, rotation.enabled), (Some(Duration::from_secs(90 * 86_400)), true));
    assert_eq!((rotation.reencrypt_batch_size, rotation.reencrypt_rate), (1_000, Some(17)));
    assert_eq!(ring.cache.stale_if_error, Duration::from_secs(1_800));
    let held = &ring.tenants["0f8fad5b-d9cb-469f-a165-70867728950e"];
    assert!(held.customer_key.starts_with("aws-kms://arn:aws:kms:"));
    assert_eq!(held.former_customer_keys, ["vault://vault.customer.example:8200/transit/shop"]);
    assert_eq!(policy.rings["records"].record_wrap, RecordWrap::Ring);

    let tokens = &policy.prune["expired-tokens"];
    assert_eq!(
        (tokens.table.as_str(), tokens.column.as_str(), tokens.unit),
        ("public.scoped_tokens", "expires_at", None)
    );
    assert_eq!((tokens.older_than.as_secs(), tokens.every), (30 * 86_400, Some(Duration::from_secs(86_400))));
    assert_eq!(tokens.only["kind"], ["invitation", "one-time"]);
    assert!(tokens.takes_along.contains("public.token_uses"));
    assert_eq!(policy.prune["used-links"].unit, Some(policy::TimeUnit::Seconds));

    let users = &policy.tables["public.users"];
    assert_eq!(users.tenant.as_deref(), Some("org_id"));
    assert_eq!(users.triggers["users_touch"], TriggerChoice::Fire);
    let email = &users.columns["email"];
    assert_eq!((email.id.as_str(), email.mode, email.min_mode), ("public.users.email", Mode::Kms, Mode::Hybrid));
    let eq = &email.indexes["eq"];
    assert_eq!((eq.column.as_str(), eq.bits, eq.unique, eq.cross_tenant), ("email_eq", 256, true, true));
    assert_eq!(eq.normalise, [Normaliser::Trim, Normaliser::Lower]);
    assert_eq!(eq.over, ["email"]);
    let notes = &users.columns["notes"];
    assert_eq!((notes.padding, notes.salt, notes.lookalikes), (Some(256), Salt::Each, Lookalikes::Plaintext));
    assert!(notes.bind_row);
    assert_eq!(users.indexes["name"].over, ["last_name", "first_name"]);

    let archived = &policy.tables["archive.users"].columns["email"];
    assert_eq!((archived.id.as_str(), archived.ring.as_str()), ("public.users.email", "customers"));
    assert_eq!(policy.values["session"].id, "session-cache");
    assert_eq!(policy.jobs.rate, Some(5_000));
    assert_eq!(policy.service.listen, "[::1]:8470".parse().unwrap());
    assert_eq!((policy.service.limits.max_body, policy.service.limits.max_batch), (2 << 20, 5_000));
    let login = &policy.service.issuers["login"];
    assert_eq!((login.audience.as_slice(), login.leeway), (["enfold".to_owned()].as_slice(), Duration::from_secs(10)));
    assert_eq!(login.algorithms, [policy::TokenAlgorithm::Es256, policy::TokenAlgorithm::EdDsa].into());
    assert!(login.ca_file.as_ref().unwrap().ends_with("examples/login-ca.pem"));
    assert_eq!(login.grants["support"].claim, ["realm_access", "roles"]);
    assert_eq!(login.grants["support"].grant.tenants, Some([].into()), "the claim says which");
    assert_eq!(login.grants["export"].grant.columns, Some(["session".to_owned()].into()));
    assert!(policy.column("public.users.email").is_some());
    assert!(policy.column("public.users.emial").is_none());
    assert!(policy.column("public.users").is_none());
}

#[test]
fn a_policy_that_does_not_say_is_production() {
    let text =
        SHORT.replace("environment = \"development\"\n", "").replace("local:dev.key", "aws-kms://eu-west-1/alias/k");
    assert_eq!(load(&text).unwrap().environment, Environment::Production);
}

#[test]
fn defaults_are_those_of_the_reference() {
    let policy = load(SHORT).unwrap();
    let cache = policy.rings["customers"].cache;
    assert_eq!(cache.ttl, Duration::from_secs(300));
    assert_eq!(cache.stale_if_error, Duration::ZERO);
    assert_eq!(cache.max_unseen, Duration::from_secs(30));
    let email = &policy.tables["users"].columns["email"];
    assert_eq!((email.mode, email.min_mode, email.lookalikes), (Mode::Kms, Mode::Legacy, Lookalikes::Refuse));
    assert_eq!(policy.catalog, policy.database);
    assert!(policy.jobs.lock_timeout < Duration::from_secs(1));
}

#[test]
fn relative_paths_start_at_the_policys_folder() {
    let text = format!("{SHORT}\n[events]\nfile = \"e.jsonl\"\n[trust]\noperator_key_file = \"keys/o.key\"\n");
    let policy = parse(&text, Path::new("/etc/enfold/enfold.toml"), &Variables::new()).unwrap();
    assert_eq!(policy.database.sqlite_path(), Some(Path::new("/etc/enfold/app.db")));
    assert_eq!(policy.events.file, Some(PathBuf::from("/etc/enfold/e.jsonl")));
    assert_eq!(policy.trust.operator_key_file, Some(PathBuf::from("/etc/enfold/keys/o.key")));
    assert_eq!(policy.folder(), Path::new("/etc/enfold"));
}

#[test]
fn a_policy_that_was_loaded_from_a_file_holds_absolute_paths_only() {
    let policy = example();
    assert!(policy.path.is_absolute() && policy.folder().is_absolute());
    assert!(policy.events.file.as_ref().unwrap().is_absolute());
    assert!(policy.trust.operator_key_file.as_ref().unwrap().is_absolute());
}

#[test]
fn an_index_column_has_the_name_of_column_and_index_unless_it_says_otherwise() {
    let policy = load(&format!("{SHORT}\n[tables.users.columns.email.indexes.eq]\n")).unwrap();
    assert_eq!(policy.tables["users"].columns["email"].indexes["eq"].column, "email_eq");
}

#[test]
fn a_policy_that_was_read_never_prints_a_password() {
    let policy = load_with(
        &SHORT.replace("sqlite:app.db", "${URL}").replace("tables.users", "tables.\"public.users\""),
        &[("URL", "postgres://u:hunter2@h/d")],
    )
    .unwrap();
    assert!(!format!("{policy:?}").contains("hunter2"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        let _ = load(&text);
    }

    /// A sound policy with a few lines replaced, dropped or doubled gets much deeper than random text does.
    #[test]
    fn a_broken_policy_never_panics(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..4, "[a-z\\[\\]\"=.${}:0-9 ]{0,12}"), 1..5)
    ) {
        let mut lines: Vec<String> = include_str!("../../../../../examples/enfold.toml").lines().map(str::to_owned).collect();
        for (at, kind, text) in edits {
            let at = at.index(lines.len());
            match kind {
                0 => { lines.remove(at); }
                1 => lines[at] = text,
                2 => lines[at].push_str(&text),
                _ => { let line = lines[at].clone(); lines.push(line); }
            }
        }
        let _ = load(&lines.join("\n"));
    }

    /// Random TOML of the right outer shape: every setting with a value of any type.
    #[test]
    fn random_values_never_panic(
        table in prop_oneof!["database", "catalog", "trust", "log", "log.levels", "events", "rings.a", "rings.a.cache",
            "rings.a.labels", "rings.a.rotation", "tables.t", "tables.t.columns.c", "tables.t.columns.c.indexes.i", "tables.t.indexes.i",
            "values.v", "jobs"],
        key in prop_oneof!["url", "operator_key", "level", "kms", "id", "roots", "scope", "cadence", "ttl", "tenant",
            "row_key", "ring", "mode", "same_as", "padding", "over", "column", "normalise", "bits", "rate", "lease"],
        value in prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()), any::<bool>().prop_map(|b| b.to_string()),
            "\"[a-z:/${}0-9-]{0,10}\"", Just("[1, \"x\"]".to_owned()), Just("{ a = 1 }".to_owned()), Just("1.5".to_owned()),
            Just("1979-05-27".to_owned()), Just("[[[]]]".to_owned()),
        ],
    ) {
        let _ = load(&format!("[{table}]\n{key} = {value}\n"));
    }
}
