//! The documents name everything that is part of the API, and show nothing that does not hold.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use plumbline_crds::Kind;
use plumbline_crds::exit_code::ExitCode;
use plumbline_operator::cluster::rbac;
use plumbline_operator::crds;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every document of the repository's own, by its path.
fn documents() -> Vec<String> {
    let mut found = ["README.md", "CONTRIBUTING.md", "charts/plumbline/README.md"].map(str::to_owned).to_vec();
    let mut folders = vec!["docs".to_owned(), "examples".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().map(Result::unwrap) {
            let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
            if entry.path().is_dir() {
                folders.push(path);
            } else if Path::new(&path).extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The links within the repository that stand in a document.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://"))
}

/// A path without `.` and `..`.
fn tidy(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut tidy, part| {
        match part {
            Component::ParentDir => drop(tidy.pop()),
            Component::CurDir => {}
            part => tidy.push(part),
        }
        tidy
    })
}

/// The rows of a document's tables that begin with `cell`.
fn rows<'a>(text: &'a str, cell: &str) -> Vec<&'a str> {
    text.lines().filter(|l| l.starts_with(&format!("| {cell} |"))).collect()
}

#[test]
fn every_reason_has_one_row_that_says_what_to_do() {
    let text = read("docs/reasons.md");
    let crd = crds::definition(Kind::RewardModel).unwrap();
    let path =
        "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions/items/properties/reason/enum";
    let reasons = crd.pointer(path).and_then(|r| r.as_array()).unwrap();
    assert!(reasons.len() > 30, "{reasons:?}");
    for reason in reasons {
        let found = rows(&text, reason.as_str().unwrap());
        assert_eq!(found.len(), 1, "docs/reasons.md: expected one row of {reason}, found {found:?}");
        let remedy = found[0].trim_end_matches('|').rsplit('|').next().unwrap().trim();
        assert!(!remedy.is_empty(), "{}", found[0]);
    }
}

#[test]
fn every_exit_code_has_a_row_with_its_reason_and_whether_it_is_tried_again() {
    let (text, reasons) = (read("docs/run-document.md"), read("docs/reasons.md"));
    for code in ExitCode::ALL {
        let found = rows(&text, &code.number().to_string());
        assert_eq!(found.len(), 1, "docs/run-document.md: expected one row of {code:?}, found {found:?}");
        let cells: Vec<&str> = found[0].split('|').map(str::trim).collect();
        assert_eq!((cells[2], cells[3]), (format!("{code:?}").as_str(), code.reason().as_str().as_str()));
        assert_eq!(matches!(cells[4], "yes" | "continues"), code.retryable(), "{}", found[0]);
        let failed = !matches!(code, ExitCode::Done | ExitCode::Interrupted);
        let named = rows(&reasons, &code.reason().as_str()).concat();
        assert!(!failed || named.contains(&format!("| {}", code.number())), "docs/reasons.md: {code:?}: {named}");
    }
}

/// All that is in the sources below a folder.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => sources(&path),
        Some(ending) if ending == "rs" => fs::read_to_string(&path).unwrap(),
        _ => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn every_message_that_a_symptom_quotes_is_one_of_ours_or_known_to_be_another_programs() {
    let ours = ["crds/src", "operator/src", "trainer/src", "trainer/feedback/src"]
        .map(|folder| sources(&root().join(folder)))
        .concat();
    let others = ["no matches for kind", "unknown field", "Unsupported value", "field not declared in schema"];
    let mut count = 0;
    for document in ["docs/troubleshooting.md", "docs/cluster.md"] {
        let text = read(document);
        for symptom in text.lines().filter(|line| line.starts_with("| ")).filter_map(|row| row.split('|').nth(1)) {
            let quoted = symptom.split('`').skip(1).step_by(2);
            let commands = ["helm ", "kubectl "];
            for words in quoted.filter(|q| q.contains(' ') && !commands.iter().any(|command| q.starts_with(command))) {
                assert!(others.contains(&words) || ours.contains(words), "{document}: nobody says `{words}`");
                count += 1;
            }
        }
    }
    assert!(count >= 9, "{count}");
}

#[test]
fn every_right_of_the_operator_is_told() {
    let text = read("docs/security.md");
    let told = text.split("- **Rights.**").nth(1).and_then(|rest| rest.split("\n- ").next()).unwrap();
    let rules = [rbac::rules(), rbac::kueue_rules(), rbac::cluster_rules(), rbac::own_rules()].concat();
    let kinds = Kind::ALL.map(Kind::plural);
    let resources = rules.iter().flat_map(|rule| &rule.resources);
    let others: Vec<&String> = resources.filter(|r| !kinds.iter().any(|kind| r.starts_with(kind))).collect();
    for resource in &others {
        assert!(told.contains(&format!("`{resource}`")), "docs/security.md does not tell of {resource}");
    }
    assert!(others.len() > 8, "{others:?}");
}

