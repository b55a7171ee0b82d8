//! A real S3 server over a directory: Versity's gateway, built by `make setup-tests`. Talks to processes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;

use crate::ports;
use crate::programs::plumbline;

/// Name of the only bucket.
pub const BUCKET: &str = "align";
/// The access key that it accepts.
pub const ACCESS_KEY: &str = "tests";
/// The secret key.
pub const SECRET_KEY: &str = "s3cr3t-of-the-tests";

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/bin/versitygw");
const PATIENCE: Duration = Duration::from_mins(1);

/// The server, which is stopped when the value is dropped.
#[derive(Debug)]
pub struct Store {
    folder: tempfile::TempDir,
    address: SocketAddr,
    server: Option<Child>,
}

impl Store {
    /// Creates a store with an empty bucket on a local address, without starting it.
    pub fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST)
    }

    fn at(host: Ipv4Addr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let address = SocketAddr::new(host.into(), ports::claim());
        Self { folder, address, server: None }
    }

    /// The same, started.
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST)
    }

    /// Starts a store on an address that pods can reach.
    pub fn start_on(host: Ipv4Addr) -> Self {
        let mut store = Self::at(host);
        store.up();
        store
    }

    /// Starts the server, and waits until it listens.
    pub fn up(&mut self) {
        let address = self.address();
        // Killed when this process exits for whatever reason.
        let server = Command::new(plumbline())
            .args(["run-tied-to-parent", "--parent", &std::process::id().to_string(), "--", PROGRAM])
            .args(["--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", &address, "--quiet", "posix"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.server = Some(server);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "the S3 server does not come up; was `make setup-tests` run?");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Environment variables for access by runs.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        self.environment_over(&self.address())
    }

    /// The same with another address, such as that of a proxy.
    pub fn environment_over(&self, address: &str) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ]
    }

    /// Path of an object on the disk.
    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    /// Uploads an object as clients do, so that it has an ETag.
    pub async fn upload(&self, key: &str, content: String) {
        let client = AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.address()))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name(BUCKET)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .build()
            .unwrap();
        client.put(&key.into(), content.into()).await.unwrap();
    }

    /// Copies a file, or the files of a directory, to a key.
    pub fn put(&self, from: &Path, key: &str) {
        let to = self.path(key);
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
            return;
        }
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            self.put(&from.join(&name), &format!("{key}/{name}"));
        }
    }

    /// Kills the server, as in a crash. Its data is kept.
    pub fn down(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// The address it listens on.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
