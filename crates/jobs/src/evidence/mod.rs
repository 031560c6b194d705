//! Evidence: what a standard's controls ask, looked at in the running system, and signed.
//!
//! Which checks speak for which control is data, in `evidence/` of this crate: it is reviewed as code is, and holds no control but those
//! that users named. What a check looks at is code, in `checks`. What is not looked at is said not to be, with the reason: nothing is met
//! because nobody asked.

mod checks;
mod page;
#[cfg(test)]
mod tests;

use enfold::events::Signer;
use enfold::evidence::{Checked, Control, Outcome, SignedEvidence, Statement};
use enfold::{CallContext, Code, Enfold, Error, Result};
use jiff::Timestamp;
use serde::Deserialize;

use self::checks::{Check, Look};
pub use self::page::page;
use crate::ops::Session;

/// Name and version of what makes evidence.
const PROGRAM: &str = concat!("enfold ", env!("CARGO_PKG_VERSION"));

/// A standard for which there is a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standard {
    Soc2,
    Iso27001,
    Hipaa,
    Pci,
    Gdpr,
}

/// A file of `evidence/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    title: String,
    controls: Vec<Mapped>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapped {
    id: String,
    title: String,
    /// Who names it.
    from: Vec<String>,
    checks: Vec<String>,
    note: Option<String>,
}

impl Standard {
    pub const ALL: [Self; 5] = [Self::Soc2, Self::Iso27001, Self::Hipaa, Self::Pci, Self::Gdpr];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Soc2 => "soc2",
            Self::Iso27001 => "iso27001",
            Self::Hipaa => "hipaa",
            Self::Pci => "pci",
            Self::Gdpr => "gdpr",
        }
    }

    /// From its word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standard| standard.word() == word)
    }

    /// Its name, for people.
    pub fn title(self) -> Result<String> {
        self.mapping().map(|mapping| mapping.title)
    }

    fn mapping(self) -> Result<Mapping> {
        let text = match self {
            Self::Soc2 => include_str!("../../evidence/soc2.toml"),
            Self::Iso27001 => include_str!("../../evidence/iso27001.toml"),
            Self::Hipaa => include_str!("../../evidence/hipaa.toml"),
            Self::Pci => include_str!("../../evidence/pci.toml"),
            Self::Gdpr => include_str!("../../evidence/gdpr.toml"),
        };
        toml::from_str(text).map_err(|_| Error::new(Code::Internal, format!("the mapping of {} is none", self.word())))
    }
}

/// Looks at everything that the controls of a standard ask, and signs what came of it. Reads every row of the policy's tables.
///
/// # Errors
/// Those of the signer. What a check cannot look at is no error of this: it was not checked then, and the reason stands there.
pub async fn collect(
    session: &Session,
    enfold: &Enfold,
    standard: Standard,
    context: &CallContext,
    signer: &dyn Signer,
) -> Result<SignedEvidence> {
    let mapping = standard.mapping()?;
    let look = Look::new(session, enfold, context);
    let mut checks: Vec<Checked> = Vec::new();
    for check in Check::ALL {
        if mapping.controls.iter().any(|control| control.checks.iter().any(|id| id == check.id())) {
            checks.push(check.look(&look).await);
        }
    }
    let statement = Statement {
        format: Statement::FORMAT,
        standard: standard.word().to_owned(),
        title: mapping.title,
        made_at: Timestamp::now().to_string(),
        made_by: context.actor.clone(),
        program: PROGRAM.to_owned(),
        environment: session.policy.environment.word().to_owned(),
        rings: session.policy.rings.values().map(|ring| ring.id.to_string()).collect(),
    };
    let controls = mapping.controls.into_iter().map(|mapped| control(mapped, &checks)).collect();
    SignedEvidence::sign(statement, controls, checks, signer).await
}

/// The key that signs evidence: the log's, and where the policy names none the operators'.
///
/// # Errors
/// `OperatorKeyMissing` if neither is here.
pub async fn signer(enfold: &Enfold) -> Result<Box<dyn Signer>> {
    match enfold.log_signer().await? {
        Some(key) => Ok(key),
        None => Ok(Box::new(enfold.operator()?)),
    }
}

/// Whether this program makes pages as the one did that made the evidence: those of another may look otherwise.
pub fn is_of_this_program(signed: &SignedEvidence) -> bool {
    signed.statement.program == PROGRAM
}

/// Met where every check is, and not met where one is not.
fn control(mapped: Mapped, checks: &[Checked]) -> Control {
    let of = checks.iter().filter(|check| mapped.checks.contains(&check.id));
    let outcome = of.map(|check| check.outcome).min().unwrap_or(Outcome::NotChecked);
    let Mapped { id, title, from, checks, note } = mapped;
    let title = format!("{title} ({})", from.join(", "));
    Control { id, title, checks, outcome, note }
}
