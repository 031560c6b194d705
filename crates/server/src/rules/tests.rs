use std::path::Path;
use std::sync::Arc;

use enfold::access::{Permission, Role};
use enfold::policy::{Policy, Variables, parse};

use super::cedar::{Ruled, Rules};
use super::{Asker, Value, schema};

/// Two rings, two classes, a value without one, and people of an issuer.
const POLICY: &str = r#"
environment = "development"
[access]
rules = "access.cedar"
[database]
url = "sqlite:a.db"
[rings.main]
id = "main"
roots = ["local:a.key"]
scope = "tenant"
[rings.cards]
id = "cards"
roots = ["local:a.key"]
scope = "column"
[tables.users]
tenant = "org"
[tables.users.columns.email]
id = "users.email"
ring = "main"
class = "email"
[tables.users.columns.card]
id = "users.card"
ring = "cards"
class = "card"
[values.note]
id = "note"
ring = "cards"
[service.issuers.login]
url = "https://login.example.com"
audience = ["enfold"]
"#;

pub(crate) fn policy() -> Policy {
    parse(POLICY, Path::new("enfold.toml"), &Variables::default()).expect("a policy")
}

pub(crate) fn rules(text: &str) -> Arc<Rules> {
    Arc::new(Rules::parse(&policy(), text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}")))
}

fn faults(text: &str) -> Vec<String> {
    Rules::parse(&policy(), text).err().unwrap_or_default()
}

fn asker<'a>(actor: &'a str, roles: &[Role]) -> Asker<'a> {
    let is_person = !actor.starts_with("service-key:");
    let source = Some("10.1.2.3".parse().expect("an address"));
    Asker { actor, is_person, has_second_factor: false, roles: roles.to_vec(), source, in_emergency: false }
}

fn decrypts(ruled: &Ruled, column: &str, tenant: Option<&str>, reason: &str) -> bool {
    ruled.forbidden(Permission::Decrypt, Some(Value { column, tenant, reason })).is_none()
}

