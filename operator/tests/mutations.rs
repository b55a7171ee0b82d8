//! Manifests with random faults: whatever a file says, it is refused with a line or read as another YAML reader reads it, soon, and
//! in little memory. Seeds are fixed, so a failure comes again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it must be"
)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plumbline_crds::Resource;
use plumbline_crds::unsupported::Target;
use plumbline_operator::manifest::read::Source;
use plumbline_operator::validate::references::Elsewhere;
use plumbline_operator::validate::validate;
use serde::Deserialize;

const RUNS: usize = 1500;
/// For one manifest.
const LONGEST: Duration = Duration::from_secs(10);
/// Of the whole test, in kB.
const MOST_MEMORY: u64 = 1024 * 1024;

/// What is put in, beside pieces of the manifest itself.
const PIECES: [&str; 34] = [
    "- ",
    "? ",
    ": ",
    "&a ",
    "*a",
    "&a [*a]",
    "<<: *a",
    "{",
    "}",
    "[",
    "]",
    ",",
    "|",
    ">-",
    "\n",
    "\n\n",
    "---\n",
    "...\n",
    "#",
    "!!binary ",
    "%YAML 1.1\n",
    "\t",
    "\"",
    "'",
    "~",
    "true",
    "no",
    "1e999",
    "-9223372036854775809",
    ".nan",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{feff}",
    "\u{0}",
];

/// xorshift64* (Vigna, 2016).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % most.max(1)
    }

    /// A place between two characters.
    fn place(&mut self, text: &str) -> usize {
        text.floor_char_boundary(self.below(text.len() + 1))
    }
}

fn manifests(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            manifests(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "yaml") {
            found.push(entry);
        }
    }
    found.sort();
}

fn mutated(text: &str, dice: &mut Dice) -> String {
    let mut text = text.to_owned();
    for _ in 0..=dice.below(3) {
        let (a, b) = (dice.place(&text), dice.place(&text));
        let (from, to) = (a.min(b), text.floor_char_boundary(a.max(b).min(a.min(b) + 200)));
        match dice.below(7) {
            0 => text.replace_range(from..to, ""),
            1 => {
                let piece = text[from..to].to_owned();
                text.insert_str(b, &piece);
            }
            2 => text.insert_str(a, PIECES[dice.below(PIECES.len())]),
            3 => text.insert_str(a, &PIECES[dice.below(PIECES.len())].repeat(1 + dice.below(2000))),
            4 => {
                let mut bytes = text.into_bytes();
                let at = dice.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
            5 => {
                let mut lines: Vec<&str> = text.lines().collect();
                let (a, b) = (dice.below(lines.len()), dice.below(lines.len()));
                if !lines.is_empty() {
                    lines.swap(a, b);
                }
                text = lines.join("\n");
            }
            _ => {
                let depth = " ".repeat(dice.below(5));
                let at = dice.below(text.lines().count());
                let lines = text.lines().enumerate();
                let lines =
                    lines.map(|(i, line)| if i == at { format!("{depth}{}", line.trim_start()) } else { line.into() });
                text = lines.collect::<Vec<_>>().join("\n");
            }
        }
    }
    text
}

/// The resources of a text as another reader finds them; none where it finds a fault.
fn elsewhere(text: &str) -> Option<Vec<Resource>> {
    let read = |document| -> Option<Option<serde_yaml::Value>> {
        let value = serde_yaml::Value::deserialize(document).ok()?;
        Some(Some(value).filter(|value| !value.is_null()))
    };
    let documents: Option<Vec<_>> = serde_yaml::Deserializer::from_str(text).map(read).collect();
    documents?
        .into_iter()
        .flatten()
        .map(|value| serde_json::from_value(serde_json::to_value(value).ok()?).ok())
        .collect()
}

fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_manifest_with_any_fault_is_refused_or_read_as_it_stands_and_ends_nothing() {
    let (mut files, root) = (Vec::new(), Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")));
    manifests(&root.join("tests/manifests/good"), &mut files);
    manifests(&root.join("examples"), &mut files);
    let everywhere = Elsewhere { anything: true, ..Elsewhere::default() };
    let checked = |text: &str, target| {
        let source = Source { name: "m.yaml".into(), folder: "/m".into(), text: text.to_owned() };
        validate(&[source], &everywhere, target)
    };
    // Each where it is valid as it stands.
    let texts: Vec<(String, Target)> = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .filter_map(|text| {
            let target = [Target::Local, Target::Cluster].into_iter().find(|target| checked(&text, *target).is_ok())?;
            Some((text, target))
        })
        .collect();
    assert!(texts.len() > 10, "{} manifests", texts.len());
    let (mut refused, mut accepted, mut compared) = (0, 0, 0);
    for run in 0..RUNS {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (run as u64 + 1));
        let (text, target) = &texts[dice.below(texts.len())];
        let text = mutated(text, &mut dice);
        let start = Instant::now();
        let found = catch_unwind(AssertUnwindSafe(|| checked(&text, *target)));
        let found = found.unwrap_or_else(|_| panic!("run {run} ends in a panic:\n{text}"));
        assert!(start.elapsed() < LONGEST, "run {run} took {:?}:\n{text}", start.elapsed());
        match found {
            Err(problems) => {
                refused += 1;
                for shown in problems.iter().map(ToString::to_string) {
                    assert!(!shown.contains(char::is_control) && !shown.contains('\u{202e}'), "run {run}: {shown:?}");
                }
            }
            Ok(read) => {
                accepted += 1;
                let Some(others) = elsewhere(&text) else { continue };
                compared += 1;
                let read: Vec<Resource> = read.into_iter().map(|manifest| manifest.resource).collect();
                let spec = |resources: &[Resource]| {
                    resources.iter().map(|r| (r.id(), serde_json::to_value(&r.spec).unwrap())).collect::<Vec<_>>()
                };
                assert_eq!(spec(&read), spec(&others), "run {run} is read in another way:\n{text}");
            }
        }
    }
    println!("{refused} refused, {accepted} accepted, {compared} compared; {} kB", peak());
    assert!(refused > RUNS / 4 && compared > 50, "{refused} refused, {compared} compared");
    assert!(peak() < MOST_MEMORY, "{} kB", peak());
}
