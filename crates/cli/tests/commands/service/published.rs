//! An issuer's keys, on a server that does nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// What an issuer publishes, and how often it was asked.
pub(crate) struct Published {
    pub(crate) url: String,
    pub(crate) answers: Arc<Mutex<String>>,
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Published {
    pub(crate) fn start(document: &Value) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/keys", socket.local_addr().expect("an address"));
        let answers = Arc::new(Mutex::new(document.to_string()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (document, count) = (Arc::clone(&answers), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                let mut stream = stream.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("a request");
                    head.push(byte[0]);
                }
                count.fetch_add(1, Ordering::SeqCst);
                let body = document.lock().expect("no test panics here").clone();
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).ok();
            }
        });
        Self { url, answers, asked }
    }
}
