//! Rules in Cedar: read and validated when the service starts, and asked wherever a grant is used.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid,
    ParseErrors, Policy as Rule, PolicyId, PolicySet, Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use enfold::access::Permission;
use enfold::policy::Policy;
use enfold::{Code, Error, Result};

use super::{Asker, Value, action, schema};

/// What is granted is allowed unless a rule forbids it. A policy of Cedar's, because its decision is a denial where there is none.
const GRANTED: &str = "permit(principal, action, resource);";
/// Stands in events of refusals.
const LONGEST_NAME: usize = 100;

/// The rules of a policy.
pub struct Rules {
    set: PolicySet,
    authorizer: Authorizer,
    kinds: Kinds,
    /// What each column and value of the policy is in, its tenants aside.
    columns: HashMap<String, HashSet<EntityUid>>,
    /// Tenants that rules tell apart: those that they name, and one that none of them does. Empty where none names one.
    tenants: Vec<String>,
}

impl Rules {
    /// The rules that the policy names, if it names some.
    ///
    /// # Errors
    /// `FileFailed` where they cannot be read. `PolicyInvalid`, with everything that is wrong and its line, where one is no rule, gives
    /// something, has no name of its own, or is about what there is not.
    pub fn read(policy: &Policy) -> Result<Option<Self>> {
        let Some(path) = &policy.access_rules else { return Ok(None) };
        let text = text(path)?;
        Self::parse(policy, &text).map(Some).map_err(|faults| {
            let error = Error::new(Code::PolicyInvalid, format!("cannot use the access rules in `{}`", path.display()));
            let error = faults.into_iter().fold(error, Error::cause);
            error.hint("`enfold access-rules schema` prints what rules can be about")
        })
    }

    /// What the rules are called, in the order of their names.
    pub fn names(&self) -> Vec<&str> {
        let rules = self.set.policies().filter(|rule| rule.effect() == Effect::Forbid);
        let names: BTreeSet<&str> = rules.map(|rule| rule.id().as_ref()).collect();
        names.into_iter().collect()
    }

    /// The rules of a text, or all that is wrong with it.
    pub(super) fn parse(policy: &Policy, text: &str) -> Result<Self, Vec<String>> {
        let mut set = named(text)?;
        let (schema, _) = Schema::from_cedarschema_str(&schema(policy)).map_err(|error| vec![error.to_string()])?;
        let checked = Validator::new(schema).validate(&set, ValidationMode::Strict);
        let mut faults: Vec<_> = checked.validation_errors().map(DetailedError::from).collect();
        if faults.is_empty() {
            // That a rule can never hold, or reads like what it is not: what forbids nothing is no rule.
            faults.extend(checked.validation_warnings().map(DetailedError::from));
        }
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.source_locations.first().map(|label| label.loc.start));
            return Err(faults.iter().map(|fault| told(text, fault)).collect());
        }
        let kinds = Kinds::new()?;
        let (columns, tenants) = (columns(policy, &kinds), tenants(&set, &kinds.tenant));
        let granted = Rule::parse(Some(PolicyId::new("")), GRANTED).map_err(|error| vec![error.to_string()])?;
        set.add(granted).map_err(|error| vec![error.to_string()])?;
        Ok(Self { set, authorizer: Authorizer::new(), kinds, columns, tenants })
    }

    /// The entity of a value, with what it is in.
    fn value(&self, value: Value<'_>) -> Entity {
        let mut parents = match self.columns.get(value.column) {
            Some(known) => known.clone(),
            // It will be found that the policy has none of this name; rules that hold for everything hold until then.
            None => HashSet::from([uid(&self.kinds.column, value.column)]),
        };
        parents.extend(value.tenant.map(|tenant| uid(&self.kinds.tenant, tenant)));
        Entity::new_no_attrs(uid(&self.kinds.value, value.column), parents)
    }

    /// The entity of whoever asks.
    fn principal(&self, asker: &Asker<'_>) -> Option<Entity> {
        let kinds = &self.kinds;
        let roles = asker.roles.iter().map(|role| uid(&kinds.role, role.word()));
        let (first, second) = asker.actor.split_once(':')?;
        if !asker.is_person {
            return Some(Entity::new_no_attrs(uid(&kinds.service_key, second), roles.collect()));
        }
        let proved = RestrictedExpression::new_bool(asker.has_second_factor);
        let (attributes, parents) = ([("secondFactor".to_owned(), proved)], roles.chain([uid(&kinds.issuer, first)]));
        Entity::new(uid(&kinds.person, asker.actor), attributes.into(), parents.collect()).ok()
    }
}

