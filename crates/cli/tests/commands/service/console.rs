//! The console, in a real browser.

use std::path::PathBuf;

use enfold_server::console::PAGES;
use enfold_testkit::browser::Browser;
use enfold_testkit::oidc::Oidc;
use enfold_testkit::postgres_private::free_port;

use super::access::until;
use super::http::{request, send};
use super::{Service, service_key};
use crate::harness::Sandbox;

/// A service over a database with a table of users, converted, whose log is signed; and a job that waits for a worker.
fn started() -> (Sandbox, Service) {
    let sandbox = Sandbox::empty();
    sandbox.sql(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, phone TEXT);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO users (email, phone) SELECT 'user' || i || '@example.com', '+49 30 ' || i FROM n;",
    );
    let policy = crate::harness::policy("sqlite:app.db")
        + "[rings.main.rotation]\ncadence = \"90d\"\n\
           [tables.users.columns.email]\nid = \"users.email\"\nring = \"main\"\n\
           [tables.users.columns.phone]\nid = \"users.phone\"\nring = \"main\"\n\
           [events]\ncatalog = true\n";
    sandbox.write("enfold.toml", policy);
    sandbox.ok(&["apply", "--yes"]);
    let service = Service::start(&sandbox, &[]);
    (sandbox, service)
}

fn sign_in(browser: &Browser, service: &Service, key: &str) {
    browser.open(&format!("http://{}/console/sign-in", service.address));
    browser.type_into("#key", key);
    browser.click("main button");
    browser.until("h1", |title| title == "Overview");
}

/// Pictures of pages, for whoever wants to look at them: in the folder that `ENFOLD_TEST_PICTURES` names.
fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("ENFOLD_TEST_PICTURES") {
        for scheme in ["light", "dark"] {
            browser.prefer(scheme);
            browser.picture(&PathBuf::from(&folder).join(format!("{name}-{scheme}.png")));
        }
    }
}

#[test]
fn operators_see_everything_and_rotate_and_steer() {
    let (sandbox, service) = started();
    let browser = Browser::start();
    let page = |path: &str| browser.open(&format!("http://{}{path}", service.address));
    page("/console/keys");
    assert_eq!(browser.place(), "/console/sign-in?next=%2Fconsole%2Fkeys");
    picture(&browser, "sign-in");
    browser.type_into("#key", &service.key);
    browser.click("main button");
    browser.until("h1", |title| title == "Keys");
    picture(&browser, "keys");

    // Rotates, for a reason that the log will have.
    let version = browser.text("tbody td.number");
    browser.type_into("#reason", "a key was seen in a ticket");
    browser.click("form[action='/console/keys/rotate'] button");
    let said = browser.until(".notice", |text| !text.is_empty());
    assert!(said.contains("rotated"), "{said}");
    assert_eq!(version, "1");
    assert!(browser.text("table").contains("retired"), "{}", browser.text("table"));

    // Has workers re-encrypt; there is none.
    browser.type_into("#why", "leave the former key");
    browser.click("form[action='/console/keys/re-encrypt'] button");
    browser.until("h1", |title| title == "Jobs");
    assert!(browser.text("main").contains("No worker is alive"), "{}", browser.text("main"));
    picture(&browser, "jobs");
    browser.click("tbody a");
    browser.until("h1", |title| title.starts_with("reencrypt users"));
    browser.click("form[action$='/pause'] button");
    browser.until(".pill", |state| state == "paused");
    browser.type_into("#rate", "150");
    browser.click("form[action$='/rate'] button");
    browser.until(".notice", |text| text.contains("150 rows a second"));
    browser.click("form[action$='/resume'] button");
    browser.until(".notice", |text| text == "It goes on.");

    // A worker comes, and the page says so by itself.
    browser.run("document.body.dataset.loaded = 'once'");
    sandbox.ok(&["worker", "--until-idle"]);
    browser.until(".pill", |state| state == "completed");
    browser.until(".big", |text| text.contains("100 %"));
    assert_eq!(browser.run("return document.body.dataset.loaded"), "once", "the page was not loaded again for it");
    picture(&browser, "job");

    // Who did it, and why.
    browser.follow("Log");
    browser.until("h1", |title| title == "Log");
    browser.type_into("input[name=kind]", "key-rotated");
    browser.click(".filters button");
    browser
        .until("tbody", |text| text.contains("a key was seen in a ticket") && text.contains("service-key:development"));
    picture(&browser, "log");
    browser.click("form[action='/console/log/verify'] button");
    browser.until(".notice", |text| text.contains("Every chain holds together"));

    browser.follow("Health");
    browser.until("h1", |title| title == "Health");
    browser.click("form[action='/console/health/self-test'] button");
    browser.until(".notice", |text| text.starts_with("Every ring sealed and opened"));
    picture(&browser, "health");
    browser.follow("Overview");
    browser.until("h1", |title| title == "Overview");
    picture(&browser, "overview");

    page("/console/nothing");
    assert!(browser.text("main").contains("unknown-endpoint"));
    picture(&browser, "error");
    browser.click(".who button");
    browser.until("h1", |title| title == "Sign in");
    page("/console/keys");
    assert_eq!(browser.title(), "Sign in · Enfold");
    let refused = browser.run("return window.performance.getEntriesByType('resource').map(r => r.name).join(' ')");
    let refused = refused.as_str().expect("names").to_owned();
    assert!(refused.split_whitespace().all(|name| name.contains(&service.address)), "loaded from elsewhere: {refused}");
}

