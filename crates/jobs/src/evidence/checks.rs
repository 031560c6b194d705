//! What is looked at: one table of checks, with what each asks and what its answer rests on. The looks themselves are in the files
//! beside. Each says what it found in counts and names; no value, key or tenant is in it.

mod keys;
mod log;
mod restored;
mod stored;

use enfold::evidence::{Checked, Outcome};
use enfold::{CallContext, Code, Enfold, Error, Result, RootHealth};
use jiff::Timestamp;
use tokio::sync::OnceCell;

use crate::ops::Session;

/// What checks look at.
pub(super) struct Look<'a> {
    pub(super) session: &'a Session,
    pub(super) enfold: &'a Enfold,
    /// Who has it looked at.
    pub(super) context: &'a CallContext,
    /// Two checks go by it, and each look asks every key service.
    roots: OnceCell<Vec<RootHealth>>,
}

macro_rules! checks {
    ($( $name:ident = $id:literal, $look:path, $question:literal, $limits:literal; )*) => {
        /// Something that is looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Check { $( $name, )* }

        impl Check {
            pub(super) const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The word in the mapping.
            pub(super) const fn id(self) -> &'static str { match self { $( Self::$name => $id, )* } }

            pub(super) const fn question(self) -> &'static str { match self { $( Self::$name => $question, )* } }

            /// What the answer rests on, and what it does not say.
            pub(super) const fn limits(self) -> &'static str { match self { $( Self::$name => $limits, )* } }

            async fn find(self, look: &Look<'_>) -> Result<Found> {
                match self { $( Self::$name => $look(look).await, )* }
            }
        }
    };
}

checks! {
    Coverage = "coverage", stored::coverage, "Is every stored value of the policy's columns an envelope?",
        "A count by stored form, of every row, in a database that its administrators can write to. Whether envelopes open is for \
         `enfold verify`; what the policy does not name is not looked at.";
    Modes = "modes", stored::modes, "Do the operators say of every column that it holds envelopes and nothing else?",
        "The modes that they signed. What the database itself refuses is not looked at.";
    Classes = "classes", stored::classes, "Does the policy say of every column what class of data it holds?",
        "The policy's words. Whether they are true, and whether a column is missing, is for `enfold discover`.";
    Sealing = "sealing", keys::sealing, "Does every ring seal and open a value, as an application would?",
        "One throw-away value a ring, under AES-256-GCM with a commitment to its data key.";
    RootKeys = "root-keys", keys::roots, "Is every root key inside a key service, enabled, and does it wrap and unwrap?",
        "As the key services answered this program, with the rights that it has. What services there are for others is not looked at.";
    RootKeyRotation = "root-key-rotation", keys::root_rotation, "Is every root key rotated, by its service or within the policy's cadence?",
        "As the key services say, and as the operators signed when they last did.";
    DataKeyRotation = "data-key-rotation", keys::data_rotation, "Is every data key that seals younger than the policy's cadence?",
        "By when data keys were made, as their authenticated rows in the catalog say.";
    Cadence = "cadence-90-days", keys::cadence, "Does the policy have the data keys of every ring rotated every 90 days, or sooner?",
        "The policy's words. Whether they were rotated is the check `data-key-rotation`.";
    Reencryption = "re-encryption", stored::reencryption, "Did the last re-encryption of every table end without a row that failed?",
        "As the job tables say, which are in a database that its administrators can write to.";
    States = "states", keys::states, "Is what the operators signed in force, and does the policy pin their key?",
        "The signature of each ring's state, its epoch, and the authentication of every data-key row in the catalog. How changes are \
         approved, and what else changes, is not looked at.";
    Access = "access", log::access, "Is it signed or in the policy who may use the service, and does no service key both see values and change keys?",
        "Service keys, and what the policy grants those whom issuers vouch for. Who that is, and who may reach the database, the key \
         services and the machines, is not looked at.";
    Uses = "uses", log::uses, "Does the log of events say who opened values?",
        "The last 90 days in the catalog, at most 100,000 events. Names are what callers said; of the service's callers, what it found out.";
    Emergencies = "emergencies", log::emergencies, "Is it known when the role for emergencies was used?",
        "The last 90 days in the catalog, at most 100,000 events. Whether each use was right is not looked at.";
    Log = "log", log::chains, "Is the log of events as it was written and signed?",
        "Every entry and every checkpoint in the catalog. Entries behind the last checkpoint are chained, and not signed yet. \
         Who reads the log, and whether anything alerts, is not looked at.";
    Restore = "restore", restored::newest, "Was a backup restored within the time that the policy gives, and did every value of it open?",
        "The newest `enfold verify --restored` in the log, which the check `log` looks at. When the backup was made is the word of whoever \
         tested it; that it was one is told from rings, epochs and the database that answered.";
}

/// What came of a look.
struct Found {
    outcome: Outcome,
    reason: Option<String>,
    lines: Vec<String>,
}

impl Found {
    /// Met where nothing speaks against it; `wrong` says what does.
    fn of(lines: Vec<String>, wrong: &[String]) -> Self {
        let outcome = if wrong.is_empty() { Outcome::Met } else { Outcome::NotMet };
        Self { outcome, reason: (!wrong.is_empty()).then(|| wrong.join("; ")), lines }
    }

    fn not_checked(why: impl Into<String>, lines: Vec<String>) -> Self {
        Self { outcome: Outcome::NotChecked, reason: Some(why.into()), lines }
    }

    /// As [`Self::of`], where something could not be looked at: nothing wrong was found, and that is no answer.
    fn unless(untold: Option<String>, lines: Vec<String>, wrong: &[String]) -> Self {
        match untold {
            Some(why) if wrong.is_empty() => Self::not_checked(why, lines),
            _ => Self::of(lines, wrong),
        }
    }

    /// A look that ended with an error. One that tells of a forgery is an answer.
    fn failed(error: &Error) -> Self {
        let says = format!("{error} (code `{}`)", error.code().word());
        match error.code() {
            Code::StateTampered | Code::StateRolledBack | Code::LogTampered => Self::of(Vec::new(), &[says]),
            _ => Self::not_checked(says, Vec::new()),
        }
    }
}

impl<'a> Look<'a> {
    pub(super) fn new(session: &'a Session, enfold: &'a Enfold, context: &'a CallContext) -> Self {
        Self { session, enfold, context, roots: OnceCell::new() }
    }

    async fn roots(&self) -> Result<&[RootHealth]> {
        let roots = self.roots.get_or_try_init(|| self.enfold.root_keys(self.context)).await?;
        Ok(roots)
    }
}

impl Check {
    pub(super) async fn look(self, look: &Look<'_>) -> Checked {
        let found = self.find(look).await.unwrap_or_else(|error| Found::failed(&error));
        Checked {
            id: self.id().to_owned(),
            question: self.question().to_owned(),
            at: Timestamp::now().to_string(),
            outcome: found.outcome,
            reason: found.reason,
            found: found.lines,
            limits: self.limits().to_owned(),
        }
    }
}
