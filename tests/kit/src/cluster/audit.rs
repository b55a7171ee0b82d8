//! The requests that the API server received, from its audit log. Pure, except for [`Log`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

/// A completed request: the fields of an `audit.k8s.io/v1` Event that tests use.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditLine {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// The user who sent it.
    pub user: User,
    /// The client's user agent.
    #[serde(default)]
    pub user_agent: String,
    /// The object that the request is about; empty for a path such as `/readyz`.
    #[serde(default)]
    pub object_ref: ObjectRef,
    /// The response.
    #[serde(default)]
    pub response_status: ResponseStatus,
}

/// The user of a request.
#[derive(Debug, Clone, Deserialize)]
pub struct User {
    /// A certificate's common name, or `system:serviceaccount:NAMESPACE:NAME`.
    pub username: String,
}

/// The object of a request; fields that do not apply are empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// Plural, as in `jobs`.
    pub resource: String,
    /// Subresource, such as `status`.
    pub subresource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Empty for a list, and for an object created with a generated name.
    pub name: String,
    /// API group, such as `batch`.
    pub api_group: String,
}

/// The response to a request.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ResponseStatus {
    /// HTTP status.
    #[serde(default)]
    pub code: u16,
}

/// A filter for requests; an empty string matches anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests<'a> {
    /// Prefix of the user agent.
    pub user_agent: &'a str,
    /// Verb, as in [`AuditLine::verb`]. Server-side apply is a `patch`.
    pub verb: &'a str,
    /// Plural, with the subresource after a slash: `jobs`, `pods/status`.
    pub resource: &'a str,
}

impl Requests<'_> {
    /// Whether a request matches.
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
    /// Whether the request may have changed something. Rejected requests have not.
    pub fn is_write(&self) -> bool {
        let writes = ["create", "update", "patch", "delete", "deletecollection"];
        writes.contains(&self.verb.as_str()) && self.response_status.code < 400
    }
}

/// The API server's audit policy: one line per request, without bodies.
pub(super) fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata"}],
    })
}

/// An audit log that is read incrementally. Lines are kept in memory by namespace: a log grows to hundreds of
/// megabytes, and tests read it repeatedly.
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

    /// The lines so far about objects in a namespace, and those of its service accounts about any object, in the order
    /// in which responses were completed. A watch is logged when it ends.
    pub(super) fn of(&self, namespace: &str) -> Vec<Arc<AuditLine>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = File::open(&self.file).unwrap();
        file.seek(SeekFrom::Start(read.bytes)).unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            // The last line may be incomplete.
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
    fn an_incomplete_line_is_read_once_it_is_complete() {
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
    fn requests_are_listed_once_by_object_or_account() {
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