#[test]
fn pages_are_usable_without_a_mouse_and_without_the_script() {
    let (_sandbox, service) = started();
    let browser = Browser::start();
    sign_in(&browser, &service, &service.key);
    // The first stop leads past the navigation.
    browser.press('\u{e004}');
    assert_eq!(browser.run("return document.activeElement.textContent"), "Skip to the page");
    browser.press('\u{e007}');
    assert_eq!(browser.run("return document.activeElement.id"), "main");
    for path in [
        "/console",
        "/console/keys",
        "/console/jobs",
        "/console/coverage",
        "/console/coverage?column=users.email",
        "/console/log",
        "/console/evidence",
        "/console/health",
        "/console/service-keys",
    ] {
        browser.open(&format!("http://{}{path}", service.address));
        let nameless = browser.run(
            "const named = e => e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length) || e.type === 'hidden';
             const all = [...document.querySelectorAll('a, button, input, select, svg[role=img], progress')];
             const tables = [...document.querySelectorAll('table')].filter(t => !t.caption || !t.querySelector('th[scope]'));
             return all.filter(e => !named(e)).concat(tables).map(e => e.outerHTML.slice(0, 120)).join('\\n')",
        );
        assert_eq!(nameless, "", "{path}");
        assert_eq!(browser.run("return document.querySelectorAll('h1').length"), 1, "{path}");
        let inline =
            browser.run("return document.querySelectorAll('[style], [onclick], style, script:not([src])').length");
        assert_eq!(inline, 0, "{path}");
    }
}

