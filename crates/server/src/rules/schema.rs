//! What rules can be about, as a schema in Cedar's own form: made from a policy, so that a column, class, ring or issuer that the policy
//! has not is a mistake of the rule, and none that waits to be noticed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use enfold::access::{Permission, Role};
use enfold::policy::Policy;

const HEAD: &str = "\
// What access rules can be about, by the policy at hand: `enfold access-rules schema` prints it.

// Who asks. Service keys by their names, people as the log of events calls them: ISSUER:SUBJECT.
entity ServiceKey in [Role];
";

/// The schema of rules for this policy.
pub fn schema(policy: &Policy) -> String {
    let columns =
        policy.tables.iter().flat_map(|(table, of)| of.columns.iter().map(move |(name, column)| (table, name, column)));
    let classes: BTreeSet<&str> = columns.clone().filter_map(|(_, _, column)| column.class.as_deref()).collect();
    let names: BTreeSet<String> =
        columns.map(|(table, name, _)| format!("{table}.{name}")).chain(policy.values.keys().cloned()).collect();
    let issuers: BTreeSet<&str> = policy.service.issuers.keys().map(String::as_str).collect();
    let rings: BTreeSet<&str> = policy.rings.keys().map(String::as_str).collect();

    let mut text = String::from(HEAD);
    let asker = if issuers.is_empty() { "[ServiceKey]" } else { "[ServiceKey, Person]" };
    if !issuers.is_empty() {
        text.push_str("entity Person in [Role, Issuer] {\n  // Whether their token proves one, by `service.emergency`.\n  secondFactor: Bool,\n};\n");
    }
    one_of(&mut text, "Role", Role::ALL.iter().map(|role| role.word()));
    one_of(&mut text, "Issuer", issuers);
    text.push_str("\n// What is asked for: a value, which is of a column, of its class, its ring, and a tenant, ...\n");
    let mut parents: Vec<&str> = Vec::new();
    for (kind, names) in [("Column", names.iter().map(String::as_str).collect()), ("Class", classes), ("Ring", rings)] {
        if !names.is_empty() {
            parents.push(kind);
        }
        one_of(&mut text, kind, names);
    }
    parents.push("Tenant");
    let _ = writeln!(text, "entity Tenant;\nentity Value in [{}];", parents.join(", "));
    text.push_str("// ... or what the service does besides.\n");
    one_of(&mut text, "Service", ["enfold"]);
    let (values, others) = Permission::ALL.into_iter().partition(|permission| permission.is_of_values());
    text.push_str("\n// What for. `source` is where the request came from, `reason` what it says for one: \"\" where it says none.\n");
    actions(&mut text, values, asker, "Value", "source: ipaddr, emergency: Bool, reason: String");
    actions(&mut text, others, asker, "Service", "source: ipaddr, emergency: Bool");
    text
}

/// A kind of which there are these, if there are some.
fn one_of<'a>(text: &mut String, kind: &str, names: impl IntoIterator<Item = &'a str>) {
    let names: Vec<String> = names.into_iter().map(quoted).collect();
    if !names.is_empty() {
        let _ = writeln!(text, "entity {kind} enum [{}];", names.join(", "));
    }
}

fn actions(text: &mut String, permissions: Vec<Permission>, principal: &str, resource: &str, context: &str) {
    let words: Vec<String> = permissions.into_iter().map(|permission| quoted(super::action(permission))).collect();
    let _ = writeln!(
        text,
        "action {} appliesTo {{\n  principal: {principal},\n  resource: {resource},\n  context: {{ {context} }},\n}};",
        words.join(", "),
    );
}

/// A string of Cedar's, whose escapes are Rust's.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}
