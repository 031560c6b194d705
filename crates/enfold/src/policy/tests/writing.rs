use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use enfold_core::index::Normaliser;
use insta::assert_snapshot;
use proptest::prelude::*;

use super::load_with;
use crate::Code;
use crate::policy::{ColumnDraft, Environment, IndexDraft, Mode, PolicyDraft, RingDraft, Scope, Variables, edit, load};

fn draft() -> PolicyDraft {
    let mut draft = PolicyDraft::new("${DATABASE_URL}", Environment::Production);
    let roots = ["aws-kms://eu-central-1/alias/customers".to_owned()];
    draft
        .add_ring(&RingDraft {
            name: "customers",
            roots: &roots,
            scope: Scope::Tenant,
            labels: &[("data_class", "personal")],
        })
        .unwrap();
    draft.set_operator_key(&[1; 32], Some(Path::new("operator.key"))).unwrap();
    draft.set_table("public.users", Some("org_id"), &["id"]).unwrap();
    draft
        .add_column(&ColumnDraft {
            table: "public.users",
            column: "email",
            class: Some("email"),
            ring: "customers",
            mode: Some(Mode::Kms),
            comment: Some("e-mail: 998 of 1,000 sampled values".into()),
            indexes: vec![IndexDraft {
                name: "eq",
                column: Some("email_eq"),
                normalise: &[Normaliser::Trim, Normaliser::Lower],
                unique: true,
                cross_tenant: true,
                comment: Some("The column is unique today.".into()),
            }],
            ..ColumnDraft::default()
        })
        .unwrap();
    draft
        .add_column(&ColumnDraft {
            table: "public.users",
            column: "phone",
            ring: "customers",
            bind_row: true,
            ..ColumnDraft::default()
        })
        .unwrap();
    draft
}

#[test]
fn a_draft_is_a_policy_that_people_can_read() {
    let text = draft().to_toml_string();
    assert_snapshot!(text, @r#"
    # The policy of Enfold: which columns of which database are protected, and under which keys.
    # Every setting: docs/reference/configuration.md. `${NAME}` stands for an environment variable.

    # Where it says nothing else, a policy is production.
    environment = "production"

    # The database whose columns are protected.
    [database]
    url = "${DATABASE_URL}"

    # Who sealed and opened what, in the catalog's `events` table.
    [events]
    catalog = true

    # A key ring. Its id is in every value and may never change.
    [rings.customers]
    id = "customers"
    roots = ["aws-kms://eu-central-1/alias/customers"]
    scope = "tenant"

    [rings.customers.labels]
    data_class = "personal"

    # What this policy trusts: ring states that the operators' key has signed.
    [trust]
    operator_key = "ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"
    operator_key_file = "operator.key"

    [tables."public.users"]
    tenant = "org_id"
    row_key = ["id"]

    # e-mail: 998 of 1,000 sampled values
    [tables."public.users".columns.email]
    id = "public.users.email"
    class = "email"
    ring = "customers"
    mode = "kms"

    # The column is unique today.
    [tables."public.users".columns.email.indexes.eq]
    column = "email_eq"
    normalise = ["trim", "lower"]
    unique = true
    cross_tenant = true

    [tables."public.users".columns.phone]
    id = "public.users.phone"
    ring = "customers"
    bind_row = true
    "#);
    let policy = load_with(&text, &[("DATABASE_URL", "postgres://h/d")]).unwrap();
    let email = &policy.tables["public.users"].columns["email"];
    assert_eq!((email.id.as_str(), email.ring.as_str()), ("public.users.email", "customers"));
    assert_eq!(email.indexes["eq"].normalise, [Normaliser::Trim, Normaliser::Lower]);
    assert!(policy.tables["public.users"].columns["phone"].bind_row);
    assert_eq!(policy.trust.operator_key, Some([1; 32]));
}

#[test]
fn what_stands_in_a_policy_already_is_not_added_again() {
    let mut draft = draft();
    let again = ColumnDraft { table: "public.users", column: "email", ring: "customers", ..ColumnDraft::default() };
    let error = draft.add_column(&again).unwrap_err();
    assert_eq!(error.message(), "`tables.\"public.users\".columns.email` stands in the policy already");
}

#[test]
fn a_setting_is_changed_and_every_comment_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enfold.toml");
    let text = "# ours\n[database]\nurl = \"sqlite:a.db\" # the shop\n\n[trust] # pinned\nmin_epoch = 3 # since May\n";
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();

    edit::set(&path, &["trust", "min_epoch"], 4).unwrap();
    edit::set_operator_key(&path, &[1; 32]).unwrap();
    edit::set(&path, &["tables", "users", "columns", "email", "min_mode"], "kms").unwrap();

    assert_snapshot!(std::fs::read_to_string(&path).unwrap(), @r#"
    # ours
    [database]
    url = "sqlite:a.db" # the shop

    [trust] # pinned
    min_epoch = 4 # since May
    operator_key = "ed25519:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"

    [tables.users.columns.email]
    min_mode = "kms"
    "#);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_change_that_fails_leaves_the_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enfold.toml");
    for text in ["[database]\nurl = \"sqlite:a.db\"\n", "[database\n"] {
        std::fs::write(&path, text).unwrap();
        for keys in [&["database", "url", "x"][..], &["database"][..]] {
            let error = edit::set(&path, keys, 1).unwrap_err();
            assert_eq!(error.code(), Code::PolicyInvalid);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}

#[test]
fn a_new_policy_never_overwrites_one_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enfold.toml");
    edit::create(&path, &draft()).unwrap();
    let variables: Variables = [("DATABASE_URL".to_owned(), "postgres://h/d".to_owned())].into();
    load(&path, &variables).unwrap();
    assert_eq!(edit::create(&path, &draft()).unwrap_err().code(), Code::FileFailed);
}

proptest! {
    #[test]
    fn names_of_any_kind_come_back_as_they_were_written(
        table in "\\PC{1,12}|[$a{}]{1,6}", column in "\\PC{1,12}|[$a{}]{1,6}", class in "\\PC{0,12}|[$a{}]{1,6}", comment in any::<String>()
    ) {
        prop_assume!(!table.contains('.'));
        prop_assume!(table.trim() == table && column.trim() == column);
        let mut draft = PolicyDraft::new("sqlite:a.db", Environment::Development);
        draft.add_ring(&RingDraft { name: "r", roots: &["local:k".into()], scope: Scope::Ring, labels: &[] }).unwrap();
        draft.add_column(&ColumnDraft {
            table: &table, column: &column, class: Some(&class), ring: "r", comment: Some(comment), ..ColumnDraft::default()
        }).unwrap();
        let policy = load_with(&draft.to_toml_string(), &[]).unwrap();
        prop_assert_eq!(&policy.tables[&table].columns[&column].id, &format!("{table}.{column}"));
        prop_assert_eq!(policy.tables[&table].columns[&column].class.as_ref(), Some(&class));
    }
}