#[test]
fn a_service_key_is_revoked_with_a_reason_once_somebody_said_yes() {
    let (sandbox, service) = started();
    let (id, key) = service_key(&sandbox, "old-shop", &["--role", "app"]);
    let bearer = format!("Bearer {key}");
    let is_let_in =
        || ask(&service, "GET", "/api/v1/encryption/status", &[("Authorization", &bearer)], "").status == 200;
    until("the service key is known", is_let_in);
    let browser = Browser::start();
    sign_in(&browser, &service, &service.key);
    browser.follow("Service keys");
    browser.until("h1", |title| title == "Service keys");
    let shown = browser.text("table");
    assert!(shown.contains("old-shop") && shown.contains("development") && !shown.contains(&key), "{shown}");
    browser.run(&format!("document.querySelector('#id').value = '{id}'"));
    browser.type_into("#reason", "the shop was sold");
    browser.click("form[action='/console/service-keys/revoke'] button");
    browser.answer(false);
    assert!(is_let_in(), "somebody said no");
    browser.click("form[action='/console/service-keys/revoke'] button");
    browser.answer(true);
    browser.until(".notice", |text| text == "The service key of old-shop lets nobody in, within a second.");
    assert!(browser.text("table").contains("revoked"), "{}", browser.text("table"));
    picture(&browser, "service-keys");
    until("the service key lets nobody in", || !is_let_in());
    browser.follow("Log");
    browser.type_into("input[name=kind]", "service-key-revoked");
    browser.click(".filters button");
    browser.until("tbody", |text| text.contains("old-shop") && text.contains("the shop was sold"));
}

