//! `[events.sinks.…]`: who is sent the log's lines over a network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::sinks::SinkKind;

/// Somebody who is sent each line of the log: a webhook, a syslog server or a collector of OpenTelemetry. Nobody waits for them.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawSink {
    /// How it is spoken to.
    #[schemars(extend("x-required" = true))]
    pub kind: Option<SinkKind>,
    /// Where it is. Of a webhook and of OTLP `https://HOST/…`; of syslog `tls://HOST:PORT` (port 6514 unless another is named),
    /// `tcp://HOST:PORT` or `unix:PATH`, a socket of datagrams. In production `http://` and `tcp://` name this machine only.
    #[schemars(extend("x-required" = true))]
    pub url: Option<String>,
    /// File of the secret that signs the calls of a webhook: `whsec_` and 24 to 64 bytes in base64; each line signs. Nobody but its owner
    /// and its group may have any right to it.
    #[schemars(extend("format" = "path"))]
    pub secret_file: Option<String>,
    /// File of headers that go with each request of a webhook or of OTLP, a line each: `Authorization: Bearer …`. The same goes for
    /// whoever may read it.
    #[schemars(extend("format" = "path"))]
    pub headers_file: Option<String>,
    /// PEM file of the authorities that may vouch for it, instead of the system's.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<String>,
    /// Kinds of events that it is sent. None: all of them, and the checkpoints that vouch for them.
    pub kinds: Vec<String>,
    /// Lines that may wait for it in a process. What comes when there are as many is counted, and not sent.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: u32,
}

impl Default for RawSink {
    fn default() -> Self {
        Self {
            kind: None,
            url: None,
            secret_file: None,
            headers_file: None,
            ca_file: None,
            kinds: Vec::new(),
            queue: 20_000,
        }
    }
}
