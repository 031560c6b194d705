//! A client that costs little beside what it measures: each connection asks, reads the whole answer, and asks again.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A request as it stands on the wire, for a server that keeps the connection.
pub(crate) struct Request {
    pub(crate) address: String,
    pub(crate) text: String,
}

impl Request {
    pub(crate) fn new(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        Self { address: address.to_owned(), text }
    }

    /// Asked once; the answer's body.
    pub(crate) fn ask(&self) -> String {
        let mut connection = Connection::to(&self.address);
        let status = connection.ask(self.text.as_bytes());
        assert_eq!(status, 200, "{}", connection.answer());
        connection.answer().to_owned()
    }

    /// Asked by so many connections at once for so long. Every answer has to have this status.
    pub(crate) fn turn(&self, connections: usize, status: u16, time: Duration) -> Turn {
        let began = Instant::now();
        let took = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..connections).map(|_| scope.spawn(|| self.until(began + time, status))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect::<Vec<_>>()
        });
        Turn { seconds: began.elapsed().as_secs_f64(), took }
    }

    fn until(&self, end: Instant, status: u16) -> Vec<Duration> {
        let mut connection = Connection::to(&self.address);
        let mut took = Vec::new();
        while Instant::now() < end {
            let asked = Instant::now();
            let answered = connection.ask(self.text.as_bytes());
            assert_eq!(answered, status, "{}", connection.answer());
            took.push(asked.elapsed());
        }
        took
    }
}

/// What came of asking for a while.
pub(crate) struct Turn {
    seconds: f64,
    took: Vec<Duration>,
}

impl Turn {
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn a_second(&self) -> f64 {
        self.took.len() as f64 / self.seconds
    }

    pub(crate) fn took(self) -> Vec<Duration> {
        self.took
    }
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Where the body begins.
    body: usize,
}

impl Connection {
    fn to(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, received: Vec::new(), body: 0 }
    }

    fn ask(&mut self, request: &[u8]) -> u16 {
        self.stream.write_all(request).expect("it reads");
        self.received.clear();
        self.body = loop {
            self.more();
            if let Some(at) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = std::str::from_utf8(&self.received[..self.body]).expect("a head is text").to_ascii_lowercase();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::trim).map(str::to_owned));
        match field("content-length:") {
            Some(length) => {
                let whole = self.body + length.parse::<usize>().expect("a number");
                while self.received.len() < whole {
                    self.more();
                }
            }
            // In chunks: what is asked for is JSON on one line, so a line's end in front of an empty one is the last chunk's.
            None => {
                assert_eq!(field("transfer-encoding:").as_deref(), Some("chunked"));
                while !self.received[self.body..].ends_with(b"0\r\n\r\n") {
                    self.more();
                }
            }
        }
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    fn more(&mut self) {
        let mut some = [0; 16 * 1024];
        let read = self.stream.read(&mut some).expect("it answers");
        assert!(read > 0, "the connection ended within an answer");
        self.received.extend_from_slice(&some[..read]);
    }

    /// Of an answer in chunks, with their sizes between.
    fn answer(&self) -> &str {
        std::str::from_utf8(&self.received[self.body..]).expect("text")
    }
}