#[test]
fn an_auditor_has_evidence_made_and_takes_it_away() {
    let (sandbox, service) = started();
    let (_, key) = service_key(&sandbox, "auditor", &["--role", "audit"]);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let signs_in = || ask(&service, "POST", "/console/sign-in", &form, &format!("key={key}")).status == 303;
    until("the service key is known", signs_in);
    let browser = Browser::start();
    sign_in(&browser, &service, &key);
    browser.follow("Evidence");
    browser.until("h1", |title| title == "Evidence");
    assert!(browser.text("main").contains("Nothing was looked at"), "{}", browser.text("main"));
    browser.run("document.querySelector('#standard').value = 'hipaa'");
    browser.click("form[action='/console/evidence/make'] button");
    browser.until(".notice", |text| text.contains("looked at"));
    let shown = browser.until("[data-refresh]", |text| text.contains("evidence.json"));
    for told in ["HIPAA", "164.312(a)(2)(iv)", "service-key:auditor", "restore test", "users.email is in mode hybrid"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    picture(&browser, "evidence");

    // The files are those of the command, and verify with the key that the policy pins.
    let (cookie, _) = session(&service, &key);
    let file = |name: &str| {
        let answer = ask(&service, "GET", &format!("/console/evidence/hipaa/{name}"), &[("Cookie", &cookie)], "");
        assert!(answer.status != 200 || answer.header("content-disposition") == "attachment", "{}", answer.body);
        answer
    };
    sandbox.write("evidence.json", file("evidence.json").body);
    sandbox.write("evidence.html", file("evidence.html").body);
    let signed_by = browser.text("[data-refresh] section code");
    let said = sandbox.ok(&["evidence", "verify", "evidence.json", "--key", &signed_by]);
    assert!(said.stdout().contains("the page beside it is of this evidence"), "{}", said.stdout());
    assert_eq!(file("other.json").status, 404);
    assert_eq!(ask(&service, "GET", "/console/evidence/pci/evidence.json", &[("Cookie", &cookie)], "").status, 404);
}

#[test]
fn coverage_is_shown_column_by_column_and_over_time_to_who_may_read_everything() {
    let (sandbox, service) = started();
    let (_, narrowed) = service_key(&sandbox, "shop", &["--role", "app", "--column", "users.email"]);
    let browser = Browser::start();
    sign_in(&browser, &service, &service.key);
    browser.follow("Coverage");
    browser.until("h1", |title| title == "Coverage");
    assert!(browser.text("main").contains("Nobody has counted its rows yet"), "{}", browser.text("main"));
    // As it would have been found every day since a month ago.
    sandbox.sql(
        "INSERT INTO enfold_column_counts (table_name, column_name, counted_at, mode, enforced, rows, envelopes, plaintext, lookalikes, nulls)
         SELECT 'users', c.value, datetime('now', '-' || d.key || ' days'), iif(d.key > 15, 'legacy', 'hybrid'), 0, 200, 200 - d.value, d.value, 0, 0
         FROM json_each('[\"email\", \"phone\"]') c,
              json_each('[0,0,0,0,0,0,0,1,1,0,0,0,5,40,90,150,180,190,195,198,200,200,200,200,200,200,200,200]') d ORDER BY d.key DESC",
    );
    sandbox.ok(&["audit", "--full"]);
    sandbox.ok(&["keys", "rotate", "main", "--reason", "a test", "--yes"]);
    sandbox.sql("INSERT INTO users (email) VALUES ('late@example.com')");
    assert_eq!(sandbox.run(&["audit", "--full"]).code, 4);
    browser.follow("Coverage");
    let row = "tbody tr:first-child";
    let shown = browser.until(row, |text| text.contains("201"));
    for told in ["email", "hybrid", "no", "200", "0 %", "ago"] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    assert_eq!(browser.text(&format!("{row} td.number.bad")), "1");
    assert!(
        browser.text("figcaption").contains("400 values in envelopes, 1 that are in none"),
        "{}",
        browser.text("figcaption")
    );
    assert!(browser.text(".tile").contains("1 of 2"), "{}", browser.text(".tile"));
    picture(&browser, "coverage");

    browser.click("form[action='/console/coverage/sample'] button");
    browser.until(".notice", |text| text.starts_with("A sample was counted"));
    let sampled = browser.text("tr.under");
    assert!(sampled.contains("a sample of now") && sampled.contains("version 1: 200"), "{sampled}");
    browser.click("summary");
    assert!(browser.text("details tbody tr").contains("400"), "{}", browser.text("details"));
    picture(&browser, "coverage-sample");

    browser.follow("email");
    browser.until("h1", |title| title == "users.email");
    assert!(browser.text("tbody tr").contains("version 1: 200"), "{}", browser.text("tbody"));
    assert!(browser.text("tbody").contains("not asked"), "{}", browser.text("tbody"));
    assert!(!browser.text("main").contains("late@"));
    picture(&browser, "coverage-column");
    let page = format!("http://{}/console/coverage?column=users.nothing", service.address);
    browser.open(&page);
    assert!(browser.text("main").contains("unknown-column"), "{}", browser.text("main"));

    // Who may read of one column sees no counts, for they are of all.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let signs_in = || ask(&service, "POST", "/console/sign-in", &form, &format!("key={narrowed}")).status == 303;
    until("the service key is known", signs_in);
    let (cookie, token) = session(&service, &narrowed);
    let of = [("Cookie", cookie.as_str())];
    assert_eq!(ask(&service, "GET", "/console/coverage", &of, "").status, 403);
    let sent = ask(&service, "POST", "/console/coverage/sample", &of, &format!("form_token={token}"));
    assert_eq!(sent.status, 403);
}

/// As a browser with this cookie would ask.
fn ask(service: &Service, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> super::http::Answer {
    send(&service.address, &request(method, path, headers, body))
}

/// Signs in without a browser: the cookie, and the token that the session's forms carry.
fn session(service: &Service, key: &str) -> (String, String) {
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = ask(service, "POST", "/console/sign-in", &form, &format!("key={key}"));
    assert_eq!(answer.status, 303, "{}", answer.body);
    let cookie = answer.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    let page = ask(service, "GET", "/console", &[("Cookie", &cookie)], "").body;
    let (_, rest) = page.split_once("name=\"form_token\" value=\"").expect("a form");
    (cookie, rest.split('"').next().expect("a token").to_owned())
}

#[test]
fn every_page_shows_every_role_what_is_for_it_and_nothing_else() {
    let (sandbox, service) = started();
    let roles = ["app", "reader", "jobs", "admin", "security", "audit"];
    let keys: Vec<(&str, String)> =
        roles.iter().map(|role| (*role, service_key(&sandbox, role, &["--role", role]).1)).collect();
    let last = format!("Bearer {}", keys[5].1);
    let known = || ask(&service, "GET", "/api/v1/encryption/status", &[("Authorization", &last)], "").status != 401;
    until("the service keys are known", known);
    for (role, key) in keys {
        let of = enfold::access::Role::ALL.into_iter().find(|known| known.word() == role).expect("a role");
        if role == "reader" {
            let form = [("Content-Type", "application/x-www-form-urlencoded")];
            assert_eq!(ask(&service, "POST", "/console/sign-in", &form, &format!("key={key}")).status, 403);
            continue;
        }
        let (cookie, token) = session(&service, &key);
        let overview = ask(&service, "GET", "/console", &[("Cookie", &cookie)], "").body;
        for page in PAGES.iter().filter(|page| page.path != "/console/sign-out") {
            let may = page.needs.is_empty() || page.needs.iter().any(|needed| of.permissions().contains(needed));
            let path = page.path.replace("{id}", "7000").replace("{order}", "pause").replace("{word}", "approve");
            let path = path.replace("{standard}", "soc2").replace("{file}", "evidence.json");
            let read = ask(&service, "GET", &path, &[("Cookie", &cookie)], "").status;
            let sent = ask(&service, "POST", &path, &[("Cookie", &cookie)], &format!("form_token={token}")).status;
            match may {
                // The other of the two is not allowed, or there is no such job, ring or reason.
                true => {
                    assert!(![401, 403].contains(&read) && ![401, 403].contains(&sent), "{role} {path}: {read} {sent}");
                }
                false => assert_eq!((read, sent), (403, 403), "{role} {path}"),
            }
            if !may && !page.path.contains('{') {
                assert!(!overview.contains(&format!("href=\"{path}\"")), "{role} is shown the way to {path}");
            }
        }
    }
}

#[test]
fn the_form_of_a_rotation_rotates_once_however_often_it_is_sent() {
    let (_sandbox, service) = started();
    let (cookie, token) = session(&service, &service.key);
    let of = [("Cookie", cookie.as_str())];
    let page = || ask(&service, "GET", "/console/keys", &of, "").body;
    let once = || {
        let page = page();
        let (_, rest) = page.split_once("name=\"once\" value=\"").expect("a form of a rotation");
        rest.split('"').next().expect("a name").to_owned()
    };
    let send = |once: &str, reason: &str| {
        let body = format!("ring=main&reason={reason}&once={once}&form_token={token}");
        ask(&service, "POST", "/console/keys/rotate", &of, &body).status
    };
    let versions = || page().matches("<td class=\"number\">").count();
    let (before, first) = (versions(), once());
    let together = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                together.wait();
                assert_eq!(send(&first, "twice"), 303);
            });
        }
    });
    assert!(page().contains("2 data keys were rotated"), "each click is told what came of it");
    assert_eq!(versions(), before + 2, "and whoever clicks twice rotates once: a data key a column");
    assert_eq!(send(&first, "another"), 422);
    assert_eq!(send("", "no-name"), 400);
    assert_eq!(versions(), before + 2);
    assert_eq!(send(&once(), "twice"), 303, "a form that was opened anew is another rotation");
    assert_eq!(versions(), before + 4);
}