/// The rules as they hold for one request.
pub(crate) struct Ruled {
    rules: Arc<Rules>,
    principal: Option<Entity>,
    source: Option<IpAddr>,
    in_emergency: bool,
}

impl Ruled {
    pub(crate) fn new(rules: &Arc<Rules>, asker: &Asker<'_>) -> Self {
        let Asker { source, in_emergency, .. } = *asker;
        Self { rules: Arc::clone(rules), principal: rules.principal(asker), source, in_emergency }
    }

    /// Which rules forbid this, with a value where it is about one; `None` where none does. What cannot be told is forbidden.
    pub(crate) fn forbidden(&self, permission: Permission, value: Option<Value<'_>>) -> Option<String> {
        let resource = match value {
            Some(value) => self.rules.value(value),
            None => Entity::new_no_attrs(uid(&self.rules.kinds.service, "enfold"), HashSet::new()),
        };
        let Some((request, entities)) = self.asked(permission, resource, value.map(|value| value.reason)) else {
            return Some("the access rules cannot be asked".to_owned());
        };
        let answer = self.rules.authorizer.is_authorized(&request, &self.rules.set, &entities);
        // Cedar passes over a rule that runs into an error, which here would be a way around it.
        let failed: BTreeSet<&str> = answer.diagnostics().errors().map(name).collect();
        match answer.decision() {
            _ if !failed.is_empty() => Some(said(&failed, "cannot be told to allow it")),
            Decision::Allow => None,
            Decision::Deny => {
                let reasons: BTreeSet<&str> = answer.diagnostics().reason().map(AsRef::as_ref).collect();
                Some(said(&reasons, "forbids it"))
            }
        }
    }

    /// Whether rules forbid this of the column's values to the same caller for some tenants and not for others. That is found out, not
    /// guessed: rules tell apart no tenants but those that they name.
    pub(crate) fn look_at_tenants(&self, permission: Permission, value: Value<'_>) -> bool {
        let mut tenants = std::iter::once(None).chain(self.rules.tenants.iter().map(|tenant| Some(tenant.as_str())));
        let is_forbidden = |tenant| self.forbidden(permission, Some(Value { tenant, ..value })).is_some();
        !self.rules.tenants.is_empty() && tenants.any(is_forbidden)
    }

    fn asked(&self, permission: Permission, resource: Entity, reason: Option<&str>) -> Option<(Request, Entities)> {
        let principal = self.principal.clone()?;
        let mut context = vec![
            ("source".to_owned(), RestrictedExpression::new_ip(self.source?.to_string())),
            ("emergency".to_owned(), RestrictedExpression::new_bool(self.in_emergency)),
        ];
        context.extend(reason.map(|text| ("reason".to_owned(), RestrictedExpression::new_string(text.to_owned()))));
        let context = Context::from_pairs(context).ok()?;
        let (who, what) = (principal.uid(), resource.uid());
        let request = Request::new(who, uid(&self.rules.kinds.action, action(permission)), what, context, None).ok()?;
        Some((request, Entities::from_entities([principal, resource], None).ok()?))
    }
}

/// The kinds of entities of the schema.
struct Kinds {
    action: EntityTypeName,
    class: EntityTypeName,
    column: EntityTypeName,
    issuer: EntityTypeName,
    person: EntityTypeName,
    ring: EntityTypeName,
    role: EntityTypeName,
    service: EntityTypeName,
    service_key: EntityTypeName,
    tenant: EntityTypeName,
    value: EntityTypeName,
}

impl Kinds {
    fn new() -> Result<Self, Vec<String>> {
        let kind = |name: &str| name.parse().map_err(|error: ParseErrors| vec![error.to_string()]);
        Ok(Self {
            action: kind("Action")?,
            class: kind("Class")?,
            column: kind("Column")?,
            issuer: kind("Issuer")?,
            person: kind("Person")?,
            ring: kind("Ring")?,
            role: kind("Role")?,
            service: kind("Service")?,
            service_key: kind("ServiceKey")?,
            tenant: kind("Tenant")?,
            value: kind("Value")?,
        })
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        Error::new(Code::FileFailed, format!("cannot read the access rules in `{}`", path.display()))
            .cause(error.kind().to_string())
    };
    std::fs::read_to_string(path).map_err(failed)
}