#[test]
fn the_schema_is_one_of_cedars_and_has_what_the_policy_has() {
    let text = schema(&policy());
    assert!(text.contains(r#"entity Column enum ["note", "users.card", "users.email"];"#), "{text}");
    assert!(text.contains(r#"entity Class enum ["card", "email"];"#), "{text}");
    assert!(faults("@id(\"a\") forbid(principal, action, resource);").is_empty());
    // What a policy has none of is no part of it.
    let bare = POLICY.split("[tables").next().expect("its beginning");
    let bare = parse(bare, Path::new("enfold.toml"), &Variables::default()).expect("a policy");
    let text = schema(&bare);
    assert!(["Person", "Issuer", "Class", "Column"].iter().all(|kind| !text.contains(kind)), "{text}");
    assert!(Rules::parse(&bare, "@id(\"a\") forbid(principal, action, resource);").is_ok());
}

/// The policy that the documentation shows.
fn example() -> Policy {
    let variables: Variables = [("DATABASE_URL".to_owned(), "postgres://app@db/shop".to_owned())].into();
    enfold::policy::load(Path::new("../../examples/enfold.toml"), &variables).expect("a policy")
}

#[test]
fn the_rules_of_the_example_are_sound() {
    let rules = Rules::read(&example()).expect("they are sound").expect("there are some");
    assert_eq!(rules.names(), ["exports-say-why", "keys-from-within", "oncall-no-numbers"]);
}

#[test]
fn the_schema_in_the_reference_is_that_of_the_example() {
    let (path, text) = (Path::new("../../docs/reference/access.cedarschema"), schema(&example()));
    if std::env::var_os("ENFOLD_BLESS").is_some() {
        std::fs::write(path, &text).expect("it is written");
    }
    let stands = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stands == text, "{} is stale: run `make bless`", path.display());
}

#[test]
fn names_are_quoted_in_the_schema_whatever_they_are() {
    let odd = POLICY.replace("[values.note]", r#"[values."a \"b\" \\ é"]"#);
    let odd = parse(&odd, Path::new("enfold.toml"), &Variables::default()).expect("a policy");
    let rule = r#"@id("a") forbid(principal, action, resource in Column::"a \"b\" \\ é");"#;
    assert!(Rules::parse(&odd, rule).is_ok());
}

#[test]
fn a_rule_gives_nothing_has_a_name_and_is_about_what_there_is() {
    let refused = |rule: &str, why: &str| {
        let found = faults(&format!("// First a comment.\n\n{rule}"));
        assert!(found.iter().any(|fault| fault.starts_with("line 3: ") && fault.contains(why)), "{rule}\n{found:#?}");
    };
    refused(r#"@id("a") permit(principal, action, resource);"#, "a rule gives nothing");
    refused("forbid(principal, action, resource);", "the rule has no name");
    refused(r#"@id("") forbid(principal, action, resource);"#, "cannot stand in a log");
    refused(r#"@id("a\nb") forbid(principal, action, resource);"#, "cannot stand in a log");
    refused(r#"@id("a") forbid(principal, action, resource"#, "");
    refused(r#"@id("a") forbid(principal, action, resource in Class::"mail");"#, "mail");
    refused(r#"@id("a") forbid(principal, action, resource in Column::"users.emial");"#, "users.emial");
    refused(r#"@id("a") forbid(principal in Role::"superuser", action, resource);"#, "superuser");
    refused(r#"@id("a") forbid(principal in Issuer::"nobody", action, resource);"#, "nobody");
    refused(r#"@id("a") forbid(principal, action == Action::"encryption:open", resource);"#, "encryption:open");
    refused(r#"@id("a") forbid(principal, action, resource is Table);"#, "Table");
    // Of a program nobody knows a second factor, and a reason is said of values alone.
    refused(
        r#"@id("a") forbid(principal is ServiceKey, action, resource) unless { principal.secondFactor };"#,
        "secondFactor",
    );
    refused(r#"@id("a") forbid(principal, action, resource is Service) when { context.reason == "" };"#, "reason");
    // What can never hold forbids nothing.
    refused(r#"@id("a") forbid(principal, action == Action::"encryption:admin", resource in Class::"card");"#, "");
    assert_eq!(faults("// Nothing.\n"), ["there is no rule in it"]);
    assert_eq!(faults(r#"@id("a") forbid(principal == ?principal, action, resource);"#).len(), 1);
}

#[test]
fn everything_that_is_wrong_is_said_together_with_its_line() {
    let found = faults(
        "@id(\"a\")\nforbid(principal, action, resource);\n\n@id(\"a\") forbid(principal, action, resource);\npermit(principal, action, resource);",
    );
    assert_eq!(
        found,
        [
            "line 4: another rule has this name",
            "line 5: a rule gives nothing: write `forbid`, and have roles grant what is permitted"
        ]
    );
}

#[test]
fn rules_tell_askers_columns_tenants_and_reasons_apart() {
    let rules = rules(
        r#"
        @id("cards") forbid(principal, action, resource in Class::"card") unless { principal == ServiceKey::"billing" };
        @id("ticket") forbid(principal in Role::"reader", action == Action::"encryption:decrypt", resource)
            unless { context.reason like "INC-*" };
        @id("acme") forbid(principal is Person, action, resource in Tenant::"acme");
        "#,
    );
    let ruled = |actor, roles| Ruled::new(&rules, &asker(actor, roles));
    let billing = ruled("service-key:billing", &[Role::App]);
    assert!(decrypts(&billing, "users.card", Some("acme"), "") && decrypts(&billing, "users.email", None, ""));
    let other = ruled("service-key:other", &[Role::App]);
    assert!(!decrypts(&other, "users.card", Some("acme"), "") && decrypts(&other, "note", None, ""));
    assert!(!decrypts(&ruled("login:billing", &[Role::App]), "users.card", None, ""), "a person of a program's name");
    let reader = ruled("service-key:r", &[Role::Reader]);
    assert!(!decrypts(&reader, "users.email", None, "") && decrypts(&reader, "users.email", None, "INC-4711"));
    let person = ruled("login:ann", &[Role::App]);
    assert!(!decrypts(&person, "users.email", Some("acme"), "") && decrypts(&person, "users.email", Some("ACME"), ""));
    // By the name that the log has for it.
    let said =
        person.forbidden(Permission::Decrypt, Some(Value { column: "users.card", tenant: Some("acme"), reason: "" }));
    assert_eq!(said.as_deref(), Some("access rule `acme`, `cards` forbids it"));
}

#[test]
fn rules_tell_places_emergencies_and_second_factors_apart() {
    let rules = rules(
        r#"
        @id("office") forbid(principal, action == Action::"encryption:admin", resource)
            unless { context.source.isInRange(ip("10.0.0.0/8")) };
        @id("factor") forbid(principal is Person, action == Action::"encryption:audit", resource) unless { principal.secondFactor };
        @id("calm") forbid(principal in Role::"emergency", action, resource in Ring::"cards") when { context.emergency };
        "#,
    );
    let may = |asker: &Asker<'_>, permission| Ruled::new(&rules, asker).forbidden(permission, None).is_none();
    let near = asker("login:ann", &[Role::Admin]);
    let from = |address: &str| Asker {
        source: Some(address.parse().expect("an address")),
        ..asker("login:ann", &[Role::Admin])
    };
    assert!(may(&near, Permission::Admin));
    for far in ["11.0.0.1", "127.0.0.1", "2001:db8::1"] {
        assert!(!may(&from(far), Permission::Admin) && may(&from(far), Permission::Jobs), "{far}");
    }
    assert!(
        !may(&Asker { source: None, ..asker("login:ann", &[Role::Admin]) }, Permission::Jobs),
        "from nobody knows where"
    );
    assert!(!may(&near, Permission::Audit));
    assert!(may(&Asker { has_second_factor: true, ..asker("login:ann", &[Role::Admin]) }, Permission::Audit));
    assert!(may(&asker("service-key:ops", &[Role::Admin]), Permission::Audit));
    let oncall = |in_emergency| Ruled::new(&rules, &Asker { in_emergency, ..asker("login:ann", &[Role::Emergency]) });
    assert!(!decrypts(&oncall(true), "note", None, "") && decrypts(&oncall(true), "users.email", None, ""));
    assert!(decrypts(&oncall(false), "note", None, ""));
}

#[test]
fn what_a_rule_cannot_tell_is_forbidden() {
    // Cedar checks types and not sums: this one is beyond what it can count.
    let rules = rules(
        r#"@id("sum") forbid(principal, action, resource in Class::"card") when { 9223372036854775807 + 1 > 0 };"#,
    );
    let ruled = Ruled::new(&rules, &asker("service-key:a", &[Role::App]));
    let said = ruled.forbidden(Permission::Decrypt, Some(Value { column: "users.card", tenant: None, reason: "" }));
    assert_eq!(said.as_deref(), Some("access rule `sum` cannot be told to allow it"));
    assert!(decrypts(&ruled, "users.email", None, ""));
}

#[test]
fn a_rule_for_everything_holds_for_columns_that_are_not_there() {
    let ruled =
        Ruled::new(&rules("@id(\"all\") forbid(principal, action, resource);"), &asker("service-key:a", &[Role::App]));
    assert!(!decrypts(&ruled, "no.such", None, "") && !decrypts(&ruled, "no\"such\n", Some("\u{0}"), "'\"\\"));
    assert!(Permission::ALL.iter().filter(|of| !of.is_of_values()).all(|of| ruled.forbidden(*of, None).is_some()));
}

/// A build without Cedar.
#[test]
fn a_build_without_rules_takes_no_policy_that_has_some() {
    let error = super::without::Rules::read(&policy()).err().expect("it is refused");
    assert!(error.to_string().contains("built without access rules"), "{error}");
    let without = POLICY.replace("rules = \"access.cedar\"", "");
    let without = parse(&without, Path::new("enfold.toml"), &Variables::default()).expect("a policy");
    assert!(super::without::Rules::read(&without).expect("nothing to refuse").is_none());
}