#[test]
fn nobody_else_can_have_somebodys_browser_send_a_form() {
    let (_sandbox, service) = started();
    let (cookie, token) = session(&service, &service.key);
    let body = format!("ring=main&reason=mine&once=a&form_token={token}");
    let rotate = |headers: &[(&str, &str)], body: &str| ask(&service, "POST", "/console/keys/rotate", headers, body);
    let of = ("Cookie", cookie.as_str());
    // Without the session, without its token, with another one, and from another site.
    assert_eq!(rotate(&[], &body).status, 401);
    assert_eq!(rotate(&[of], "ring=main&reason=mine&once=a").status, 403);
    assert_eq!(rotate(&[of], "ring=main&reason=mine&once=a&form_token=x").status, 403);
    let (_, another) = session(&service, &service.key);
    assert_eq!(rotate(&[of], &format!("ring=main&reason=mine&form_token={another}")).status, 403);
    assert_eq!(rotate(&[of, ("Origin", "https://evil.example")], &body).status, 403);
    assert_eq!(rotate(&[of, ("Sec-Fetch-Site", "cross-site")], &body).status, 403);
    assert_eq!(rotate(&[of, ("Origin", "http://test")], &body).status, 303);
    // The session's cookie is for the browser alone, and the service key is in none.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = ask(&service, "POST", "/console/sign-in", &form, &format!("key={}", service.key));
    let cookie = answer.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains(&service.key));
    // A session is nobody's credential at the API, nor a service key one for pages.
    let keys = "/api/v1/encryption/keys";
    assert_eq!(ask(&service, "GET", keys, &[of], "").status, 401);
    let bearer = format!("Bearer {}", service.key);
    assert_eq!(ask(&service, "GET", "/console/keys", &[("Authorization", &bearer)], "").status, 303);
}

