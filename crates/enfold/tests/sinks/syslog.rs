//! Syslog, to a real rsyslog.

use enfold_testkit::certificates::Authority;
use enfold_testkit::rsyslog::{Message, Rsyslog};
use enfold_testkit::tls_front::TlsFront;

use super::*;

fn syslog(url: &str) -> String {
    format!("kind = \"syslog\"\nurl = \"{url}\"\nkinds = [\"health-check\", \"denied\"]\n")
}

/// What rsyslog has when these have happened.
async fn arrived(world: &World, process: &Enfold, rsyslog: &Rsyslog) -> Vec<Message> {
    let before = rsyslog.messages().len();
    happen(process, numbered(0..20));
    process.log(Event::refused(&enfold::Error::new(enfold::Code::PermissionDenied, "cannot do that")));
    process.settle().await.unwrap();
    until("what was sent", || rsyslog.messages().len() >= before + 21).await;
    assert_eq!(undelivered(world), []);
    rsyslog.messages().split_off(before)
}

async fn is_what_was_sent(process: &Enfold, messages: &[Message]) {
    let texts: Vec<&str> = messages.iter().map(|message| message.text.as_str()).collect();
    let lines = lines(process).await;
    let sent: Vec<&String> =
        lines.iter().filter(|line| line.contains("health-check") || line.contains("denied")).collect();
    assert_eq!(texts, sent[sent.len() - texts.len()..]);
    let (first, last) = (&messages[0], &messages[messages.len() - 1]);
    assert_eq!((first.priority.as_str(), first.id.as_str()), ("110", "health-check"));
    assert_eq!((last.priority.as_str(), last.id.as_str()), ("108", "denied"));
    let process = std::process::id().to_string();
    for message in messages {
        assert_eq!((message.application.as_str(), &message.process), ("enfold", &process));
        assert_eq!(message.structured_data, "-");
        let at: jiff::Timestamp = message.at.parse().unwrap();
        assert!(message.text.contains(&format!("\"at_ms\":{}", at.as_millisecond())), "{message:?}");
    }
}

#[tokio::test]
async fn over_tcp_messages_are_whole_and_go_on_after_the_server_was_started_again() {
    let (world, mut rsyslog) = (World::new(), Rsyslog::start());
    let process = process(&world, &syslog(&format!("tcp://{}", rsyslog.address()))).await;
    is_what_was_sent(&process, &arrived(&world, &process, &rsyslog).await).await;
    rsyslog.down();
    happen(&process, numbered(0..5));
    process.flush().await.unwrap();
    until("a try in vain", || standing(&process).failing).await;
    rsyslog.up();
    until("delivery", || standing(&process).waiting == 0).await;
    is_what_was_sent(&process, &arrived(&world, &process, &rsyslog).await).await;
}

#[tokio::test]
async fn over_tls_the_server_is_verified() {
    let rsyslog = Rsyslog::start();
    let (ours, theirs) = (Authority::new(), Authority::new());
    for authority in [&ours, &theirs] {
        let world = World::new();
        let front = TlsFront::before(rsyslog.address(), &authority.issue("localhost")).await;
        let url = format!("tls://localhost:{}", front.address().port());
        let sink = format!("{}ca_file = \"{}\"\n", syslog(&url), ours.certificate().display());
        let process = process(&world, &sink).await;
        if std::ptr::eq(authority, &ours) {
            is_what_was_sent(&process, &arrived(&world, &process, &rsyslog).await).await;
        } else {
            let before = rsyslog.messages().len();
            happen(&process, numbered(0..1));
            process.flush().await.unwrap();
            until("a refusal", || standing(&process).failing).await;
            assert_eq!((rsyslog.messages().len(), standing(&process).delivered), (before, 0));
        }
    }
}

#[tokio::test]
async fn a_socket_of_this_machine_takes_datagrams() {
    let (world, rsyslog) = (World::new(), Rsyslog::start());
    let process = process(&world, &syslog(&format!("unix:{}", rsyslog.socket().display()))).await;
    is_what_was_sent(&process, &arrived(&world, &process, &rsyslog).await).await;
}
