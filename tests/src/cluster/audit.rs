//! What the API server was asked, from its audit log. Pure but for `read`.

use std::fs;
use std::path::Path;

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
    /// Namespace.
    pub namespace: &'a str,
}

impl Requests<'_> {
    /// Whether a line is one of these.
    pub fn matches(&self, line: &AuditLine) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let object = &line.object_ref;
        line.user_agent.starts_with(self.user_agent)
            && is(self.verb, &line.verb)
            && is(self.namespace, &object.namespace)
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

/// The lines of a log, in the order in which the answers were complete. A watch comes when it ends.
pub(super) fn read(log: &Path) -> Vec<AuditLine> {
    let text = fs::read_to_string(log).unwrap();
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}
