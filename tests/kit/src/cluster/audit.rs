//! What the API server was asked, from its audit log. Pure but for [`Log`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

/// A request that was answered: the fields of `audit.k8s.io/v1` Event that tests look at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditLine {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// The program that asked, as it calls itself.
    #[serde(default)]
    pub user_agent: String,
    /// What was asked for; none for a path such as `/readyz`.
    #[serde(default)]
    pub object_ref: ObjectRef,
    /// What was answered.
    #[serde(default)]
    pub response_status: ResponseStatus,
}

/// Who asked.
#[derive(Debug, Clone, Deserialize)]
pub struct User {
    /// A certificate's common name, or `system:serviceaccount:NAMESPACE:NAME`.
    pub username: String,
}

/// What a request was about; what does not apply is empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// Plural, as in `jobs`.
    pub resource: String,
    /// As in `status`.
    pub subresource: String,
    /// Empty for what is in no namespace.
    pub namespace: String,
    /// Empty for a list, and for what is created under a generated name.
    pub name: String,
    /// As in `batch`.
    pub api_group: String,
}

/// What was answered.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ResponseStatus {
    /// HTTP status.
    #[serde(default)]
    pub code: u16,
}

/// Requests to look for; an empty text stands for any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests<'a> {
    /// How the program's name for itself begins.
    pub user_agent: &'a str,
    /// As in [`AuditLine::verb`]. An applied object is a `patch`.
    pub verb: &'a str,
    /// Plural, with the subresource after a slash: `jobs`, `pods/status`.
    pub resource: &'a str,
}

impl Requests<'_> {
    /// Whether a line is one of these.
    pub fn matches(&self, line: &AuditLine) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let object = &line.object_ref;
        line.user_agent.starts_with(self.user_agent)
            && is(self.verb, &line.verb)
            && match self.resource.split_once('/') {
                Some((resource, subresource)) => resource == object.resource && subresource == object.subresource,
                None => {
                    is(self.resource, &object.resource) && (self.resource.is_empty() || object.subresource.is_empty())
                }
            }
    }
}

impl AuditLine {
    /// Whether it could change something. A refused request is none.
    pub fn is_write(&self) -> bool {
        let writes = ["create", "update", "patch", "delete", "deletecollection"];
        writes.contains(&self.verb.as_str()) && self.response_status.code < 400
    }
}

/// The API server's policy: one line a request, without bodies.
pub(super) fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata"}],
    })
}

/// A log, read as far as it was written. What was read once is kept, by namespace: a log grows to hundreds of megabytes, and
/// tests look again and again.
#[derive(Debug)]
pub(super) struct Log {
    file: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    bytes: u64,
    of_namespace: BTreeMap<String, Vec<Arc<AuditLine>>>,
}

impl Log {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, read: Mutex::default() }
    }

    /// The lines so far about objects in a namespace, and of its service accounts about any object; in the order in which the
    /// answers were complete. A watch comes when it ends.
    pub(super) fn of(&self, namespace: &str) -> Vec<Arc<AuditLine>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = File::open(&self.file).unwrap();
        file.seek(SeekFrom::Start(read.bytes)).unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            // The last one may be half written.
            if line.ends_with(b"\n") {
                let parsed = serde_json::from_slice(line);
                read.add(parsed.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(line))));
                read.bytes += line.len() as u64;
            }
        }
        read.of_namespace.get(namespace).cloned().unwrap_or_default()
    }
}

impl Read {
    fn add(&mut self, line: AuditLine) {
        let account = line.user.username.strip_prefix("system:serviceaccount:");
        let of_user = account.and_then(|account| account.split(':').next()).unwrap_or_default().to_owned();
        let of_object = line.object_ref.namespace.clone();
        let line = Arc::new(line);
        if of_user != of_object {
            self.of_namespace.entry(of_user).or_default().push(line.clone());
        }
        self.of_namespace.entry(of_object).or_default().push(line);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_half_written_line_is_read_once_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let log = Log::new(file.path().to_owned());
        let verbs = || log.of("").iter().map(|line| line.verb.clone()).collect::<Vec<_>>();
        file.write_all(b"{\"verb\": \"get\", \"user\": {\"username\": \"a\"}}\n{\"verb\": \"li").unwrap();
        assert_eq!(verbs(), ["get"]);
        file.write_all("st\", \"user\": {\"username\": \"ü\"}}\n".as_bytes()).unwrap();
        assert_eq!(verbs(), ["get", "list"]);
        assert_eq!(verbs(), ["get", "list"]);
    }

    #[test]
    fn a_namespace_has_lines_about_its_objects_and_of_its_accounts_once() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let log = Log::new(file.path().to_owned());
        for (verb, user, namespace) in [
            ("get", "admin", "a"),
            ("list", "system:serviceaccount:a:operator", "a"),
            ("watch", "system:serviceaccount:a:operator", ""),
            ("patch", "system:serviceaccount:b:operator", "b"),
            ("delete", "admin", ""),
        ] {
            let object = json!({"resource": "jobs", "namespace": namespace});
            let line = json!({"verb": verb, "user": {"username": user}, "objectRef": object});
            writeln!(file, "{line}").unwrap();
        }
        let verbs = |of: &str| log.of(of).iter().map(|line| line.verb.clone()).collect::<Vec<_>>();
        assert_eq!(verbs("a"), ["get", "list", "watch"]);
        assert_eq!(verbs("b"), ["patch"]);
    }
}
