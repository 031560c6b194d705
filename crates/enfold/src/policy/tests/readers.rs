use enfold_core::Form;
use enfold_core::readers::{Companion, Foreign};
use insta::assert_snapshot;
use serde_json::Value as Json;

use super::{SHORT, load, refused};
use crate::policy::KeySource;

/// `SHORT` with readers, and what its column says of them.
fn with(readers: &str, column: &str) -> String {
    format!("{SHORT}{column}\n{readers}")
}

#[test]
fn a_column_names_its_readers_in_the_order_in_which_they_are_tried() {
    let readers = "[readers.new]\nformat = \"fernet\"\nkey_variables = [\"NEW\", \"OLD\"]\nkey_files = [\"old.key\"]\n\
                   [readers.older]\nformat = \"pgcrypto\"\nkey_files = [\"/run/passphrase\"]";
    let policy = load(&with(readers, "reads = [\"older\", \"new\"]")).unwrap();
    assert_eq!(policy.tables["users"].columns["email"].reads, ["older", "new"]);
    let new = &policy.readers["new"];
    let keys =
        [KeySource::Variable("NEW".into()), KeySource::Variable("OLD".into()), KeySource::File("old.key".into())];
    assert_eq!(new.keys, keys);
    assert!(new.several_in_one && !policy.readers["older"].several_in_one);
    assert!(new.format.is_authenticated());
}