#[test]
fn a_session_ends_with_the_service_key_that_opened_it() {
    let (sandbox, service) = started();
    let (id, key) = service_key(&sandbox, "short", &["--role", "admin"]);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let signs_in = || ask(&service, "POST", "/console/sign-in", &form, &format!("key={key}")).status == 303;
    until("the service key is known", signs_in);
    let (cookie, _) = session(&service, &key);
    sandbox.ok(&["service-keys", "revoke", &id, "--yes"]);
    let is_over = || ask(&service, "GET", "/console/keys", &[("Cookie", &cookie)], "").status == 303;
    until("the session is over", is_over);
}

/// A service whose console people sign in to at a real provider: `ann` is an admin, `bob` an auditor. It gives access in emergencies.
fn with_people() -> (Sandbox, String, Oidc, Service) {
    let sandbox = super::organisations();
    let address = format!("127.0.0.1:{}", free_port());
    let provider = Oidc::start_for(&format!("http://{address}"));
    let secret = sandbox.path("console.secret");
    enfold::private_file::put(&secret, "client secret", b"console-secret\n").expect("a private file");
    let issuer = provider.issuer();
    let more = format!(
        "[service.issuers.login]\nurl = \"{issuer}\"\naudience = [\"enfold\"]\n\
         [service.issuers.login.grants.ops]\nclaim = \"roles\"\nvalue = \"ann\"\nrole = \"admin\"\n\
         [service.issuers.login.grants.audit]\nclaim = \"roles\"\nvalue = \"bob\"\nrole = \"audit\"\n\
         [service.issuers.login.grants.oncall]\nclaim = \"roles\"\nvalue = \"oncall\"\nrole = \"emergency\"\n\
         [service.emergency]\namr = [\"mfa\"]\napproval = true\n\
         [service.console]\nissuer = \"login\"\nclient_id = \"console\"\nclient_secret_file = \"console.secret\"\n\
         url = \"http://{address}\"\n"
    );
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + &more);
    let service = Service::start_on(&sandbox, &address, &[]);
    (sandbox, address, provider, service)
}

/// Opens a page of the console, and signs in at the provider on the way.
fn sign_in_as(browser: &Browser, name: &str, page: &str, heading: &str) {
    browser.open(page);
    browser.follow("Sign in with login");
    browser.type_into("input[name=login]", name);
    browser.type_into("input[name=password]", "any");
    browser.click("button[type=submit]");
    // The provider asks whether the console may know.
    browser.until("button[type=submit]", |text| text == "Continue");
    browser.click("button[type=submit]");
    browser.until("h1", |title| title == heading);
}

