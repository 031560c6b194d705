//! A TCP proxy that does to connections what networks do, when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happens to what the server says. What the client says goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// It comes later by so much.
    Late(Duration),
    /// A byte at a time, each later by so much.
    Trickle(Duration),
    /// So many bytes come, then none, and the connection stays open.
    StallAfter(usize),
    /// So many bytes come, and then the connection ends.
    CutAfter(usize),
    /// Something else comes in its place.
    Garbled,
    /// The last bit of every piece is another one.
    Flipped,
}

/// Listens on a loopback port and passes everything to one server until the process ends.
pub struct FaultProxy {
    port: u16,
    server: Arc<Mutex<SocketAddr>>,
    fault: Arc<Mutex<Fault>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl FaultProxy {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("its number").port();
        let (fault, open): (Arc<Mutex<Fault>>, Arc<Mutex<Vec<TcpStream>>>) = Default::default();
        let server = Arc::new(Mutex::new(server));
        let leads_to = Arc::clone(&server);
        let (told, connections) = (Arc::clone(&fault), Arc::clone(&open));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // No server: the client sees its connection end, as it would without us.
                let server = *leads_to.lock().unwrap_or_else(PoisonError::into_inner);
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let mut list = connections.lock().unwrap_or_else(PoisonError::into_inner);
                for (from, to, told) in [(&client, &upstream, None), (&upstream, &client, Some(&told))] {
                    let (Ok(from), Ok(to), Ok(kept)) = (from.try_clone(), to.try_clone(), from.try_clone()) else {
                        continue;
                    };
                    list.push(kept);
                    let told = told.map(Arc::clone);
                    std::thread::spawn(move || pass(from, to, told.as_deref()));
                }
            }
        });
        Self { port, server, fault, open }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, for connections that are open as well.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// From now on, new connections go to another server. Those that are open stay where they are.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Ends every connection that is open, in the middle of whatever it carries. New ones are taken.
    pub fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be gone already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, told: Option<&Mutex<Fault>>) {
    let mut buffer = vec![0; 1 << 16];
    let mut passed = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let fault = told.map(|told| *told.lock().unwrap_or_else(PoisonError::into_inner));
        let bytes = &mut buffer[..read];
        let left = |most: usize| most.saturating_sub(passed).min(read);
        let sent = match fault.unwrap_or_default() {
            Fault::None => to.write_all(bytes),
            Fault::Late(by) => {
                std::thread::sleep(by);
                to.write_all(bytes)
            }
            Fault::Trickle(by) => bytes.chunks(1).try_for_each(|byte| {
                std::thread::sleep(by);
                to.write_all(byte)
            }),
            Fault::StallAfter(most) => to.write_all(&bytes[..left(most)]),
            Fault::CutAfter(most) => {
                let left = left(most);
                // Whatever comes of it, the connection ends here.
                to.write_all(&bytes[..left]).and(if left < read {
                    Err(std::io::ErrorKind::BrokenPipe.into())
                } else {
                    Ok(())
                })
            }
            Fault::Garbled => {
                bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
                to.write_all(bytes)
            }
            Fault::Flipped => {
                bytes[read - 1] ^= 1;
                to.write_all(bytes)
            }
        };
        passed += read;
        if sent.is_err() {
            break;
        }
    }
    // The other direction ends with this one.
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
