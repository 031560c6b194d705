//! A small application over SQLite whose customers' e-mails and notes are protected.
//!
//! ```sh
//! cargo run -p enfold --example customers
//! ```
//!
//! What to look at: the application's SQL is ordinary SQL; it seals what it writes, opens what it reads, and looks
//! customers up by a blind index. The same code runs before the columns are converted (mode `legacy`: it writes plaintext
//! and reads both) and afterwards, so it is deployed once.
#![allow(clippy::print_stdout, reason = "the example shows what it does")]

use std::path::Path;

use enfold::policy::{Mode, Variables};
use enfold::{CallContext, Code, Column, Enfold, Error, Form, Part, PayloadType, Place, Result};
use rusqlite::{Connection, OptionalExtension, params};

/// What `enfold init` and `enfold discover` would write, with a key file of this machine as root key.
const POLICY: &str = r#"
environment = "development"

[database]
url = "sqlite:shop.db"

[rings.customers]
id = "customers"
roots = ["local:shop.key"]
scope = "tenant"

[tables.customers]
tenant = "shop"
row_key = ["id"]

[tables.customers.columns.email]
id = "customers.email"
class = "email"
ring = "customers"

[tables.customers.columns.email.indexes.eq]
column = "email_eq"
normalise = ["trim", "lower"]

[tables.customers.columns.note]
id = "customers.note"
ring = "customers"
# A note belongs to its row: pasted into another one, it does not open.
bind_row = true
padding = 32
"#;

const SCHEMA: &str = "CREATE TABLE customers (
    id INTEGER PRIMARY KEY, shop TEXT NOT NULL, email TEXT NOT NULL, email_eq BLOB, note TEXT)";

/// A customer in the clear, as the application's pages show it.
#[derive(Debug, PartialEq, Eq)]
pub struct Customer {
    pub id: i64,
    pub email: String,
    pub note: String,
}

/// The application's data layer for one shop.
pub struct Customers {
    db: Connection,
    email: Column,
    note: Column,
    shop: String,
}

impl Customers {
    pub fn new(enfold: &Enfold, db: Connection, shop: &str) -> Result<Self> {
        let (email, note) = (enfold.column("customers.email")?, enfold.column("customers.note")?);
        Ok(Self { db, email, note, shop: shop.to_owned() })
    }

    /// Values are sealed before the statement runs: no key service is asked while a transaction is open.
    pub async fn add(&self, context: &CallContext, customer: &Customer) -> Result<()> {
        let row = [Part::Int(customer.id)];
        let place = self.place(&row);
        let email = self.email.seal(context, &place, Form::Text, PayloadType::Text, customer.email.as_bytes()).await?;
        let index = self.email.index_to_store(context, "eq", &place, &customer.email).await?;
        let note = self.note.seal(context, &place, Form::Text, PayloadType::Text, customer.note.as_bytes()).await?;
        self.db
            .execute(
                "INSERT INTO customers (id, shop, email, email_eq, note) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![customer.id, self.shop, text(email)?, index, text(note)?],
            )
            .map_err(|e| enfold::db::sqlite::failure("cannot add a customer", &e))?;
        Ok(())
    }

    /// The index finds candidates; what was found is opened and compared, because an index may be truncated. While the
    /// index is rotated there are two values of it to look for, otherwise one.
    pub async fn by_email(&self, context: &CallContext, email: &str) -> Result<Option<Customer>> {
        let wanted = self.email.lookup(context, "eq", &self.place(&[]), email).await?;
        let found: Option<(i64, String, String)> = self
            .db
            .query_row(
                "SELECT id, email, note FROM customers WHERE shop = ?1 AND email_eq IN (?2, ?3)",
                params![self.shop, wanted.first(), wanted.last()],
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )
            .optional()
            .map_err(|e| enfold::db::sqlite::failure("cannot look a customer up", &e))?;
        let Some((id, stored_email, stored_note)) = found else { return Ok(None) };
        let row = [Part::Int(id)];
        let place = self.place(&row);
        let opened = self.email.open(context, &place, Form::Text, stored_email.as_bytes()).await?;
        let note = self.note.open(context, &place, Form::Text, stored_note.as_bytes()).await?;
        let customer = Customer { id, email: text(opened.value.to_vec())?, note: text(note.value.to_vec())? };
        Ok(Some(customer).filter(|c| c.email.trim().eq_ignore_ascii_case(email.trim())))
    }

    /// The stored bytes of a row, as a thief of the file would see them.
    pub fn raw(&self, id: i64) -> Result<(String, String)> {
        self.db
            .query_row("SELECT email, note FROM customers WHERE id = ?1", [id], |r| Ok((r.get(0)?, r.get(1)?)))
            .map_err(|e| enfold::db::sqlite::failure("cannot read a row", &e))
    }

    fn place<'a>(&'a self, row: &'a [Part<'a>]) -> Place<'a> {
        Place { tenant: Some(Part::Text(&self.shop)), row }
    }
}

/// Opens the application in a folder, with a table that is empty and two protected columns.
pub async fn open(folder: &Path) -> Result<(Enfold, Customers)> {
    let path = folder.join("shop.db");
    let db = enfold::db::sqlite::create(&path)?;
    db.execute_batch(SCHEMA).map_err(|e| enfold::db::sqlite::failure("cannot make the table", &e))?;
    let policy = enfold::policy::parse(POLICY, &folder.join("enfold.toml"), &Variables::default())?;
    // In development everything that is missing is made here: tables of the catalog, root key, operators' key.
    let enfold = Enfold::builder(policy).application("shop", env!("CARGO_PKG_VERSION")).build().await?;
    let customers = Customers::new(&enfold, db, "berlin")?;
    Ok((enfold, customers))
}

/// Adds a customer before and one after the columns are protected, and finds both.
pub async fn run(folder: &Path) -> Result<Vec<(String, String)>> {
    let (enfold, customers) = open(folder).await?;
    let context = CallContext::new("shop-web", "sign-up");
    let customer = |id, email: &str| Customer { id, email: email.into(), note: format!("customer {id}") };
    customers.add(&context, &customer(1, "ann@example.com")).await?;

    // `enfold apply` does this, and converts the rows that are there; operators alone can sign it.
    let operator = enfold.operator()?;
    operator.set_modes(&[("customers.email", Mode::Hybrid), ("customers.note", Mode::Hybrid)]).await?;

    customers.add(&context, &customer(2, "Bob@Example.com")).await?;
    for email in ["ANN@example.com ", "bob@example.com"] {
        let found = customers.by_email(&context, email).await?;
        let found = found.ok_or_else(|| Error::new(Code::Internal, "a customer was not found again"))?;
        println!("{email:?} is customer {}, whose note says {:?}", found.id, found.note);
    }
    let rows = vec![customers.raw(1)?, customers.raw(2)?];
    println!("stored before: {} | {}", rows[0].0, rows[0].1);
    println!("stored after:  {} | {}", rows[1].0, rows[1].1);
    enfold.flush().await?;
    Ok(rows)
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::new(Code::ValueInvalid, "a value is not text"))
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let folder = std::env::temp_dir().join(format!("enfold-customers-{}", std::process::id()));
    let outcome =
        match std::fs::create_dir_all(&folder) {
            Ok(()) => run(&folder).await.map(|_| ()),
            Err(error) => Err(Error::new(Code::FileFailed, format!("cannot make `{}`", folder.display()))
                .cause(error.kind().to_string())),
        };
    match outcome {
        Ok(()) => {
            println!("look around in {}", folder.display());
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error: {error}");
            std::process::ExitCode::from(error.code().exit_code())
        }
    }
}