#[test]
fn emergencies_are_decided_ended_and_signed_off_by_people_and_one_that_was_forged_says_so() {
    let (sandbox, address, provider, service) = with_people();
    let oncall = super::tokens::token(&provider, "oncall-mfa", "urn:enfold:ES256");
    let asked = |reason: &str| {
        let body = format!("{{\"reason\": \"{reason}\", \"minutes\": 30, \"columns\": [\"users.email\"]}}");
        let answer = service.ask("POST", "/api/v1/encryption/emergency", &oncall, &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    asked("payments fail, ticket 4711");
    let browser = Browser::start();
    sign_in_as(&browser, "ann", &format!("http://{address}/console/emergencies"), "Emergencies");
    let card = browser.text("main form");
    assert!(card.contains("Approve") && card.contains("Deny"), "{card}");
    assert!(browser.text("main").contains("column users.email"), "{}", browser.text("main"));
    picture(&browser, "emergencies");

    let say = |word: &str, reason: &str, told: &str| {
        browser.type_into("main form input[name=reason]", reason);
        browser.click(&format!("button[formaction$='/{word}']"));
        browser.until(".notice", |text| text.contains(told));
    };
    say("approve", "I saw the ticket", "It is in force now.");
    assert_eq!(browser.text("main .pill"), "in-force");
    assert!(!browser.text("main form").contains("Approve"));
    say("end", "it is solved", "It gives nothing more");
    assert_eq!(browser.text("main .pill"), "open");
    say("review", "nothing was opened", "It is reviewed");
    let over = browser.text("tbody");
    for said in ["reviewed", "I saw the ticket", "it is solved", "nothing was opened", "by login:ann"] {
        assert!(over.contains(said), "{said}: {over}");
    }
    // Enter in the form gives nobody anything.
    asked("again");
    browser.open(&format!("http://{address}/console/emergencies"));
    browser.type_into("main form input[name=reason]", "no\n");
    browser.until(".notice", |text| text == "It is denied.");
    picture(&browser, "emergencies-over");

    sandbox.sql(
        "UPDATE enfold_emergencies SET document = CAST(replace(CAST(document AS TEXT), 'denied', 'reviewed') AS BLOB)",
    );
    browser.open(&format!("http://{address}/console/emergencies"));
    assert!(browser.text(".notice.bad").contains("was changed by hand"), "{}", browser.text("main"));
}

#[test]
fn people_sign_in_at_a_real_provider_and_see_what_their_claims_say() {
    let (_sandbox, address, _provider, service) = with_people();
    for (name, heading, links) in [
        ("ann", "Keys", "Overview Keys Jobs Coverage Log Evidence Health Service keys Emergencies"),
        ("bob", "That did not work", "Overview Log Evidence"),
        ("eve", "That did not work", ""),
    ] {
        let browser = Browser::start();
        sign_in_as(&browser, name, &format!("http://{address}/console/keys"), heading);
        let seen = browser.run("return [...document.querySelectorAll('nav a')].map(a => a.textContent).join(' ')");
        assert_eq!(seen, links, "{name}");
        if name != "eve" {
            assert_eq!(browser.text(".who strong"), format!("login:{name}"));
        }
    }
    // What comes back without having been begun in this browser lets nobody in.
    let back = |headers: &[(&str, &str)], query: &str| {
        ask(&service, "GET", &format!("/console/signed-in?{query}"), headers, "").status
    };
    assert_eq!(back(&[], "code=x&state=y"), 401);
    assert_eq!(back(&[("Cookie", "enfold_sign_in=y")], "code=x&state=y"), 401);
    let start = ask(&service, "GET", "/console/sign-in/start", &[], "");
    let cookie = start.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    let state = cookie.split_once('=').expect("a value").1.to_owned();
    assert!(start.header("location").contains("code_challenge_method=S256"));
    assert_eq!(back(&[], &format!("code=x&state={state}")), 401, "another browser's");
    assert_eq!(back(&[("Cookie", &cookie)], &format!("state={state}&error=access_denied")), 401);
    assert_eq!(back(&[("Cookie", &cookie)], &format!("code=x&state={state}")), 401, "it ends once");
}
