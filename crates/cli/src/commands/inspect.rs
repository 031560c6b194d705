//! `enfold inspect`: what an envelope says about itself. It needs no key, and shows nothing that a key protects.

use std::fmt::Write as _;
use std::io::Read;

use enfold::{Code, Error, Result};
use enfold_core::stored::{self, Stored};
use enfold_core::{Envelope, Form, Kind, PayloadType};
use serde::Serialize;

use crate::args::Inspect;
use crate::screen::Screen;

/// Larger than any envelope in its longest form.
const MOST: u64 = 2 << 30;

/// The names in the second half are those under which other products' documents carry the same facts.
#[derive(Serialize)]
struct Report {
    form: &'static str,
    version: u8,
    suite: u8,
    kind: &'static str,
    key_id: String,
    payload: &'static str,
    padded: bool,
    salt: String,
    commitment: String,
    nonce: String,
    ciphertext_bytes: usize,
    envelope_bytes: usize,
    algorithm: &'static str,
    key_identifier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted_dek_bytes: Option<usize>,
}

pub(crate) fn run(screen: &Screen, args: &Inspect) -> Result<()> {
    let input = read(args)?;
    let (form, bytes) = envelope(&input)?;
    let parsed = Envelope::parse(&bytes).map_err(refused)?;
    let report = Report::of(form, &parsed);
    screen.result(&report, |out| report.write(out))
}

fn read(args: &Inspect) -> Result<Vec<u8>> {
    let mut input = Vec::new();
    let outcome = match &args.file {
        Some(path) => std::fs::File::open(path).and_then(|f| f.take(MOST).read_to_end(&mut input)),
        None => std::io::stdin().lock().take(MOST).read_to_end(&mut input),
    };
    outcome.map_err(|e| {
        let place = args.file.as_ref().map_or_else(|| "standard input".into(), |p| format!("`{}`", p.display()));
        Error::new(Code::FileFailed, format!("reading an envelope from {place}")).cause(super::io_fact(&e))
    })?;
    Ok(input)
}

/// Finds out the form: JSON and text may have white space around them, binary may not.
fn envelope(input: &[u8]) -> Result<(Form, Vec<u8>)> {
    if let Stored::Envelope(bytes) = stored::detect(Form::Bytes, input) {
        return Ok((Form::Bytes, bytes));
    }
    let trimmed = input.trim_ascii();
    let form = if trimmed.starts_with(b"\"") || trimmed.starts_with(b"{") { Form::Json } else { Form::Text };
    let form = if input.starts_with(&enfold_core::layout::MAGIC) { Form::Bytes } else { form };
    let bytes = if form == Form::Bytes { input } else { trimmed };
    Ok((form, stored::decode(form, bytes).map_err(refused)?))
}

fn refused(error: enfold_core::Error) -> Error {
    let code = match error {
        enfold_core::Error::NewerVersion { .. } | enfold_core::Error::UnknownSuite { .. } => Code::EnvelopeNewer,
        _ => Code::EnvelopeMalformed,
    };
    Error::new(code, "this is not an envelope that can be read").cause(error.to_string())
}

impl Report {
    fn of(form: Form, envelope: &Envelope<'_>) -> Self {
        Self {
            form: match form {
                Form::Text => "text",
                Form::Bytes => "binary",
                Form::Json => "json",
            },
            version: envelope.version(),
            suite: envelope.suite(),
            kind: match envelope.kind() {
                Kind::ByReference => "by-reference",
                Kind::InlineRing => "inline, wrapped by the ring's data key",
                Kind::InlineRoot => "inline, wrapped by the root key",
            },
            key_id: envelope.key_id().to_string(),
            payload: match envelope.payload() {
                PayloadType::Bytes => "bytes",
                PayloadType::Text => "text",
                PayloadType::Json => "json",
            },
            padded: envelope.is_padded(),
            salt: hex(envelope.salt()),
            commitment: hex(envelope.commitment()),
            nonce: hex(envelope.nonce()),
            ciphertext_bytes: envelope.ciphertext_len(),
            envelope_bytes: envelope.as_bytes().len(),
            algorithm: "AES-256-GCM",
            key_identifier: envelope.key_id().to_string(),
            encrypted_dek_bytes: envelope.wrapped().map(<[u8]>::len),
        }
    }

    fn write(&self, out: &mut String) {
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:<12} {value}");
        };
        line("form", &self.form);
        line("version", &self.version);
        line("suite", &format_args!("{} ({}, HKDF-SHA-256)", self.suite, self.algorithm));
        line("kind", &self.kind);
        line("key id", &self.key_id);
        line("payload", &format_args!("{}{}", self.payload, if self.padded { ", padded" } else { "" }));
        line("salt", &self.salt);
        line("commitment", &self.commitment);
        line("nonce", &self.nonce);
        if let Some(bytes) = self.encrypted_dek_bytes {
            line("wrapped key", &format_args!("{bytes} bytes"));
        }
        line("ciphertext", &format_args!("{} bytes, then a tag of 16", self.ciphertext_bytes));
        line("envelope", &format_args!("{} bytes", self.envelope_bytes));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}
