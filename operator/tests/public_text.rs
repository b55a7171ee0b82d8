//! Text that people read (documents, comments of values and examples, messages, help) in the terms of the glossary of
//! CONTRIBUTING.md: a pattern for each term that has a standard one. Reads files only.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// What is not written, and what is written instead.
const PATTERNS: [(&str, &str); 11] = [
    (r"(?i)\b(whoever|nobody|somebody)\b", "a user, an administrator, another process, no client"),
    (
        r"(?i)\b(anew|afresh)\b|\b(goes|go|went) on\b|\b(begins?|began) again\b",
        "resumes, continues, restarts, from scratch",
    ),
    (r"(?i)\b(is|are|was|were|be|been|being) told\b|\btells\b", "reports, records, notifies, gets"),
    (r"(?i)\b(visits?|looks? at it again|looked at again)\b", "reconcile, requeue, resync"),
    (r"(?i)\b(laptop|outside a cluster)\b", "local, locally"),
    (r"(?i)\bfolders?\b", "directory"),
    (r"(?i)\bfound another([;,.]|$)", "found, and the value"),
    (r"; (correct|change|mend) it$", "nothing: the message has said what was expected"),
    (r"(?i)\brefuses? to (give|take)\b", "denies access reading, writing"),
    (
        r"(?i)\b(nats|tokens|responses|pairs|prompts|sequences|questions|requests|samples|bytes|seconds|values|numbers|parameters|micro-batches|accelerators|replicas|processes|dimensions|turns) an? (response|prompt|pair|rollout|step|pod|token|question|request|sequence|text|line|row|record|head|layer|node|process|second|minute|hour|batch|run|resource|namespace|cluster)\b",
        "per",
    ),
    (
        r"(?i)\b(one|mean|entropy|object|line|record|stage|value|folder|directory|row|prompt|text|pair|file) an? (response|prompt|pair|rollout|step|pod|token|question|request|sequence|text|line|row|record|process|use|namespace|cluster|file)\b",
        "per",
    ),
];

struct Lint(Vec<(Regex, &'static str)>);

impl Lint {
    fn new() -> Self {
        Self(PATTERNS.iter().map(|(pattern, better)| (Regex::new(pattern).unwrap(), *better)).collect())
    }

    /// What is wrong in a text that stands at `place`.
    fn check(&self, place: &str, text: &str) -> Vec<String> {
        let odd = self.0.iter().filter_map(|(pattern, better)| Some((pattern.find(text)?.as_str(), better)));
        odd.map(|(odd, better)| format!("{place}: \"{odd}\"; write: {better}")).collect()
    }

    /// What is wrong in a file of the repository.
    fn check_file(&self, path: &str) -> Vec<String> {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let public = match Path::new(path).extension().and_then(|e| e.to_str()) {
            Some("rs") => public_text_of_source(&text),
            _ => text.lines().enumerate().map(|(i, line)| (i + 1, line.to_owned())).collect(),
        };
        public.iter().flat_map(|(line, text)| self.check(&format!("{path}:{line}"), text)).collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files below a directory that end in one of `endings`.
fn files(directory: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(directory)).unwrap().map(Result::unwrap) {
        let path = format!("{directory}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            found.extend(files(&path, endings));
        } else if endings.iter().any(|ending| path.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}

/// What people read of a Rust source: its string literals with a space in them, outside tests, with their lines; and the doc
/// comments that clap prints as help.
fn public_text_of_source(source: &str) -> Vec<(usize, String)> {
    let source = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let is_help = source.contains("clap::");
    let (mut found, mut rest) = (Vec::new(), source);
    while let Some(start) = rest.find(['"', '/', '\'', 'r']) {
        let line = source[..source.len() - rest.len() + start].matches('\n').count() + 1;
        let at = &rest[start..];
        let length = if at.starts_with("//") {
            let comment = at.lines().next().unwrap_or_default();
            if is_help && let Some(help) = comment.strip_prefix("///") {
                found.push((line, help.to_owned()));
            }
            comment.len()
        } else if at.starts_with('"') {
            let length = literal(at);
            found.push((line, unfolded(&at[1..length - 1])));
            length
        } else if at.starts_with("r\"") || at.starts_with("r#\"") {
            let close = if at.starts_with("r\"") { "\"" } else { "\"#" };
            let text = &at[close.len() + 1..];
            let length = text.find(close).unwrap_or(text.len());
            found.push((line, text[..length].to_owned()));
            (2 * close.len() + 1 + length).min(at.len())
        } else if at.starts_with('\'') {
            // `'"'` and `'\''` are characters; other quotes belong to lifetimes, or to characters that mean nothing here.
            ["'\"'", "'\\''", "'/'"].iter().find(|c| at.starts_with(**c)).map_or(1, |c| c.len())
        } else {
            1
        };
        rest = &at[length..];
    }
    found.retain(|(_, text)| text.contains(' '));
    found
}

/// The length of the string literal that a text begins with, its quotes included.
fn literal(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// A literal without the line breaks that the source has in it.
fn unfolded(literal: &str) -> String {
    let mut lines = literal.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

#[test]
fn public_text_uses_the_standard_terms() {
    let mut texts = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    texts.extend(files("docs", &[".md"]));
    texts.extend(files("examples", &[".md", ".yaml"]));
    texts.extend(files("charts/plumbline", &["values.yaml", "alerts.yaml", ".md", "NOTES.txt", "dashboard.json"]));
    let documents = texts.len();
    for sources in ["crds/src", "operator/src", "trainer/src", "trainer/feedback/src"] {
        texts.extend(files(sources, &[".rs"]).into_iter().filter(|path| !is_test(path)));
    }
    assert!(documents > 50 && texts.len() > 150, "{documents} documents of {} files", texts.len());
    let lint = Lint::new();
    let found: Vec<String> = texts.iter().flat_map(|path| lint.check_file(path)).collect();
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

/// Whether a source has tests alone.
fn is_test(path: &str) -> bool {
    ["tests.rs", "/tests/", "mutated.rs", "mutations.rs", "fixture.rs"].iter().any(|part| path.contains(part))
}

#[test]
fn each_pattern_finds_a_planted_sentence() {
    let lint = Lint::new();
    let planted = [
        "whoever may write to it",
        "The run goes on.",
        "a pod is told to stop",
        "until the next visit",
        "On a laptop it is refused.",
        "the work folder",
        "expected a claim, found another",
        "expected a size, found 1x; correct it",
        "the store refuses to give it",
        "7.5 nats a response",
        "One prompt a line.",
    ];
    for ((pattern, _), sentence) in PATTERNS.iter().zip(planted) {
        assert_eq!(lint.check("here", sentence).len(), 1, "{pattern}: {sentence}");
    }
    let good = "A user may write one prompt per line; the run resumes and reports it in its directory, locally.";
    assert_eq!(lint.check("here", good), Vec::<String>::new());
}

#[test]
fn literals_and_help_of_a_source_are_read_and_nothing_else() {
    let source = r#"
        //! A folder in a comment.
        use clap::Args;
        struct A {
            /// The work directory.
            a: u8,
        }
        fn f<'a>(x: &'a str) { let c = '"'; g("one \"two\" \
              three", r"four five", "word"); } // not this
        #[cfg(test)]
        mod tests { const T: &str = "a folder"; }
    "#
    .replace("        #[cfg", "#[cfg")
    .replace("        mod", "mod");
    let found = public_text_of_source(&source);
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, [" The work directory.", "one \\\"two\\\" three", "four five"]);
    assert_eq!(found[1].0, 8, "{found:?}");
}
