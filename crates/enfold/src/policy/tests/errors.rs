use std::path::Path;

use insta::assert_snapshot;

use super::{SHORT, load, refused};
use crate::Code;
use crate::policy::{self, SyslogServer, Variables, VaultSignIn};

#[test]
fn a_data_key_with_limits_is_not_shared() {
    let text = "[database]\nurl = \"sqlite:a.db\"\n[shared_cache]\nurl = \"rediss://h\"\n[rings.a]\nid = \"a\"\n\
                roots = [\"aws-kms://eu-central-1/alias/a\"]\nscope = \"ring\"\ncache = { shared = true, max_uses = 5 }";
    let error = policy::parse(text, Path::new("enfold.toml"), &Variables::default()).unwrap_err().to_string();
    assert!(error.contains("count for itself"), "{error}");
}

#[test]
fn a_rule_of_what_goes_is_whole_and_goes_by_columns_that_say_something() {
    let with = |rule: &str| {
        let text = format!(
            "environment = \"development\"\n[database]\nurl = \"postgres://db/a\"\n[rings.a]\nid = \"a\"\nroots = [\"local:a.key\"]\n\
             scope = \"ring\"\n[tables.\"public.t\".columns.at]\nid = \"t.at\"\nring = \"a\"\n[prune.old]\n{rule}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    let good = "table = \"public.t\"\ncolumn = \"made\"\nolder_than = \"0s\"";
    assert!(with(good).unwrap().prune["old"].older_than.is_zero());
    for (rule, why) in [
        ("", "prune.old.table: missing"),
        ("table = \"t\"\ncolumn = \"made\"\nolder_than = \"1d\"", "expected the table's schema and name"),
        ("table = \"public.t\"\ncolumn = \"at\"\nolder_than = \"1d\"", "says nothing of time"),
        ("table = \"public.t\"\ncolumn = \"made\"\nolder_than = \"soon\"", "duration"),
        (&format!("{good}\nonly.at = [\"a\"]"), "compares with nothing"),
        (&format!("{good}\nonly.kind = []"), "no value is named"),
        (&format!("{good}\ntakes_along = [\"uses\"]"), "expected the table's schema and name"),
        (&format!("{good}\nevery = \"1s\""), "every"),
        (&format!("{good}\nwhere = \"true\""), "unknown key"),
    ] {
        let error = with(rule).unwrap_err().to_string();
        assert!(error.contains(why), "{rule}: {error}");
    }
}

#[test]
fn marks_stand_beside_members_where_nothing_else_does() {
    let with = |scope: &str, columns: &str| {
        let text = format!(
            "environment = \"development\"\n[database]\nurl = \"postgres://db/a\"\n[rings.a]\nid = \"a\"\nroots = [\"local:a.key\"]\n\
             scope = \"{scope}\"\n{columns}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    let column = |name: &str, lines: &str| {
        format!("[tables.\"public.t\".columns.{name}]\nid = \"t.{name}\"\nring = \"a\"\n{lines}\n")
    };
    let marks = "marks = { sealed = \"is_encrypted\", version = \"key_version\" }";
    let member =
        |name: &str, path: &str, marks: &str| column(name, &format!("within = \"doc\"\npath = \"{path}\"\n{marks}"));
    let good = with("ring", &member("a", "$.contact.email", marks)).unwrap();
    let read = good.tables["public.t"].columns["a"].member.clone().unwrap();
    assert_eq!(read.marks.values().collect::<Vec<_>>(), ["is_encrypted", "key_version"]);
    assert_eq!(read.beside("key_version"), ["contact", "key_version"]);
    let twice = member("a", "$.a", marks) + &member("b", "$.b", marks);
    let over = member("a", "$.a", "marks = { sealed = \"b\" }") + &member("b", "$.b.c", "");
    for (scope, columns, why) in [
        ("ring", column("a", marks), "only a member of a document"),
        ("record", column("a", &format!("property = \"p\"\n{marks}")), "have no versions"),
        ("ring", column("a", "property = \"p\"\nmarks = { sealed = \"p\" }"), "where a value or another mark does"),
        ("ring", column("a", "property = \"p\"\nmarks = { sealed = \"\" }"), "a mark has a name"),
        ("ring", column("a", "property = \"p\"\nmarks = { seal = \"s\" }"), "unknown key"),
        ("ring", twice, "where a value or another mark does"),
        ("ring", over, "where a value or another mark does"),
    ] {
        let error = with(scope, &columns).unwrap_err().to_string();
        assert!(error.contains(why), "{columns}: {error}");
    }
}

#[test]
fn a_shared_cache_is_a_redis_that_a_ring_uses() {
    let with = |environment: &str, cache: &str, shared: bool| {
        let text = format!(
            "environment = \"{environment}\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\n\
             roots = [\"aws-kms://eu-central-1/alias/a\"]\nscope = \"ring\"\ncache = {{ shared = {shared} }}\n{cache}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    let cache = |url: &str| format!("[shared_cache]\nurl = \"{url}\"");
    let good = |url: &str| with("production", &cache(url), true).unwrap().shared_cache.unwrap();
    let read = good("rediss://cache.example.com");
    assert_eq!((read.tls, read.server().as_str(), read.database), (true, "cache.example.com:6379", 0));
    let read = good("redis://[::1]:7000/3");
    assert_eq!((read.tls, read.host.as_str(), read.port, read.database), (false, "::1", 7000, 3));
    assert!(with("staging", &cache("redis://cache.example.com"), true).is_ok());
    for (cache, shared, why) in [
        (String::new(), true, "there is no shared cache"),
        (cache("rediss://h"), false, "no ring uses it"),
        (cache("redis://cache.example.com"), true, "in the clear"),
        (cache("rediss://me:hunter2@h"), true, "a password does not belong here"),
        (cache("rediss://h/1000"), true, "not the URL of a Redis"),
        (cache("rediss://h/0?a=b"), true, "behind a `?`"),
        (cache("https://h"), true, "not the URL of a Redis"),
        (cache("cache.example.com:6379"), true, "not the URL of a Redis"),
    ] {
        let error = with("production", &cache, shared).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_passphrase_belongs_to_a_local_root_key_and_is_in_one_place() {
    let local = |table: &str| {
        let text = format!(
            "environment = \"development\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\n\
             roots = [\"local:a.key\"]\nscope = \"ring\"\n[key_services.local.{table}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    let source = |table: &str| local(table).unwrap().key_services.local.into_values().next().unwrap();
    assert_eq!(source("\"a.key\"]"), crate::kms::PassphraseSource::Variable("ENFOLD_LOCAL_PASSPHRASE".into()));
    assert_eq!(source("\"a.key\"]\npassphrase_file = \"p\""), crate::kms::PassphraseSource::File("p".into()));
    let error = local("\"b.key\"]\n").unwrap_err().to_string();
    assert!(error.contains("no root key is in this file"), "{error}");
    let error = local("\"a.key\"]\npassphrase_file = \"p\"\npassphrase_variable = \"P\"").unwrap_err().to_string();
    assert!(error.contains("not in both"), "{error}");
}

#[test]
fn a_customers_root_key_is_one_tenants_and_none_of_the_rings() {
    let with = |scope: &str, held: &str| {
        let text = format!(
            "environment = \"production\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\n\
             roots = [\"aws-kms://eu-central-1/alias/a\"]\nscope = \"{scope}\"\n[rings.a.tenants.acme]\n{held}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    let key = |uri: &str| format!("customer_key = \"{uri}\"");
    let theirs = "vault://vault.acme.example/transit/shop";
    let ring = with("tenant", &key(theirs)).unwrap().rings.remove("a").unwrap();
    assert_eq!(ring.tenants["acme"].customer_key, theirs);
    assert_eq!(ring.root_keys().collect::<Vec<_>>(), ["aws-kms://eu-central-1/alias/a", theirs]);
    let beside = |former: &str| format!("{}\nformer_customer_keys = [\"{former}\"]", key(theirs));
    let ring = with("tenant", &beside("aws-kms://eu-central-1/alias/b")).unwrap().rings.remove("a").unwrap();
    assert_eq!(ring.root_keys().nth(2).map(String::as_str), Some("aws-kms://eu-central-1/alias/b"));
    for (scope, held, why) in [
        ("ring", key(theirs), "cover the values of all tenants"),
        ("column", key(theirs), "cover the values of all tenants"),
        ("record", key(theirs), "one key for all tenants"),
        ("tenant", key("aws-kms://eu-central-1/alias/a"), "one key would stand for both"),
        ("tenant", key("https://vault.acme.example"), "not the URI of a root key"),
        ("tenant", key("local:acme.key"), "a key for development"),
        ("tenant", String::new(), "customer_key"),
        ("tenant", beside("aws-kms://eu-central-1/alias/a"), "one key would stand for both"),
        ("tenant", beside(theirs), "the same root key twice"),
        ("tenant", beside("vault"), "not the URI of a root key"),
    ] {
        let error = with(scope, &held).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn how_to_sign_in_to_a_customers_vault_is_told_as_for_one_of_ours() {
    let text = "[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\nroots = [\"aws-kms://eu-central-1/alias/a\"]\n\
                scope = \"tenant\"\n[rings.a.tenants.acme]\ncustomer_key = \"vault://vault.acme.example/transit/shop\"\n\
                [key_services.vault.\"vault.acme.example\"]\nauth = \"token\"\ntoken_file = \"acme-token\"";
    let policy = policy::parse(text, Path::new("enfold.toml"), &Variables::default()).unwrap();
    let server = &policy.key_services.vault["vault.acme.example:8200"];
    assert_eq!(server.sign_in, VaultSignIn::Token { file: Some("acme-token".into()) });
}

#[test]
fn a_file_that_is_not_there_names_the_command_that_makes_one() {
    let error = policy::load(Path::new("/nonexistent/enfold.toml"), &Variables::new()).unwrap_err();
    assert_eq!(error.code(), Code::PolicyInvalid);
    assert!(error.hints().any(|hint| hint.contains("enfold init")));
}

#[test]
fn an_unknown_key_suggests_the_nearest_one() {
    let text = SHORT.replace("ring = ", "rng = ").replace("scope", "scpoe").replace("[database]", "[databse]");
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:3: databse: unknown key (did you mean `database`?)
    enfold.toml:8: rings.customers.scpoe: unknown key (did you mean `scope`?)
    enfold.toml:11: tables.users.columns.email.rng: unknown key (did you mean `ring`?)
    "#);
}

#[test]
fn a_key_that_is_near_to_nothing_gets_no_suggestion() {
    assert_snapshot!(refused(&format!("colour = 3\n{SHORT}")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:1: colour: unknown key
    "#);
}

#[test]
fn a_receiver_of_events_has_a_place_that_nobody_listens_before() {
    let with = |environment: &str, sink: &str| {
        let text = format!(
            "environment = \"{environment}\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\n\
             roots = [\"vault://v.example.com/transit/a\"]\nscope = \"ring\"\n[events.sinks.siem]\n{sink}"
        );
        policy::parse(&text, Path::new("/etc/enfold.toml"), &Variables::default())
    };
    let syslog = |url: &str| {
        with("production", &format!("kind = \"syslog\"\nurl = \"{url}\""))
            .map(|policy| policy.events.sinks["siem"].clone())
    };
    assert_eq!(syslog("tls://logs").unwrap().syslog, Some(SyslogServer::Tls("logs".into(), 6514)));
    assert_eq!(syslog("tcp://[::1]").unwrap().syslog, Some(SyslogServer::Tcp("::1".into(), 514)));
    assert_eq!(syslog("unix:log").unwrap().syslog, Some(SyslogServer::Unix("/etc/log".into())));
    let refused = [
        ("kind = \"otlp\"", "a sink has a `kind`"),
        ("url = \"https://a\"", "a sink has a `kind`"),
        ("kind = \"webhook\"\nurl = \"https://a\"", "a webhook has one: it signs"),
        ("kind = \"otlp\"\nurl = \"https://a\"\nsecret_file = \"s\"", "is a webhook's alone"),
        ("kind = \"syslog\"\nurl = \"tls://a\"\nheaders_file = \"h\"", "syslog has no headers"),
        ("kind = \"otlp\"\nurl = \"https://ann:word@a\"", "not the URL of such a receiver"),
        ("kind = \"otlp\"\nurl = \"tls://a\"", "not the URL of such a receiver"),
        ("kind = \"syslog\"\nurl = \"https://a\"", "not the URL of such a receiver"),
        ("kind = \"syslog\"\nurl = \"tls://a/b\"", "not the URL of such a receiver"),
        ("kind = \"otlp\"\nurl = \"http://a\"", "in the clear"),
        ("kind = \"syslog\"\nurl = \"tcp://a\"", "in the clear"),
        (
            "kind = \"otlp\"\nurl = \"https://a\"\nkinds = [\"denyed\"]",
            "no kind of event `denyed` (did you mean `denied`?)",
        ),
    ];
    for (sink, wanted) in refused {
        let error = with("production", sink).unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains("word"), "{sink}: {error}");
    }
    assert!(with("staging", "kind = \"otlp\"\nurl = \"http://collector:4318/v1/logs\"").is_ok());
}

#[test]
fn wrong_types_say_what_was_expected() {
    let text = r#"
environment = "prod"
rings = 3
[database]
url = 5
[log]
format = true
level = "wran"
[context]
require_actor = "yes"
[events]
catalog = 1
file = ["x"]
[tables.t]
row_key = "id"
[tables.t.columns.c]
bind_row = 1.5
id = 1979-05-27
padding = 99999999999999999999
[jobs]
batch_rows = 0
rate = -1
lease = 5
lock_timeout = "soon"
statement_timeout = "1ms"
max_replica_lag = "3h"
"#;
    assert_snapshot!(refused(text), @r#"
    policy-invalid: the policy `enfold.toml` has 19 errors
    enfold.toml:2: environment: expected one of `development`, `staging`, `production`
    enfold.toml:3: rings: expected a table, found an integer
    enfold.toml:5: database.url: expected a string, found an integer
    enfold.toml:7: log.format: expected one of `text`, `json`, found a boolean
    enfold.toml:8: log.level: expected one of `off`, `error`, `warn`, `info`, `debug`, `trace` (did you mean `warn`?)
    enfold.toml:10: context.require_actor: expected `true` or `false`, found a string
    enfold.toml:12: events.catalog: expected `true` or `false`, found an integer
    enfold.toml:13: events.file: expected a string, found a list
    enfold.toml:15: tables.t.row_key: expected a list of strings, as `["…"]`, found a string
    enfold.toml:16: tables.t.columns.c.ring: missing
    enfold.toml:17: tables.t.columns.c.bind_row: expected `true` or `false`, found a number with a point
    enfold.toml:18: tables.t.columns.c.id: expected a string, found a date
    enfold.toml:19: tables.t.columns.c.padding: expected an integer, found a number beyond 64 bits
    enfold.toml:21: jobs.batch_rows: expected an integer from 1 to 50000
    enfold.toml:22: jobs.rate: expected an integer from 1 to 100000000
    enfold.toml:23: jobs.lease: expected a duration such as `"5m"`, found an integer
    enfold.toml:24: jobs.lock_timeout: expected a duration such as `500ms`, `30s`, `5m`, `1h30m` or `90d`
    enfold.toml:25: jobs.statement_timeout: shorter than `100ms`
    enfold.toml:26: jobs.max_replica_lag: longer than `1h`
    hint: add `ring = "…"` under `[tables.t.columns.c]`
    "#);
}

#[test]
fn text_that_is_not_toml_is_reported_with_what_can_still_be_read() {
    assert_snapshot!(refused("[database]\nurl = \"sqlite:app.db\nenvironment = development\n[rings.a]\nrng = 1\n"), @r#"
    policy-invalid: the policy `enfold.toml` has 4 errors
    enfold.toml:2: not TOML: invalid basic string, expected `"`
    enfold.toml:3: not TOML: string values must be quoted, expected literal string
    enfold.toml:3: database.environment: unknown key
    enfold.toml:5: rings.a.rng: unknown key
    "#);
}

#[test]
fn an_empty_file_says_what_is_missing() {
    assert_snapshot!(refused(""), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:1: database.url: missing
    hint: add `url = "${DATABASE_URL}"` under `[database]`
    "#);
}

#[test]
fn everything_that_must_be_there_is_asked_for_with_the_line_to_add() {
    let text = "[rings.customers]\n[tables.\"public.users\".columns.email]\n[tables.\"public.users\".indexes.name]\n[values.session]\n";
    assert_snapshot!(refused(text), @r#"
    policy-invalid: the policy `enfold.toml` has 10 errors
    enfold.toml:1: database.url: missing
    enfold.toml:1: rings.customers.id: missing
    enfold.toml:1: rings.customers.roots: missing
    enfold.toml:1: rings.customers.scope: missing
    enfold.toml:2: tables."public.users".columns.email.id: missing
    enfold.toml:2: tables."public.users".columns.email.ring: missing
    enfold.toml:3: tables."public.users".indexes.name.over: missing
    enfold.toml:3: tables."public.users".indexes.name.column: missing
    enfold.toml:4: values.session.id: missing
    enfold.toml:4: values.session.ring: missing
    hint: add `url = "${DATABASE_URL}"` under `[database]`
    hint: add `id = "customers"` under `[rings.customers]`
    hint: add `roots = ["aws-kms://REGION/KEY"]` under `[rings.customers]`
    hint: add `scope = "column"` under `[rings.customers]`
    hint: add `id = "public.users.email"` under `[tables."public.users".columns.email]`
    hint: add `ring = "…"` under `[tables."public.users".columns.email]`
    hint: add `over = ["…", "…"]` under `[tables."public.users".indexes.name]`
    hint: add `column = "name"` under `[tables."public.users".indexes.name]`
    hint: add `id = "session"` under `[values.session]`
    hint: add `ring = "…"` under `[values.session]`
    "#);
}

#[test]
fn a_ring_that_is_not_there_is_an_error_and_one_that_is_wrong_is_not_reported_twice() {
    assert_snapshot!(refused(&SHORT.replace("ring = \"customers\"", "ring = \"custmers\"")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:11: tables.users.columns.email.ring: no ring of this name (did you mean `customers`?)
    "#);
    assert_snapshot!(refused(&SHORT.replace("scope = \"column\"", "scope = \"colum\"")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:8: rings.customers.scope: expected one of `record`, `tenant`, `column`, `ring` (did you mean `column`?)
    "#);
}

#[test]
fn ids_are_unique() {
    let text = format!(
        "{SHORT}\n[tables.users.columns.phone]\nid = \"users.email\"\nring = \"customers\"\n[values.s]\nid = \"users.email\"\nring = \"customers\"\n[rings.other]\nid = \"customers\"\nroots = [\"local:x\"]\nscope = \"ring\"\n[values.t]\nid = \" x\"\nring = \"customers\"\n"
    );
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 4 errors
    enfold.toml:14: tables.users.columns.phone.id: the id is that of `tables.users.columns.email.id` already (to share it on purpose, use `same_as`)
    enfold.toml:17: values.s.id: the id is that of `tables.users.columns.email.id` already (to share it on purpose, use `same_as`)
    enfold.toml:20: rings.other.id: the id is that of `rings.customers` already
    enfold.toml:24: values.t.id: an id has no control characters and no spaces around it
    "#);
}

#[test]
fn root_keys_are_uris_of_known_kinds() {
    assert_snapshot!(refused(&SHORT.replace("[\"local:dev.key\"]", "[\"awskms://x\", \"aws-kms://x\", \"local:\", \"local:a\", \"local:a\"]")), @r#"
    policy-invalid: the policy `enfold.toml` has 4 errors
    enfold.toml:7: rings.customers.roots.0: not the URI of a root key: no key service of that name is built in: `aws-kms://…`, `gcp-kms://…`, `azure-kv://…`, `vault://…`, `pkcs11:…` and `local:…` are; did you mean `aws-kms`?
    enfold.toml:7: rings.customers.roots.1: not the URI of a root key: a region and a key are needed, as `aws-kms://eu-central-1/alias/orders`
    enfold.toml:7: rings.customers.roots.2: not the URI of a root key: a file is needed, as `local:dev.key` or `local:/etc/enfold/dev.key`
    enfold.toml:7: rings.customers.roots.4: the same root key twice
    "#);
    assert_snapshot!(refused(&SHORT.replace("[\"local:dev.key\"]", "[]")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:7: rings.customers.roots: expected one root key at least
    "#);
}

#[test]
fn a_key_of_a_token_needs_its_module_and_has_no_pin_in_its_uri() {
    let roots = r#"["pkcs11:token=a;object=b?pin-value=hunter2", "pkcs11:token=a;object=b", "pkcs11:token=a;object=c?module-path=/m.so", "pkcs11:object=%63;token=a?module-path=/n.so"]"#;
    let said = refused(&SHORT.replace("[\"local:dev.key\"]", roots));
    assert!(!said.contains("hunter2"));
    assert_snapshot!(said, @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:7: rings.customers.roots.0: not the URI of a root key: it holds a PIN (`pin-value`), and URIs are printed, stored and committed; keep the PIN in a file that nobody else can read (`pin-source=file:/etc/enfold/pin`) or in a variable; have the PIN changed if the URI was stored anywhere
    enfold.toml:7: rings.customers.roots.1: no module is named, as `?module-path=/usr/lib/module.so`
    enfold.toml:7: rings.customers.roots.3: the same root key twice
    "#);
    let sound = SHORT.replace("local:dev.key", "pkcs11:token=a;object=c?module-path=/m.so");
    assert_eq!(load(&sound).unwrap().key_services.pkcs11.sessions.get(), 4);
}

#[test]
fn a_local_key_in_production_has_a_code_of_its_own() {
    let text = SHORT.replace("development", "production");
    assert_snapshot!(refused(&text), @r#"
    local-key-in-production: the policy `enfold.toml` has 1 error
    enfold.toml:7: rings.customers.roots.0: a key for development, and the environment is production
    hint: name a root key of a key service, or set `environment = "development"`
    "#);
    let allowed = text.replace("scope =", "allow_local_in_production = true\nscope =");
    assert!(load(&allowed).is_ok());
    assert_eq!(load(&text.replace("local:dev.key", "vault://v/k")).unwrap_err().code(), Code::KmsUriInvalid);
    assert_eq!(load(&format!("{text}\nx = 1")).unwrap_err().code(), Code::PolicyInvalid);
}

#[test]
fn a_ring_by_tenant_needs_a_tenant_column_and_a_bound_row_its_key() {
    let text = SHORT
        .replace("\"column\"", "\"tenant\"")
        .replace("id = \"users.email\"", "id = \"users.email\"\nbind_row = true");
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 2 errors
    enfold.toml:11: tables.users.columns.email.bind_row: a column that is bound to its row needs the table's `row_key`
    enfold.toml:12: tables.users.columns.email.ring: a ring with the scope `tenant` needs the table's tenant column
    hint: add `tenant = "…"` under `[tables.users]`
    hint: add `row_key = ["id"]` under `[tables.users]`
    "#);
}

#[test]
fn columns_that_values_are_bound_to_stay_readable() {
    let text = format!("{SHORT}\n[tables.users]\ntenant = \"email\"\nrow_key = [\"id\", \"email\", \"id\"]\n");
    let text = text.replace("[tables.users.columns.email]\nid = \"users.email\"\nring = \"customers\"\n", "")
        + "[tables.users.columns.email]\nid = \"users.email\"\nring = \"customers\"\n";
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:11: tables.users.tenant: the tenant column is protected itself; name one that stays readable
    enfold.toml:12: tables.users.row_key.1: the column is protected itself; name one that stays readable
    enfold.toml:12: tables.users.row_key.2: the same column twice
    "#);
}

#[test]
fn a_unique_index_is_never_truncated() {
    let text = format!(
        "{SHORT}\n[tables.users.columns.email.indexes.eq]\nunique = true\nbits = 32\nnormalise = [\"lower\", \"last:4\", \"lowr\"]\n"
    );
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:15: tables.users.columns.email.indexes.eq.bits: a unique index is never truncated; leave it at 256
    enfold.toml:16: tables.users.columns.email.indexes.eq.normalise.2: unknown normaliser (did you mean `lower`?)
    enfold.toml:16: tables.users.columns.email.indexes.eq.normalise: a unique index is never truncated; `last` and `word-prefix` are
    "#);
}

#[test]
fn an_index_and_a_shadow_have_a_column_of_their_own() {
    let text = format!(
        "{SHORT}shadow = \"x\"\n[tables.users.columns.email.indexes.a]\ncolumn = \"x\"\n[tables.users.columns.email.indexes.b]\ncolumn = \"x\"\n[tables.users.columns.email.indexes.c]\ncolumn = \"email\"\n"
    );
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:14: tables.users.columns.email.indexes.a.column: two indexes, shadows or companions in one column
    enfold.toml:16: tables.users.columns.email.indexes.b.column: two indexes, shadows or companions in one column
    enfold.toml:18: tables.users.columns.email.indexes.c.column: the column holds something else; an index, a shadow or a companion needs one of its own
    "#);
}

#[test]
fn a_member_has_a_path_of_its_own_in_a_column_that_is_not_protected_as_a_whole() {
    let column = |name: &str, lines: &str| {
        format!("[tables.users.columns.{name}]\nid = \"u.{name}\"\nring = \"customers\"\n{lines}\n")
    };
    let text = [
        column("a", "within = \"profile\""),
        column("b", "within = \"profile\"\npath = \"contact.email\""),
        column("c", "within = \"profile\"\npath = \"$.contact\"\nshadow = \"c_enf\""),
        column("d", "within = \"profile\"\npath = \"$.contact.phone\""),
        column("e", "within = \"email\"\npath = '$.\"e-mail address\"'"),
    ];
    assert_snapshot!(refused(&format!("{SHORT}\n{}", text.concat())), @r#"
    policy-invalid: the policy `enfold.toml` has 5 errors
    enfold.toml:13: tables.users.columns.a.path: missing
    enfold.toml:21: tables.users.columns.b.path: expected a path of members, as `$.contact.email`
    enfold.toml:27: tables.users.columns.c.shadow: a member of a document needs no shadow
    enfold.toml:32: tables.users.columns.d.path: the member is another entry's, or lies in it
    enfold.toml:36: tables.users.columns.e.within: the column is protected as a whole, or bound to
    hint: add `path = "$.…"` under `[tables.users.columns.a]`
    "#);
}

#[test]
fn a_compound_index_covers_protected_columns_of_one_ring() {
    let text = format!(
        "{SHORT}\n[tables.users.indexes.both]\nover = [\"email\", \"emial\", \"email\"]\ncolumn = \"both\"\n[tables.users.indexes.one]\nover = [\"email\"]\ncolumn = \"one\"\n"
    );
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:14: tables.users.indexes.both.over.1: no protected column of this table (did you mean `email`?)
    enfold.toml:14: tables.users.indexes.both.over.2: the same column twice
    enfold.toml:17: tables.users.indexes.one.over: expected two columns at least; an index over one stands under its column
    "#);
}

#[test]
fn a_column_shares_an_id_only_with_one_that_binds_alike() {
    let text = format!(
        "{SHORT}\n[tables.archive]\ntenant = \"org\"\nrow_key = [\"id\"]\n[tables.archive.columns.email]\nsame_as = \"users.email\"\nbind_row = true\nid = \"other\"\n[tables.archive.columns.b]\nsame_as = \"archive.email\"\n[tables.archive.columns.c]\nsame_as = \"users.emial\"\n"
    );
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 5 errors
    enfold.toml:17: tables.archive.columns.email.same_as: only one of the two tables has a tenant column, so that values could not be moved
    enfold.toml:18: tables.archive.columns.email.bind_row: not as for the column in `same_as`, so that values could not be moved
    enfold.toml:19: tables.archive.columns.email.id: another id than that of the column in `same_as`; leave it out
    enfold.toml:21: tables.archive.columns.b.same_as: that column shares another's id itself; name the other
    enfold.toml:23: tables.archive.columns.c.same_as: no column of this policy, as `schema.table.column` (did you mean `users.email`?)
    "#);
}

#[test]
fn a_mode_below_the_least_one_is_refused() {
    let text = SHORT
        .replace("id = \"users.email\"", "id = \"users.email\"\nmode = \"legacy\"\nmin_mode = \"kms\"\npadding = 1");
    assert_snapshot!(refused(&text), @r#"
    policy-invalid: the policy `enfold.toml` has 2 errors
    enfold.toml:12: tables.users.columns.email.min_mode: stronger than the column's `mode`
    enfold.toml:13: tables.users.columns.email.padding: expected an integer from 2 to 1048576
    "#);
}

#[test]
fn tables_are_named_as_their_database_names_them() {
    assert_snapshot!(refused(&SHORT.replace("tables.users", "tables.\"public.users\"")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:9: tables."public.users": expected the table's name without a schema, as `users`
    "#);
    assert_snapshot!(refused(&SHORT.replace("sqlite:app.db", "postgres://h/d")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:9: tables.users: expected the table's schema and name, as `"public.users"`
    "#);
}

#[test]
fn labels_are_words() {
    assert_snapshot!(refused(&SHORT.replace("scope =", "labels = { \"a b\" = \"x\", enfold_ring = \"y\", n = 3 }\nscope =")), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:8: rings.customers.labels.n: expected a string, found an integer
    enfold.toml:8: rings.customers.labels."a b": a label is of letters, digits, `_`, `-` and `.`, and does not begin with `enfold`
    enfold.toml:8: rings.customers.labels.enfold_ring: a label is of letters, digits, `_`, `-` and `.`, and does not begin with `enfold`
    "#);
}

#[test]
fn a_key_is_known_by_the_operators_whole() {
    assert_snapshot!(refused(&format!("{SHORT}\n[trust]\noperator_key = \"ed25519:AAAA\"\nmin_epoch = -1\n")), @r#"
    policy-invalid: the policy `enfold.toml` has 2 errors
    enfold.toml:14: trust.operator_key: the key after `ed25519:` is not 32 bytes long
    enfold.toml:15: trust.min_epoch: expected an integer of 0 at least
    "#);
}

/// Two rings, and two tables whose columns share an id: sound until one line of it is changed.
const SHARED: &str = r#"
database.url = "sqlite:app.db"
environment = "development"
[rings.a]
id = "a"
roots = ["local:k"]
scope = "record"
record_wrap = "kms"
[rings.b]
id = "b"
roots = ["local:k"]
scope = "ring"
[tables.t]
row_key = ["x", "y"]
[tables.t.columns.c]
id = "t.c"
ring = "a"
bind_row = true
[tables.t.columns.d]
id = "t.d"
ring = "a"
[tables.t.indexes.both]
over = ["c", "d"]
column = "both"
[tables.old]
row_key = ["x", "y"]
[tables.old.columns.c]
same_as = "t.c"
bind_row = true
"#;

#[test]
fn one_changed_line_of_a_sound_policy_is_one_error() {
    load(SHARED).unwrap();
    let changes: &[&[(&str, &str)]] = &[
        &[("scope = \"record\"", "scope = \"ring\"")],
        &[("id = \"t.d\"\nring = \"a\"", "id = \"t.d\"\nring = \"b\"")],
        &[("[tables.old]\nrow_key = [\"x\", \"y\"]", "[tables.old]\nrow_key = [\"x\"]")],
        &[("same_as = \"t.c\"", "same_as = \"t.c\"\nring = \"b\"")],
        &[("id = \"t.d\"", "id = \"\"")],
        &[("[tables.t.columns.d]", "[tables.t.columns.\"\"]"), ("over = [\"c\", \"d\"]", "over = [\"c\", \"\"]")],
        &[("[tables.t]\nrow_key = [\"x\", \"y\"]", "[tables.t]\nrow_key = [\"x\", \"x\"]")],
    ];
    let lines = changes.iter().map(|change| {
        let mut text = SHARED.to_owned();
        for (from, to) in *change {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        refused(&text).lines().skip(1).collect::<Vec<_>>().join("\n")
    });
    assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
    enfold.toml:8: rings.a.record_wrap: only a ring with the scope `record` has keys of records
    enfold.toml:23: tables.t.indexes.both.over: the columns belong to different rings; an index has one key
    enfold.toml:29: tables.old.columns.c.bind_row: the `row_key` is of another length than that of the column in `same_as`
    enfold.toml:29: tables.old.columns.c.ring: another ring than that of the column in `same_as`; leave it out
    enfold.toml:20: tables.t.columns.d.id: expected an id of 1 to 200 bytes
    enfold.toml:19: tables.t.columns."": expected the name of a column
    enfold.toml:14: tables.t.row_key.1: the same column twice
    "#);
}

#[test]
fn how_to_reach_google_is_refused_where_no_root_key_is_there_or_the_account_is_none() {
    let google = "[key_services.google]\nimpersonate = \"orders/../admin\"\n";
    assert_snapshot!(refused(&format!("{SHORT}{google}")), @r"
    policy-invalid: the policy `enfold.toml` has 2 errors
    enfold.toml:12: key_services.google: no root key is in Google Cloud KMS
    enfold.toml:13: key_services.google.impersonate: not the address of a service account, as `orders@my-project.iam.gserviceaccount.com`
    ");
}

#[test]
fn a_role_of_aws_is_one_and_belongs_to_a_root_key_of_the_policy() {
    let aws = "[key_services.aws.\"aws-kms://eu-central-1/alias/a\"]\nrole_arn = \"arn:aws:iam::1:user/x\"\n\
        external_id = \"a b\"\n[key_services.aws.\"aws-kms://eu-central-1/alias/b\"]\nrole_arn = \"x\"\n\
        [key_services.aws.\"aws-kms://eu-central-1/alias/c\"]\nexternal_id = \"shop\"\n";
    let text = SHORT
        .replace("[\"local:dev.key\"]", "[\"aws-kms://eu-central-1/alias/a\", \"aws-kms://eu-central-1/alias/c\"]");
    assert_snapshot!(refused(&format!("{text}{aws}")), @r#"
    policy-invalid: the policy `enfold.toml` has 4 errors
    enfold.toml:13: key_services.aws."aws-kms://eu-central-1/alias/a".role_arn: not the ARN of a role, as `arn:aws:iam::111122223333:role/enfold`
    enfold.toml:14: key_services.aws."aws-kms://eu-central-1/alias/a".external_id: 2 to 1224 letters, digits and `_+=,.@:/-`
    enfold.toml:15: key_services.aws."aws-kms://eu-central-1/alias/b": no root key of AWS KMS has this URI
    enfold.toml:17: key_services.aws."aws-kms://eu-central-1/alias/c".role_arn: missing
    hint: add `role_arn = "arn:aws:iam::ACCOUNT:role/NAME"` under `[key_services.aws."aws-kms://eu-central-1/alias/c"]`
    "#);
}

#[test]
fn a_way_to_sign_in_to_azure_takes_its_own_file_alone() {
    let azure = "[key_services.azure]\nauth = \"client-secret\"\ntoken_file = \"t\"\ntenant_id = \"a/b\"\nauthority = \"http://h\"\n";
    let text = SHORT.replace("local:dev.key", "azure-kv://shop.vault.azure.net/keys/orders");
    assert_snapshot!(refused(&format!("{text}{azure}")), @r"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:14: key_services.azure.token_file: this way to sign in has no use for it
    enfold.toml:15: key_services.azure.tenant_id: made of letters, digits, `-` and `.`
    enfold.toml:16: key_services.azure.authority: not an authority, as `https://login.microsoftonline.com`
    ");
}

#[test]
fn a_way_to_sign_in_to_vault_takes_its_own_settings_alone() {
    let text = SHORT.replace("local:dev.key", "vault://v/transit/orders");
    let vault = "[key_services.vault.\"v\"]\n";
    let by_token = format!("{vault}auth_mount = \"token\"\nrole_id = \"r\"\nsecret_id_file = \"s\"");
    assert_snapshot!(refused(&format!("{text}{by_token}")), @r"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:13: key_services.vault.v.auth_mount: this way to sign in has no use for it
    enfold.toml:14: key_services.vault.v.role_id: this way to sign in has no use for it
    enfold.toml:15: key_services.vault.v.secret_id_file: this way to sign in has no use for it
    ");
    let by_role = format!("{vault}auth = \"approle\"\nauth_mount = \"a b\"\ntoken_file = \"t\"");
    assert_snapshot!(refused(&format!("{text}{by_role}")), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:12: key_services.vault.v.role_id: missing
    enfold.toml:14: key_services.vault.v.auth_mount: made of letters, digits, `-`, `_` and `/`
    enfold.toml:15: key_services.vault.v.token_file: this way to sign in has no use for it
    hint: add `role_id = "…"` under `[key_services.vault.v]`
    "#);
    let by_jwt = format!("{vault}auth = \"jwt\"\nrole_id = \"r\"");
    assert_snapshot!(refused(&format!("{text}{by_jwt}")), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:12: key_services.vault.v.role: missing
    enfold.toml:12: key_services.vault.v.jwt_file: missing
    enfold.toml:14: key_services.vault.v.role_id: this way to sign in has no use for it
    hint: add `role = "…"` under `[key_services.vault.v]`
    hint: add `jwt_file = "…"` under `[key_services.vault.v]`
    "#);
    let by_certificate = format!("{vault}auth = \"cert\"\njwt_file = \"j\"");
    assert_snapshot!(refused(&format!("{text}{by_certificate}")), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:12: key_services.vault.v.client_certificate_file: missing
    enfold.toml:12: key_services.vault.v.client_key_file: missing
    enfold.toml:14: key_services.vault.v.jwt_file: this way to sign in has no use for it
    hint: add `client_certificate_file = "…"` under `[key_services.vault.v]`
    hint: add `client_key_file = "…"` under `[key_services.vault.v]`
    "#);
}

#[test]
fn a_kubernetes_service_account_has_its_token_where_pods_have_it() {
    let text = SHORT.replace("local:dev.key", "vault://v/transit/orders");
    let vault = "[key_services.vault.\"v\"]\nauth = \"kubernetes\"\nrole = \"orders\"\n";
    let policy = load(&format!("{text}{vault}")).unwrap();
    let file = "/var/run/secrets/kubernetes.io/serviceaccount/token".into();
    let (mount, role) = ("kubernetes".to_owned(), "orders".to_owned());
    assert_eq!(policy.key_services.vault["v:8200"].sign_in, VaultSignIn::Kubernetes { mount, role, file });
}

#[test]
fn proxies_that_are_trusted_are_networks() {
    let with = |service: &str| {
        let text = format!(
            "environment = \"development\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\nroots = [\"local:a.key\"]\n\
             scope = \"ring\"\n[service]\n{service}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    let service = with("trusted_proxies = [\"10.0.0.0/8\"]\nproxy_header = \"forwarded\"").unwrap().service;
    assert!(service.trusted_proxies[0].contains([10, 1, 2, 3].into()));
    assert_eq!(service.proxy_header, policy::ProxyHeader::Forwarded);
    let error = with("trusted_proxies = [\"10.0.0.0/8\", \"everybody\"]").unwrap_err().to_string();
    assert!(error.contains("service.trusted_proxies: not all of them are networks"), "{error}");
    assert!(with("proxy_header = \"x-real-ip\"").is_err());
}

#[test]
fn figures_have_a_prefix_that_names_may_begin_with_and_an_address() {
    let with = |metrics: &str| {
        let text = format!(
            "environment = \"development\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\nroots = [\"local:a.key\"]\n\
             scope = \"ring\"\n[metrics]\n{metrics}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    assert_eq!(with("prefix = \"gl\"").unwrap().metrics.prefix, "gl");
    for prefix in ["", "_a", "a_", "1a", "A", "a-b", "a b", "é"] {
        let error = with(&format!("prefix = \"{prefix}\"")).unwrap_err().to_string();
        assert!(error.contains("metrics.prefix: not the beginning of a name"), "{prefix}: {error}");
    }
    let error = with("listen = \"everywhere\"").unwrap_err().to_string();
    assert!(error.contains("metrics.listen: not an address and a port"), "{error}");
    assert!(with("coverage_every = \"1s\"").is_err());
}

#[test]
fn a_collector_of_traces_has_a_url_without_credentials() {
    let with = |traces: &str| {
        let text = format!(
            "environment = \"development\"\n[database]\nurl = \"sqlite:a.db\"\n[rings.a]\nid = \"a\"\nroots = [\"local:a.key\"]\n\
             scope = \"ring\"\n[traces]\n{traces}"
        );
        policy::parse(&text, Path::new("enfold.toml"), &Variables::default())
    };
    let good = with("endpoint = \"http://collector:4318/v1/traces\"\npercent = 5").unwrap().traces;
    assert_eq!((good.endpoint.as_deref(), good.percent), (Some("http://collector:4318/v1/traces"), 5));
    for endpoint in ["collector:4318", "grpc://collector:4317", "http://ann:word@collector:4318/v1/traces", "http://"] {
        let error = with(&format!("endpoint = \"{endpoint}\"")).unwrap_err().to_string();
        assert!(error.contains("traces.endpoint: not the URL of a collector"), "{endpoint}: {error}");
        assert!(!error.contains("word"), "{error}");
    }
    assert!(with("percent = 101").is_err());
}
