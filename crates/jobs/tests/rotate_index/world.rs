//! A table of people with an e-mail that is unique within their tenant, protected; and rotations of its index.

use enfold::policy::{self, Policy, Variables};
use enfold::{CallContext, Column, Enfold, IndexStanding, Part, Place, Result};
use enfold_jobs::ops::{
    ApplyOptions, IndexRotated, IndexRotation, Observer, Pace, PlanOptions, Selection, Session, Silent, apply, plan,
    verify,
};

use crate::common;

pub(crate) const ORGS: i64 = 3;
pub(crate) const PEOPLE: i64 = 400;

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "tenant"
[rings.main.cache]
max_unseen = "1s"
[tables."TABLE"]
tenant = "org"
[tables."TABLE".columns.email]
id = "p.email"
ring = "main"
[tables."TABLE".columns.email.indexes.eq]
column = "email_eq"
normalise = RULES
unique = true
[jobs]
batch_rows = 50
# Other tests on the server drop their databases, each with a checkpoint.
max_requested_checkpoints = 10000
"#;

pub(crate) struct World {
    folder: tempfile::TempDir,
    /// In which the database is named by its URL, and the table as the policy names it.
    policy: String,
    pub(crate) table: String,
    pub(crate) session: Session,
    pub(crate) enfold: Enfold,
}

impl World {
    /// `file`: put beside the policy first, where the database is a file.
    pub(crate) async fn new(url: &str, table: &str, folder: tempfile::TempDir) -> Self {
        let policy = POLICY.replace("DATABASE", url).replace("TABLE", table);
        let enfold = Enfold::open(parse(&folder, &policy, r#"["lower"]"#)).await.unwrap();
        let session = session(&enfold).await;
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        Self { folder, policy, table: table.to_owned(), session, enfold }
    }

    /// Another process of the same policy, or of one with other rules of the index.
    pub(crate) async fn process(&self, rules: &str) -> Enfold {
        Enfold::open(parse(&self.folder, &self.policy, rules)).await.unwrap()
    }

    pub(crate) fn owner(&self) -> String {
        format!("{}.email", self.table)
    }

    pub(crate) async fn standing(&self) -> IndexStanding {
        self.enfold.index_standing(&self.owner(), "eq").await.unwrap()
    }

    pub(crate) async fn rotate(&self) -> Result<IndexRotated> {
        rotate(&self.session, &self.enfold, &self.owner(), &Silent).await
    }

    pub(crate) async fn look(&self) -> IndexRotation<'_> {
        IndexRotation::look(&self.session, &self.enfold, &self.owner(), "eq").await.unwrap()
    }

    /// Every value opens, and its index value is the one by the rules in force.
    pub(crate) async fn verify(&self) {
        let found = verify(&self.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
        assert!(
            found.is_clean(),
            "{:?}",
            found.tables.iter().flat_map(|table| table.errors.first()).collect::<Vec<_>>()
        );
    }
}

/// As a process of operators does it.
pub(crate) async fn rotate(
    session: &Session,
    enfold: &Enfold,
    owner: &str,
    observer: &dyn Observer,
) -> Result<IndexRotated> {
    let rotation = IndexRotation::look(session, enfold, owner, "eq").await?;
    rotation.rotate(&Pace::default(), &who(), observer).await
}

pub(crate) async fn session(enfold: &Enfold) -> Session {
    common::session(enfold, &who()).await.unwrap()
}

fn parse(folder: &tempfile::TempDir, policy: &str, rules: &str) -> Policy {
    policy::parse(&policy.replace("RULES", rules), &folder.path().join("enfold.toml"), &Variables::new()).unwrap()
}

pub(crate) fn who() -> CallContext {
    CallContext::new("test", "a rotation of a blind index")
}

pub(crate) fn place(org: i64) -> Place<'static> {
    Place::tenant(Part::Int(org))
}

/// What the database begins with: `person1@example.org` and so on, of `id % ORGS`.
pub(crate) fn first_email(id: i64) -> String {
    format!("person{id}@example.org")
}

pub(crate) fn email(enfold: &Enfold, owner: &str) -> Column {
    enfold.column(owner).unwrap()
}
