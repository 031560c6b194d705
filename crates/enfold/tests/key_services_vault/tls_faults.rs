//! TLS that breaks on the way to a real server, or meets another one there: each fault has its own words, no call
//! outlasts its deadline, and the first call after the fault succeeds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use enfold::Error;
use enfold::kms::{
    HttpOptions, KeyManagementService, KeyManagementServiceExt, Retry, RetryOptions, VaultOptions, WrappedKey,
};
use enfold::policy::MinTls;
use enfold_testkit::faultproxy::{Fault, FaultProxy};

use crate::engine::open;
use crate::key_service::{context, material, opens};
use crate::tls::{ELSEWHERE, EXPIRED, ONLY_1_1, ONLY_1_2, OverTls, SOUND, STRANGER, must_say};

/// A call that takes so much longer than its deadline of three seconds hangs.
const HANGS: Duration = Duration::from_secs(60);
/// In the middle of what the server says first, which has some hundred bytes.
const MIDDLE: usize = 60;

/// A root key behind a proxy that is told what to do to the connections.
struct Way {
    over: OverTls,
    proxy: FaultProxy,
    /// As the registry would have it: with tries, within a deadline.
    kms: Retry,
    /// The same with one try.
    once: Arc<dyn KeyManagementService>,
    wrapped: WrappedKey,
}

impl Way {
    async fn new(min_tls: MinTls) -> Self {
        let over = OverTls::start().await;
        let proxy = FaultProxy::to(loopback(over.server.port(SOUND)));
        let http = HttpOptions {
            min_tls,
            ca_file: Some(over.authority.certificate()),
            connect_within: Duration::from_millis(600),
            answer_within: Duration::from_secs(1),
            ..HttpOptions::default()
        };
        let once = open(&over.uri_at(proxy.port()), &VaultOptions { http, ..over.engine.root() });
        let options = RetryOptions { deadline: Duration::from_secs(3), ..RetryOptions::default() };
        let kms = Retry::new(once.clone(), options);
        let wrapped = kms.wrap_one(&material(), &context()).await.unwrap();
        Self { over, proxy, kms, once, wrapped }
    }

    /// New connections meet the fault, or that listener; what comes of two calls, and then of one without the fault.
    async fn meets(&self, fault: Fault, listener: usize, cause: &str, hint: &str) {
        self.proxy.set(fault);
        self.proxy.lead_to(loopback(self.over.server.port(listener)));
        // What is open has its handshake behind it.
        self.proxy.cut();
        let calls = async {
            let wrapped = self.kms.wrap_one(&material(), &context()).await.map(drop);
            [wrapped, self.kms.unwrap_one(&self.wrapped, &context()).await.map(drop)]
        };
        let what = format!("{fault:?}, listener {listener}");
        let outcomes = tokio::time::timeout(HANGS, calls).await.unwrap_or_else(|_| panic!("{what}: hangs"));
        for outcome in outcomes {
            must_say(&outcome.expect_err(&what), cause, hint);
        }
        self.is_well_again().await;
    }

    async fn is_well_again(&self) {
        self.proxy.set(Fault::None);
        self.proxy.lead_to(loopback(self.over.server.port(SOUND)));
        opens(&self.kms, &self.wrapped).await;
    }
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[tokio::test]
async fn a_handshake_that_is_cut_stalls_or_is_damaged_has_its_own_error_and_the_next_call_succeeds() {
    let way = Way::new(MinTls::V1_2).await;
    for bytes in [0, MIDDLE] {
        way.meets(Fault::CutAfter(bytes), SOUND, "hung up before TLS was agreed on", "the log of the key service")
            .await;
        way.meets(Fault::StallAfter(bytes), SOUND, "the connection itself did not come about", "").await;
    }
    way.meets(Fault::Garbled, SOUND, "does not speak TLS there", "at which port it speaks TLS").await;
    way.meets(Fault::Flipped, SOUND, "was changed on its way", "changes what passes").await;
}

#[tokio::test]
async fn a_record_that_is_changed_after_the_handshake_is_no_answer_and_the_next_call_succeeds() {
    let way = Way::new(MinTls::V1_3).await;
    for fault in [Fault::Flipped, Fault::Garbled] {
        opens(&*way.once, &way.wrapped).await;
        way.proxy.set(fault);
        let error: Error = way.once.unwrap_one(&way.wrapped, &context()).await.map(drop).unwrap_err();
        must_say(&error, "was changed on its way", "changes what passes");
        way.is_well_again().await;
    }
}

#[tokio::test]
async fn a_server_that_proves_to_be_another_is_refused_and_the_right_one_serves_again() {
    let way = Way::new(MinTls::V1_3).await;
    for (listener, cause, hint) in [
        (ELSEWHERE, "is for another host", "name the host in the URI"),
        (STRANGER, "an authority that is not trusted", "`ca_file`"),
        (EXPIRED, "is out of its dates", "have the certificate renewed"),
        (ONLY_1_2, "agree on no TLS", "`key_services.min_tls`"),
        (ONLY_1_1, "agree on no TLS", "`key_services.min_tls`"),
    ] {
        way.meets(Fault::None, listener, cause, hint).await;
    }
}
