//! Manifests -> resources, or everything that is wrong with them. Computes only.
//!
//! | what is checked | file |
//! |---|---|
//! | each value, against the schema that the CRD publishes | `schema`, in the words of `advice` |
//! | apiVersion, kind, metadata, URIs | `document` |
//! | fields of one spec against each other | `rules` |
//! | a judge's question templates | `templates` |
//! | resources against each other | `references` |

mod advice;
pub mod document;
pub mod problem;
pub mod references;
pub mod rules;
pub mod schema;
mod templates;

use std::path::PathBuf;

use plumbline_crds::Resource;
use plumbline_crds::unsupported::Target;

use crate::manifest::read::Source;
use crate::manifest::yaml::{self, Node};
use document::Checked;
pub use problem::Problem;
use references::{Elsewhere, Identity, Unclear};

/// A resource and where it stands.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The resource.
    pub resource: Resource,
    /// The file, as named on the command line.
    pub file: String,
    /// The folder that relative paths in it start from.
    pub folder: PathBuf,
    document: Node,
}

impl Manifest {
    /// A problem with a field of this resource.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.document.line_of(path),
            subject: self.resource.id(),
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

/// Every resource of the sources in the order written, or all problems in the order of their lines.
pub fn validate(sources: &[Source], elsewhere: &Elsewhere, target: Target) -> Result<Vec<Manifest>, Vec<Problem>> {
    let (mut problems, mut documents, mut unclear) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        documents.extend(check_source(source, target, &mut problems, &mut unclear));
    }
    check_set(&documents, &unclear, elsewhere, &mut problems);
    if !problems.is_empty() {
        let position = |p: &Problem| sources.iter().position(|s| s.name == p.file);
        problems.sort_by_key(|p| (position(p), p.line));
        return Err(problems);
    }
    Ok(documents.into_iter().filter_map(Document::manifest).collect())
}

struct Document<'a> {
    source: &'a Source,
    node: Node,
    checked: Checked,
}

impl Document<'_> {
    fn problem(&self, line: usize, path: &str, message: String) -> Problem {
        let (file, subject) = (self.source.name.clone(), self.checked.subject());
        Problem { file, line, subject, path: path.to_owned(), message }
    }

    fn identity(&self) -> Option<Identity> {
        let namespace = self.checked.namespace.clone().unwrap_or_default();
        Some(Identity { namespace, kind: self.checked.kind?, name: self.checked.name.clone()? })
    }

    /// What it is, where its kind or name is at fault.
    fn unclear(&self) -> Option<Unclear> {
        let Checked { kind, name, findings, .. } = &self.checked;
        let is_at_fault = |path: &str| path == "metadata" || path.eq_ignore_ascii_case("metadata.name");
        let faulty = kind.is_none() || name.is_none() || findings.iter().any(|f| is_at_fault(&f.finding.path));
        faulty.then(|| Unclear { kind: *kind, name: name.clone() })
    }

    fn manifest(self) -> Option<Manifest> {
        let (file, folder) = (self.source.name.clone(), self.source.folder.clone());
        Some(Manifest { resource: self.checked.resource?, file, folder, document: self.node })
    }
}

/// The documents of a source, what is wrong with them, and which of them may be more than they say.
fn check_source<'a>(
    source: &'a Source,
    target: Target,
    problems: &mut Vec<Problem>,
    unclear: &mut Vec<Unclear>,
) -> Vec<Document<'a>> {
    let whole = |line, message| Problem {
        file: source.name.clone(),
        line,
        subject: String::new(),
        path: String::new(),
        message,
    };
    let read = yaml::documents(&source.text);
    if read.is_empty() {
        problems.push(whole(
            1,
            "expected at least one manifest, found an empty file; write one or leave the file out".into(),
        ));
    }
    let mut documents = Vec::new();
    for document in read {
        match document {
            Err(error) => {
                problems.push(whole(error.line, error.message));
                unclear.push(Unclear::default());
            }
            Ok(node) => {
                let checked = document::check(&node, &source.folder, target);
                let document = Document { source, node, checked };
                let found = document.checked.findings.iter();
                problems.extend(found.map(|f| document.problem(f.line, &f.finding.path, f.finding.message.clone())));
                unclear.extend(document.unclear());
                documents.push(document);
            }
        }
    }
    documents
}

fn check_set(documents: &[Document], unclear: &[Unclear], elsewhere: &Elsewhere, problems: &mut Vec<Problem>) {
    let (named, set): (Vec<&Document>, Vec<Identity>) =
        documents.iter().filter_map(|d| d.identity().map(|identity| (d, identity))).unzip();
    for (second, first) in references::duplicates(&set) {
        let (document, first) = (named[second], named[first]);
        let (file, line) = (&first.source.name, first.node.line_of("metadata.name"));
        let message = format!(
            "expected each kind and name once, found it again after {file}:{line}; rename or remove one of the two"
        );
        problems.push(document.problem(document.node.line_of("metadata.name"), "metadata.name", message));
    }
    for document in documents {
        let Some(resource) = &document.checked.resource else { continue };
        for finding in references::missing(resource, &set, unclear, elsewhere) {
            problems.push(document.problem(document.node.line_of(&finding.path), &finding.path, finding.message));
        }
    }
}
