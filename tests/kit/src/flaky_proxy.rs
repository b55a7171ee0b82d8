//! A TCP proxy that can break connections in the middle of a request. Talks to sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The proxy. It accepts connections until the process exits.
pub struct FlakyProxy {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The proxy breaks when these bytes are sent to the server.
    break_at: Mutex<Option<&'static str>>,
    broken: AtomicBool,
}

impl FlakyProxy {
    /// Starts a proxy for a local server.
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self { address: listener.local_addr().unwrap().to_string(), state: Arc::default() };
        let (state, server) = (line.state.clone(), server.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Otherwise the connection is dropped, which closes it.
                if let (false, Ok(server)) = (state.broken.load(Ordering::SeqCst), TcpStream::connect(&server)) {
                    connect(&client, &server, &state);
                }
            }
        });
        line
    }

    /// The address it listens on.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Breaks as soon as these bytes are sent to the server; half of the data arrives.
    pub fn break_at(&self, bytes: &'static str) {
        *self.state.break_at.lock().unwrap() = Some(bytes);
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::SeqCst)
    }

    /// Accepts connections again, and no longer breaks.
    pub fn mend(&self) {
        *self.state.break_at.lock().unwrap() = None;
        self.state.broken.store(false, Ordering::SeqCst);
    }
}

fn connect(client: &TcpStream, server: &TcpStream, state: &Arc<State>) {
    for (from, to, is_request) in [(client, server, true), (server, client, false)] {
        let (from, to, state) = (from.try_clone().unwrap(), to.try_clone().unwrap(), state.clone());
        std::thread::spawn(move || {
            pass(&from, &to, is_request.then_some(&*state));
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, state: Option<&State>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        let sent = &buffer[..size];
        if let Some(state) = state {
            let break_at = *state.break_at.lock().unwrap();
            if break_at.is_some_and(|bytes| sent.windows(bytes.len()).any(|w| w == bytes.as_bytes())) {
                state.broken.store(true, Ordering::SeqCst);
            }
            if state.broken.load(Ordering::SeqCst) {
                let _ = to.write_all(&sent[..size / 2]);
                return;
            }
        }
        if to.write_all(sent).is_err() {
            return;
        }
    }
}
