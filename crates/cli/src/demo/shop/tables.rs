//! The shop's tables and what goes into them.

use rusqlite::{Connection, params};
use serde_json::json;

use super::people::{Address, Person, Random, card, iban, ip};
use super::words::{ADJECTIVES, CATEGORIES, ORDER_NOTES, THINGS, TICKET_BODIES, TICKET_SUBJECTS};

pub(super) const SCHEMA: &str = "
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE categories (id INTEGER PRIMARY KEY, title TEXT NOT NULL);
CREATE TABLE products (
    id INTEGER PRIMARY KEY,
    category_id INTEGER NOT NULL REFERENCES categories(id),
    title TEXT NOT NULL,
    price_cents INTEGER NOT NULL,
    stock INTEGER NOT NULL
);
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    email TEXT NOT NULL,
    phone TEXT,
    birth_date TEXT,
    language TEXT NOT NULL,
    newsletter INTEGER NOT NULL,
    created_at TEXT NOT NULL
);
CREATE INDEX customers_email ON customers(email);
CREATE TABLE addresses (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    kind TEXT NOT NULL,
    recipient TEXT NOT NULL,
    street TEXT NOT NULL,
    postcode TEXT NOT NULL,
    city TEXT NOT NULL,
    country TEXT NOT NULL
);
CREATE INDEX addresses_customer ON addresses(customer_id);
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    api_token TEXT,
    last_ip TEXT,
    logins INTEGER NOT NULL,
    last_login_at TEXT
);
CREATE INDEX accounts_customer ON accounts(customer_id);
CREATE TABLE payments (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    method TEXT NOT NULL,
    iban TEXT,
    card_number TEXT,
    card_holder TEXT
);
CREATE INDEX payments_customer ON payments(customer_id);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    product_id INTEGER NOT NULL REFERENCES products(id),
    quantity INTEGER NOT NULL,
    total_cents INTEGER NOT NULL,
    status TEXT NOT NULL,
    placed_at TEXT NOT NULL,
    notes TEXT,
    details JSON NOT NULL
);
CREATE INDEX orders_customer ON orders(customer_id);
CREATE TABLE tickets (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    opened_at TEXT NOT NULL
);
CREATE INDEX tickets_customer ON tickets(customer_id);";

/// What the shop sells and how it is set up: nothing about anybody.
pub(super) fn fill_catalogue(db: &Connection) -> rusqlite::Result<()> {
    for (name, value) in
        [("currency", "EUR"), ("free_delivery_from", "5000"), ("theme", "linen"), ("vat_percent", "20")]
    {
        db.execute("INSERT INTO settings VALUES (?1, ?2)", [name, value])?;
    }
    for title in CATEGORIES {
        db.execute("INSERT INTO categories(title) VALUES (?1)", [title])?;
    }
    let mut add = db.prepare("INSERT INTO products(category_id, title, price_cents, stock) VALUES (?1, ?2, ?3, ?4)")?;
    for (i, adjective) in (0u32..).zip(ADJECTIVES) {
        for (k, thing) in (0u32..).zip(THINGS) {
            let category = 1 + (i + k) % u32::try_from(CATEGORIES.len()).unwrap_or(1);
            add.execute(params![
                category,
                format!("{adjective} {thing}"),
                490 + 137 * ((i * 31 + k * 17) % 90),
                (i * k) % 40
            ])?;
        }
    }
    Ok(())
}

/// A customer with everything that hangs on one.
pub(super) fn add_customer(db: &Connection, random: &mut Random, id: u32) -> rusqlite::Result<()> {
    let person = Person::new(random, id);
    let phone = random.chance(92).then_some(person.phone.as_str());
    // Some never said, and one in fifty left the field empty in the form.
    let birth = if random.chance(80) { Some(person.birth.as_str()) } else { random.chance(10).then_some("") };
    let language = match person.address.country {
        "DE" => "de",
        "FR" => "fr",
        _ => "en",
    };
    db.prepare_cached("INSERT INTO customers VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(params![
        id,
        person.first,
        person.last,
        person.email,
        phone,
        birth,
        language,
        random.chance(40),
        random.moment()
    ])?;
    add_address(db, id, "home", &person.name(), &person.address)?;
    if random.chance(12) {
        let elsewhere = Address::new(random);
        add_address(db, id, "work", &person.name(), &elsewhere)?;
    }
    add_account(db, random, id)?;
    add_payment(db, random, id, &person)?;
    // Two orders for each customer, give or take.
    for _ in 0..random.below(5) {
        add_order(db, random, id, &person)?;
    }
    if random.chance(20) {
        add_ticket(db, random, id, &person)?;
    }
    Ok(())
}

fn add_address(db: &Connection, customer: u32, kind: &str, recipient: &str, at: &Address) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO addresses(customer_id, kind, recipient, street, postcode, city, country) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![customer, kind, recipient, at.street, at.postcode, at.city, at.country])?;
    Ok(())
}

fn add_account(db: &Connection, random: &mut Random, customer: u32) -> rusqlite::Result<()> {
    let token = random.chance(30).then(|| format!("shop_{}", random.token(36)));
    let last_ip = ip(random);
    db.prepare_cached(
        "INSERT INTO accounts(customer_id, api_token, last_ip, logins, last_login_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![customer, token, last_ip, random.below(400), random.moment()])?;
    Ok(())
}

fn add_payment(db: &Connection, random: &mut Random, customer: u32, person: &Person) -> rusqlite::Result<()> {
    let by_card = random.chance(60);
    let (iban, card) = if by_card { (None, Some(card(random))) } else { (Some(iban(random)), None) };
    db.prepare_cached(
        "INSERT INTO payments(customer_id, method, iban, card_number, card_holder) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        customer,
        if by_card { "card" } else { "debit" },
        iban,
        card,
        by_card.then(|| person.name())
    ])?;
    Ok(())
}

fn add_order(db: &Connection, random: &mut Random, customer: u32, person: &Person) -> rusqlite::Result<()> {
    let product = 1 + random.below(u32::try_from(ADJECTIVES.len() * THINGS.len()).unwrap_or(1));
    let quantity = 1 + random.below(4);
    let notes = random.chance(35).then(|| person.tell(random.pick(ORDER_NOTES)));
    let details = json!({
        "channel": random.pick(&["web", "app", "phone"]),
        "delivery": {
            "carrier": random.pick(&["post", "bike", "pickup"]),
            "contact": { "name": person.name(), "email": person.email, "phone": person.phone },
            "address": {
                "street": person.address.street, "postcode": person.address.postcode,
                "city": person.address.city, "country": person.address.country,
            },
        },
        "gift": random.chance(8),
        "items": quantity,
    });
    db.prepare_cached(
        "INSERT INTO orders(customer_id, product_id, quantity, total_cents, status, placed_at, notes, details)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        customer,
        product,
        quantity,
        quantity * (490 + random.below(9000)),
        random.pick(&["paid", "sent", "delivered", "returned"]),
        random.moment(),
        notes,
        details.to_string()
    ])?;
    Ok(())
}

fn add_ticket(db: &Connection, random: &mut Random, customer: u32, person: &Person) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO tickets(customer_id, subject, body, status, opened_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        customer,
        random.pick(TICKET_SUBJECTS),
        person.tell(random.pick(TICKET_BODIES)),
        random.pick(&["open", "waiting", "closed"]),
        random.moment()
    ])?;
    Ok(())
}