/// The settings that stand beside the published values of each format are those of a policy, and open them.
#[test]
fn the_settings_of_every_published_value_make_a_reader_that_opens_it() {
    let mut files = 0;
    for entry in std::fs::read_dir("../../vectors/foreign").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let case: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let settings = case["reader"].as_object().unwrap().iter().map(|(key, value)| match value {
            Json::Object(fields) => {
                let fields = fields.iter().map(|(part, name)| format!("{part} = {name}")).collect::<Vec<_>>();
                format!("{key} = {{ {} }}\n", fields.join(", "))
            }
            value => format!("{key} = {value}\n"),
        });
        let text = format!("[readers.old]\n{}key_variables = [\"OLD\"]", settings.collect::<String>());
        let name = path.display();
        let accept = if text.contains("sqlalchemy-utils-aes\"") { "unauthenticated = \"accept\"" } else { "" };
        let apart = case["reader"]["apart"].as_array().into_iter().flatten().map(|word| word.as_str().unwrap());
        let companions: String = apart.map(|word| format!("companions.{word} = \"a_{word}\"\n")).collect();
        let policy = load(&with(&text, &format!("reads = [\"old\"]\n{accept}\n{companions}")))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let keys: Vec<_> =
            case["keys"].as_array().unwrap().iter().map(|k| k.as_str().unwrap().as_bytes().to_vec().into()).collect();
        let format = &policy.readers["old"].format;
        files += 1;
        if cfg!(feature = "fips") && case["reader"]["iv_bytes"] == 16 {
            assert!(format.with_keys(&keys).is_err(), "{name}");
            continue;
        }
        let reader = format.with_keys(&keys).unwrap();
        let refused = path.to_string_lossy().contains("_refused");
        for value in case["values"].as_array().unwrap() {
            let stored = match value["stored"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => unhex(value["stored_hex"].as_str().unwrap()),
            };
            let beside = format.apart().iter().map(|is| (*is, value["beside"][is.word()].as_str().unwrap().as_bytes()));
            let beside: Vec<_> = beside.collect();
            let value = Foreign::new(Form::Text, &stored, &beside);
            assert!(format.recognises(&value), "{name}");
            assert_eq!(reader.open(&value).is_err(), refused, "{name}");
        }
    }
    assert!(files >= 43, "{files}");
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn everything_that_is_wrong_with_readers_is_said_at_once() {
    let readers = r#"[readers.a]
[readers.b]
format = "fernet"
key_variables = ["gAAAAABn-not a name"]
derive = "sha256"
[readers.c]
format = "aes-256-gcm"
key_variables = ["C"]
parts = ["iv", "nonce"]
derive = "pbkdf2-sha256"
[readers.d]
format = "aes-256-gcm"
key_files = ["d"]
encoding = "raw"
separator = ":"
derive = "scrypt"
salt = "zz"
salt_encoding = "hex"
scrypt_n = 1000
[readers.e]
format = "lockbox"
key_files = ["e"]
table = "users"
encoding = "hex"
[readers.f]
format = "sqlalchemy-utils-aes"
key_variables = ["F"]
[readers.g]
format = "rails"
key_variables = ["G"]
[readers.h]
format = "pgcrypto"
key_variables = ["H"]
encoding = "base64url""#;
    assert_snapshot!(refused(&with(readers, "reads = [\"f\", \"old\", \"b\", \"b\"]")), @r#"
    policy-invalid: the policy `enfold.toml` has 17 errors
    enfold.toml:12: tables.users.columns.email.reads.0: its values are not authenticated: nobody can tell whether one was changed
    enfold.toml:12: tables.users.columns.email.reads.1: no reader of this name
    enfold.toml:12: tables.users.columns.email.reads.3: the same reader twice
    enfold.toml:13: readers.a.format: missing
    enfold.toml:13: readers.a.key_variables: missing
    enfold.toml:16: readers.b.key_variables.0: not the name of an environment variable, as `OLD_KEY`; the key itself does not belong here
    enfold.toml:17: readers.b.derive: this format, as it is declared here, has no use for it
    enfold.toml:18: readers.c.iterations: missing
    enfold.toml:18: readers.c.salt: missing
    enfold.toml:21: readers.c.parts: the parts are `iv`, `ciphertext` and `tag`; in `fields` also `data_key`
    enfold.toml:26: readers.d.encoding: parts that stand alone are texts: `hex`, `base64` or `base64url`
    enfold.toml:29: readers.d.salt: not spelled as `salt_encoding` says
    enfold.toml:31: readers.d.scrypt_n: expected a power of two; and N times r may take 1 GiB of memory at most
    enfold.toml:32: readers.e.attribute: missing: a key is made of the master key for a table and a column
    enfold.toml:36: readers.e.encoding: expected `base64` or `raw`
    enfold.toml:40: readers.g.salt: missing
    enfold.toml:46: readers.h.encoding: expected one of `raw`, `armor`, `base64` and `hex`
    hint: add `format = "fernet"` under `[readers.a]`
    hint: add `key_variables = ["OLD_KEY"]` under `[readers.a]`
    hint: add `iterations = 100_000` under `[readers.c]`
    hint: add `salt = "…"` under `[readers.c]`
    hint: add `salt = "…"` under `[readers.g]`
    hint: to accept that, add `unauthenticated = "accept"` under `[tables.users.columns.email]`
    "#);
}

#[test]
fn what_stands_apart_from_a_value_has_a_column_of_its_own() {
    let readers = r#"[readers.old]
format = "aes-256-gcm"
key_variables = ["OLD"]
apart = ["iv", "tag"]
[readers.twice]
format = "aes-256-gcm"
key_variables = ["OLD"]
apart = ["iv"]
parts = ["iv", "ciphertext"]
[readers.other]
format = "aes-256-gcm"
key_variables = ["OLD"]
apart = ["nonce"]
prefix = "v{version}0"
iv_bytes = 13
"#;
    let column = |more: &str| with(readers, &format!("reads = [\"old\", \"twice\", \"other\"]\n{more}"));
    assert_snapshot!(refused(&column("companions = { iv = \"email_iv\" }")), @r#"
    policy-invalid: the policy `enfold.toml` has 4 errors
    enfold.toml:22: readers.twice.parts: expected `iv` and `ciphertext` once each, and `tag` where it is a part of its own; what is `apart` left out
    enfold.toml:26: readers.other.apart.0: no part that stands apart
    enfold.toml:27: readers.other.prefix: expected `{version}` once at most, and behind it what no version has in it, as `:`
    enfold.toml:28: readers.other.iv_bytes: expected 12 or 16
    "#);
    let sound = readers.split("[readers.twice]").next().unwrap();
    let column = |more: &str| with(sound, &format!("reads = [\"old\"]\n{more}"));
    let policy = load(&column("companions = { iv = \"email_iv\", tag = \"email_tag\" }")).unwrap();
    let companions = &policy.tables["users"].columns["email"].companions;
    assert_eq!(companions[&Companion::Iv], "email_iv");
    assert_snapshot!(refused(&column("companions = { iv = \"email_iv\", version = \"v\", key_id = \"k\" }")), @r#"
    policy-invalid: the policy `enfold.toml` has 3 errors
    enfold.toml:13: tables.users.columns.email.companions: `tag` is missing, which reader `old` has apart from the value
    enfold.toml:13: tables.users.columns.email.companions.version: no reader of the column has this apart from the value
    enfold.toml:13: tables.users.columns.email.companions.key_id: no part that stands apart
    hint: name its column: `companions = { tag = "…" }`
    "#);
    let shared = "companions = { iv = \"email_iv\", tag = \"email_iv\" }\nshadow = \"email_sealed\"";
    assert_snapshot!(refused(&column(shared)), @r#"
    policy-invalid: the policy `enfold.toml` has 2 errors
    enfold.toml:13: tables.users.columns.email.companions: what is in a shadow, or a member of a document, has no columns beside it
    enfold.toml:13: tables.users.columns.email.companions.tag: two indexes, shadows or companions in one column
    "#);
}

#[test]
fn a_table_of_keys_says_how_a_row_is_found_and_what_is_in_it() {
    let readers = r#"[readers.a]
format = "aes-256-gcm"
apart = ["iv", "data_key", "key"]
root = "aws-kms://eu-central-1/alias/a"
[readers.a.key_table]
table = "public.keys"
id = "id"
root = "arn"
key = "derived"
[readers.b]
format = "aes-256-gcm"
prefix = "v{version}:"
key_variables = ["B"]
[readers.b.key_table]
table = "keys"
tenant = "org"
root = "arn"
[readers.c]
format = "fernet"
[readers.c.key_table]
id = "id"
tenant = "org"
[readers.d]
format = "aes-256-gcm"
apart = ["key"]
key_variables = ["D"]
[readers.old]
format = "aes-256-gcm"
root = "aws-kms://eu-central-1/alias/a"
[readers.old.key_table]
table = "keys"
tenant = "org"
data_key = "dek"
"#;
    assert_snapshot!(refused(&with(readers, "reads = [\"old\"]")), @r#"
    policy-invalid: the policy `enfold.toml` has 13 errors
    enfold.toml:12: tables.users.columns.email.reads.0: its keys are a tenant's, and the table has no `tenant` column
    enfold.toml:13: readers.a.roots: missing
    enfold.toml:16: readers.a.root: this format, as it is declared here, has no use for it
    enfold.toml:18: readers.a.key_table.table: expected the table's schema and name, as `public.keys`; on SQLite its name alone
    enfold.toml:25: readers.b.key_variables: this format, as it is declared here, has no use for it
    enfold.toml:26: readers.b.key_table.version: missing: the column with the versions that values name
    enfold.toml:26: readers.b.key_table: expected `data_key` or `key`: the column with the keys
    enfold.toml:29: readers.b.key_table.root: nothing is wrapped, so no root key opens it
    enfold.toml:32: readers.c.key_table.table: missing
    enfold.toml:32: readers.c.key_table: expected `id`, or `tenant`: the column by which a value's row is found
    enfold.toml:32: readers.c.key_table: expected `data_key` or `key`: the column with the keys
    enfold.toml:32: readers.c.key_table: this format, as it is declared here, has no use for it
    enfold.toml:37: readers.d.apart: `key` and `version` lead to a row of `key_table`, and there is none
    hint: add `roots = ["aws-kms://REGION/KEY"]` under `[readers.a]`
    hint: add `table = "public.encryption_keys"` under `[readers.c.key_table]`
    "#);
}

#[test]
fn a_format_that_is_not_authenticated_must_be_accepted_where_it_is_read() {
    let reader = |format: &str| format!("[readers.old]\nformat = \"{format}\"\nkey_variables = [\"OLD\"]");
    let aes = reader("sqlalchemy-utils-aes");
    assert_snapshot!(refused(&with(&aes, "reads = [\"old\"]")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:12: tables.users.columns.email.reads.0: its values are not authenticated: nobody can tell whether one was changed
    hint: to accept that, add `unauthenticated = "accept"` under `[tables.users.columns.email]`
    "#);
    assert!(load(&with(&aes, "reads = [\"old\"]\nunauthenticated = \"accept\"")).is_ok());
    assert_snapshot!(refused(&with(&reader("fernet"), "reads = [\"old\"]\nunauthenticated = \"accept\"")), @r#"
    policy-invalid: the policy `enfold.toml` has 1 error
    enfold.toml:13: tables.users.columns.email.unauthenticated: every reader of the column authenticates its values
    "#);
}

#[test]
fn a_format_of_a_key_service_has_a_root_key_and_no_other() {
    let root =
        |format: &str, rest: &str| with(&format!("[readers.old]\nformat = \"{format}\"\n{rest}"), "reads = [\"old\"]");
    let vault = "root = \"vault://vault.example.com/transit/app\"";
    let aws = "root = \"aws-kms://eu-central-1/alias/app\"";
    let policy = load(&root("vault-transit", vault)).unwrap();
    let reader = &policy.readers["old"];
    assert!(reader.keys.is_empty() && reader.roots.as_ref().unwrap().uris[0].as_str().starts_with("vault://"));
    let fields = "fields = { data_key = \"dek\", ciphertext = \"data\" }";
    assert!(load(&root("aes-256-gcm", &format!("{aws}\n{fields}\nencryption_context = {{ app = \"a\" }}"))).is_ok());
    for (format, rest, why) in [
        ("vault-transit", String::new(), "root: missing"),
        ("vault-transit", aws.into(), "not a key of a service"),
        ("aws-kms", vault.into(), "not a key of a service"),
        ("aws-kms", format!("{aws}\nkey_variables = [\"A\"]"), "has no use for it"),
        ("aes-256-gcm", format!("{aws}\nkey_variables = [\"A\"]"), "has no use for it"),
        ("aes-256-gcm", fields.into(), "root: missing"),
        ("aes-256-gcm", format!("{aws}\n{fields}\nderive = \"sha256\""), "has no use for it"),
        ("fernet", format!("{aws}\nkey_variables = [\"A\"]"), "has no use for it"),
        ("vault-transit", format!("{vault}\nencryption_context = {{ app = \"a\" }}"), "one `context` at most"),
    ] {
        let error = load(&root(format, &rest)).unwrap_err().to_string();
        assert!(error.contains(why), "{format} {rest}: {error}");
    }
    // How the server is signed in to is told as for a root key of a ring.
    let sign_in = "[key_services.vault.\"vault.example.com\"]\nauth = \"token\"\ntoken_file = \"token\"";
    assert!(load(&root("vault-transit", &format!("{vault}\n{sign_in}"))).is_ok());
}

#[test]
fn a_column_is_written_in_the_format_of_one_of_its_readers() {
    let reader = |name: &str, settings: &str| format!("[readers.{name}]\n{settings}\nkey_variables = [\"OLD\"]\n");
    let all = [
        reader("tokens", "format = \"fernet\""),
        reader("layout", "format = \"aes-256-gcm\"\nfields = { iv = \"iv\", ciphertext = \"data\", tag = \"tag\" }"),
        reader("apart", "format = \"aes-256-gcm\"\napart = [\"iv\"]"),
        reader("loose", "format = \"sqlalchemy-utils-aes\""),
        reader("rails", "format = \"rails\"\nsalt = \"salt\""),
    ]
    .concat();
    for name in ["tokens", "layout"] {
        let policy = load(&with(&all, &format!("reads = [\"rails\", \"{name}\"]\nwrites = \"{name}\""))).unwrap();
        assert_eq!(policy.tables["users"].columns["email"].writes.as_deref(), Some(name));
    }
    let separator = reader("dashed", "format = \"aes-256-gcm\"\nencoding = \"base64url\"\nseparator = \"--\"");
    let faults = [
        "reads = [\"tokens\"]\nwrites = \"token\"",
        "reads = [\"rails\"]\nwrites = \"rails\"",
        "reads = [\"apart\"]\nwrites = \"apart\"\ncompanions = { iv = \"email_iv\" }",
        "reads = [\"loose\", \"tokens\"]\nwrites = \"tokens\"\nunauthenticated = \"accept\"",
        "shadow = \"email_enf\"\nreads = [\"tokens\"]\nwrites = \"tokens\"",
    ];
    let faults = faults.iter().map(|column| with(&all, column));
    let faults = faults.chain([with(&separator, "reads = [\"dashed\"]")]);
    let said = faults.map(|policy| refused(&policy).split_once('\n').unwrap().1.to_owned());
    assert_snapshot!(said.collect::<Vec<_>>().join("\n"), @r#"
    enfold.toml:13: tables.users.columns.email.writes: none of the column's `reads` (did you mean `tokens`?)
    enfold.toml:13: tables.users.columns.email.writes: this format, as its reader is declared, is read and not written
    hint: `fernet` and its like are written, and `aes-256-gcm` whose values lie in one column, under a key of yours
    enfold.toml:13: tables.users.columns.email.writes: this format, as its reader is declared, is read and not written
    hint: `fernet` and its like are written, and `aes-256-gcm` whose values lie in one column, under a key of yours
    enfold.toml:13: tables.users.columns.email.writes: a reader before it in `reads` does not authenticate, and could take its values for its own
    enfold.toml:14: tables.users.columns.email.writes: a column with a shadow goes back to values of its own type
    enfold.toml:16: readers.dashed.separator: what is encoded may hold it, so that nobody could tell the parts from each other
    "#);
}