/// The names that a source file logs: those of its means, and of the values that are added to these.
fn logged(source: &str) -> BTreeSet<&str> {
    let added = source.split("values.extend([").skip(1).filter_map(|rest| rest.split("])").next());
    let means = [quoted(source, "add(\""), quoted(source, "add(&mut means, \""), quoted(source, ".total(\"")].concat();
    means.into_iter().chain(added.flat_map(|block| quoted(block, "(\""))).collect()
}

/// The rest of every string that begins so.
fn quoted<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.split(start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_metric_that_a_stage_logs_is_explained() {
    let text = read("docs/metrics.md");
    let mut count = 0;
    for file in [
        "train/supervised",
        "train/online",
        "train/samples",
        "stage/reward",
        "stage/tune/dpo",
        "method/metrics",
        "method/shaping",
        "method/ppo",
        "method/grpo",
        "method/reinforce",
        "method/a2c",
        "method/critic",
        "stage/tune/sft",
    ] {
        for name in logged(&read(&format!("trainer/src/{file}.rs"))) {
            assert!(text.contains(&format!("`{name}`")), "docs/metrics.md does not explain {name} of {file}.rs");
            count += 1;
        }
    }
    assert!(count > 30, "the sources log {count} metrics, fewer than they did");
}

#[test]
fn every_metric_of_the_operator_is_explained() {
    let text = read("docs/metrics.md");
    let source = read("operator/src/cluster/metrics.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let names = quoted(source, "\"plumbline_");
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("`plumbline_{name}`")), "docs/metrics.md does not explain plumbline_{name}");
    }
}

#[test]
fn every_document_is_reached_from_the_readme() {
    let mut reached = BTreeSet::from([PathBuf::from("README.md")]);
    let mut next = vec![PathBuf::from("README.md")];
    while let Some(document) = next.pop() {
        let text = read(document.to_str().unwrap());
        for target in links(&text).filter_map(|target| target.split('#').next()).filter(|path| !path.is_empty()) {
            let path = tidy(&document.parent().unwrap().join(target));
            let is_document = path.extension().is_some_and(|e| e == "md");
            if is_document && reached.insert(path.clone()) {
                next.push(path);
            }
        }
    }
    for document in documents() {
        assert!(reached.contains(Path::new(&document)), "no link leads from README.md to {document}");
    }
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = read("Makefile");
    let mut named = BTreeSet::new();
    for document in documents() {
        let text = read(&document);
        let inline = quoted_by(&text, "`make ");
        let in_blocks = text.lines().filter_map(|line| line.strip_prefix("make "));
        for words in inline.into_iter().chain(in_blocks) {
            let words = words.split('#').next().unwrap_or_default().split_whitespace();
            named.extend(words.filter(|word| !word.contains('=')).map(|word| (word.to_owned(), document.clone())));
        }
    }
    assert!(named.len() > 15, "{named:?}");
    for (target, document) in named {
        assert!(makefile.contains(&format!("\n{target}:")), "{document}: `make {target}`: there is no such target");
    }
}

/// What stands after each `start`, up to the next backtick.
fn quoted_by<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.split(start).skip(1).filter_map(|rest| rest.split('`').next()).collect()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_manifests_of_the_readme_are_valid_and_what_the_quickstart_has() {
    let examples = ["dataset", "reward-model", "policy-ppo"].map(|n| read(&format!("examples/quickstart/{n}.yaml")));
    let (mut manifests, mut judges) = (Vec::new(), Vec::new());
    for block in blocks(&read("README.md"), "yaml") {
        if block.starts_with("apiVersion") { manifests.push(block) } else { judges.push(block) }
    }
    for (manifest, example) in manifests.iter().zip(&examples) {
        let mut lines = example.lines().map(|l| l.split("   #").next().unwrap_or_default());
        for line in manifest.lines() {
            assert!(
                lines.any(|l| l == line),
                "README.md: `{line}` is not in examples/quickstart, or not in this order"
            );
        }
    }
    assert_eq!((manifests.len(), judges.len()), (3, 1));
    let head = "apiVersion: plumbline.dev/v1alpha1\nkind: PreferenceDataset\nmetadata: {name: j}\nspec:\n";
    let rest = "  prompts: {inline: [p]}\n  generator: {model: {uri: m}}\n";
    let indented: Vec<String> = judges[0].lines().map(|l| format!("  {l}\n")).collect();
    manifests.push(format!("{head}{rest}{}", indented.concat()));
    let mut child = Command::new(env!("CARGO_BIN_EXE_plumbline"))
        .args(["validate", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(manifests.join("---\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    for document in documents() {
        let text = read(&document);
        let folder = root().join(&document).parent().unwrap().to_owned();
        for target in links(&text) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { root().join(&document) } else { folder.join(path) };
            assert!(file.exists(), "{document}: {target}");
            // As GitHub makes them.
            let anchor = |line: &str| {
                let kept = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                kept.replace(|c: char| !c.is_alphanumeric() && !"-_".contains(c), "")
            };
            let found = heading.is_empty()
                || fs::read_to_string(&file).unwrap().lines().any(|l| l.starts_with('#') && anchor(l) == heading);
            assert!(found, "{document}: {target}: there is no such heading");
        }
    }
}
