//! A client of its own for the tests: what it sends is what is written, also where no client would send it.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) headers: String,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// What the first header of this name says.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut named = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = named.find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| panic!("no {name}: {}", self.head)).1
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {}", self.body)).to_owned()
    }

    pub(crate) fn read(mut stream: impl std::io::Read) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer is text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, headers: head.to_lowercase(), head: head.to_owned(), body: body.to_owned() }
    }
}

/// A request as it stands on the wire. It says that the connection ends with it.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
}

pub(crate) fn send(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the service listens");
    // A service that has refused the request may not read all of it.
    stream.write_all(request.as_bytes()).ok();
    Answer::read(stream)
}
