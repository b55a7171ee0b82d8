//! A web server that sends the exact bytes that a test specifies, valid or not. Talks to sockets.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Writes a response to the connection, until the client closes it. Its arguments are the path and the headers of the
/// request, in lower case.
pub type Answer = dyn Fn(&str, &str, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// The server. It accepts connections until the process exits.
pub struct RawServer {
    address: String,
    requests: Arc<AtomicUsize>,
    headers: Arc<Mutex<Vec<String>>>,
}

impl RawServer {
    /// Starts a local server.
    pub fn start(answer: Box<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { address, requests: Arc::default(), headers: Arc::default() };
        let (requests, headers, answer) = (server.requests.clone(), server.headers.clone(), Arc::new(answer));
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (requests, headers, answer) = (requests.clone(), headers.clone(), answer.clone());
                thread::spawn(move || {
                    let Some((path, head)) = request(&stream) else { return };
                    requests.fetch_add(1, Ordering::SeqCst);
                    headers.lock().unwrap().push(head.clone());
                    // Fails if the client closes the connection.
                    let _ = answer(&path, &head, &mut stream);
                });
            }
        });
        server
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Number of requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The headers of each request so far.
    pub fn headers(&self) -> Vec<String> {
        self.headers.lock().unwrap().clone()
    }
}

/// The path and the headers of a request.
fn request(stream: &TcpStream) -> Option<(String, String)> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut head = String::new();
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            return Some((path, head));
        }
        head.push_str(&line.to_ascii_lowercase());
        head.push('\n');
    }
    None
}

/// Writes a redirect without a body.
///
/// # Errors
/// Those of the connection.
pub fn redirect(stream: &mut TcpStream, to: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())
}
