//! Asked to stop while it waits for a server, the trainer ends in a moment.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plumbline_testkit::fetch::Fetch;
use serde_json::json;

/// What it takes to end, on a machine that is busy with other tests. Waiting for the server took a minute or more.
const SOON: Duration = Duration::from_secs(15);

/// A server that takes connections, and either says nothing or hangs up.
struct Silent {
    address: String,
    connections: Arc<AtomicUsize>,
}

impl Silent {
    fn start(hangs_up: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = Self { address: listener.local_addr().unwrap().to_string(), connections: Arc::default() };
        let connections = Arc::clone(&silent.connections);
        std::thread::spawn(move || {
            let held: Mutex<Vec<TcpStream>> = Mutex::default();
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                if !hangs_up {
                    held.lock().unwrap().push(stream);
                }
            }
        });
        silent
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let url = format!("http://{}", self.address);
        vec![
            ("AWS_ENDPOINT_URL", url.clone()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", "id".into()),
            ("AWS_SECRET_ACCESS_KEY", "key".into()),
            ("HF_ENDPOINT", url),
        ]
    }
}

#[test]
fn a_server_that_does_not_answer_does_not_delay_the_end() {
    for uri in ["s3://bucket/model", "hf://org/model"] {
        for hangs_up in [false, true] {
            for kept in [false, true] {
                let silent = Silent::start(hangs_up);
                let mut fetch = Fetch::new(silent.environment());
                if kept {
                    fetch.store = json!({"artifact": "s3://bucket/it", "work": "s3://bucket/.it.work"});
                }
                fetch.start(uri);
                fetch.until("it waits", |_| silent.connections.load(Ordering::SeqCst) > usize::from(hangs_up) * 3);
                let (code, took) = fetch.terminate();
                let what = format!("{uri}, hangs up: {hangs_up}, kept: {kept}: {}", fetch.log());
                assert_eq!(code, 75, "{what}");
                assert!(took < SOON, "took {took:?}: {what}");
            }
        }
    }
}