/// The rules of a file under their names, if each forbids something and has a name of its own.
fn named(text: &str) -> Result<PolicySet, Vec<String>> {
    let parsed: PolicySet = text.parse().map_err(|errors: ParseErrors| {
        errors.iter().map(|error| told(text, &DetailedError::from(error))).collect::<Vec<_>>()
    })?;
    if parsed.templates().next().is_some() {
        return Err(vec!["a rule has no place to fill in, as `?principal`".to_owned()]);
    }
    let (mut set, mut faults, mut end) = (PolicySet::new(), Vec::new(), 0);
    // As Cedar numbers them in a file.
    let ids = (0..).map(|number| PolicyId::new(format!("policy{number}")));
    for rule in ids.map_while(|id| parsed.policy(&id)) {
        let source = rule.to_cedar().unwrap_or_default();
        let start = text.get(end..).and_then(|rest| rest.find(&source)).map_or(end, |found| end + found);
        end = start + source.len();
        if let Err(why) = add(&mut set, rule) {
            faults.push(format!("line {}: {why}", line(text, start)));
        }
    }
    if set.is_empty() && faults.is_empty() {
        faults.push("there is no rule in it".to_owned());
    }
    if faults.is_empty() { Ok(set) } else { Err(faults) }
}

fn add(set: &mut PolicySet, rule: &Rule) -> Result<(), &'static str> {
    if rule.effect() != Effect::Forbid {
        return Err("a rule gives nothing: write `forbid`, and have roles grant what is permitted");
    }
    let name = rule.annotation("id").ok_or("the rule has no name: write `@id(\"…\")` before it")?;
    if !(1..=LONGEST_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err("the rule's name cannot stand in a log");
    }
    set.add(rule.new_id(PolicyId::new(name))).map_err(|_| "another rule has this name")
}

/// What Cedar finds wrong, with its line and rule.
fn told(text: &str, fault: &DetailedError) -> String {
    let place = fault.source_locations.first().map(|label| format!("line {}: ", line(text, label.loc.start)));
    // Cedar calls it a policy, and goes on with a comma or a colon.
    let of_rule = fault.message.strip_prefix("for policy `").and_then(|message| message.split_once('`'));
    let message = match of_rule {
        Some((rule, why)) => format!("rule `{rule}`: {}", why.trim_start_matches([',', ':', ' '])),
        None => fault.message.clone(),
    };
    let help = fault.help.as_ref().map(|help| format!(" ({help})"));
    [place, Some(message), help].into_iter().flatten().collect()
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The tenants that rules name, and one that is none of them.
fn tenants(set: &PolicySet, kind: &EntityTypeName) -> Vec<String> {
    let literals = set.policies().flat_map(Rule::entity_literals).filter(|literal| literal.type_name() == kind);
    let named: BTreeSet<String> = literals.map(|tenant| AsRef::<str>::as_ref(tenant.id()).to_owned()).collect();
    let other = named.iter().map(String::len).max().map(|longest| "x".repeat(longest + 1));
    named.into_iter().chain(other).collect()
}

fn columns(policy: &Policy, kinds: &Kinds) -> HashMap<String, HashSet<EntityUid>> {
    let columns = policy.tables.iter().flat_map(|(table, of)| {
        of.columns.iter().map(move |(name, column)| {
            let class = column.class.as_deref().map(|class| uid(&kinds.class, class));
            (format!("{table}.{name}"), &column.ring, class)
        })
    });
    let values = policy.values.iter().map(|(name, value)| (name.clone(), &value.ring, None));
    let all = columns.chain(values).map(|(name, ring, class)| {
        let parents = [uid(&kinds.column, &name), uid(&kinds.ring, ring)].into_iter().chain(class).collect();
        (name, parents)
    });
    all.collect()
}

/// Of the rule that ran into an error.
fn name(error: &AuthorizationError) -> &str {
    match error {
        AuthorizationError::PolicyEvaluationError(error) => error.policy_id().as_ref(),
    }
}

/// Names of rules, and what they do.
fn said(names: &BTreeSet<&str>, what: &str) -> String {
    let names: Vec<&str> = names.iter().copied().collect();
    format!("access rule `{}` {what}", names.join("`, `"))
}
