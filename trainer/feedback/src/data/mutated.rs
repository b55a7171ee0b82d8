//! Records and files with random faults: each is rejected with its location, or read exactly as it is written. Nothing
//! is dropped silently.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use plumbline_crds::source::PromptSource;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{parquet, preference, prompts, texts};
use crate::Error;

/// Number of files of each kind.
const FILES: u64 = 400;

/// The rows that a reader returned, as JSON, and the number of rows that it reported as skipped.
type Found = Result<(Vec<Value>, usize), Error>;

/// A reader, valid records for it, and the expected reading of a record; none for one that must be rejected.
struct Reader {
    good: Vec<Value>,
    read: fn(&Path) -> Found,
    expected: fn(&Value) -> Option<Value>,
}

fn turns(text: &str) -> Value {
    json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": text, "name": null}])
}

fn answer(text: &str) -> Value {
    json!([{"role": "assistant", "content": text, "tool_calls": []}])
}

fn readers() -> [Reader; 4] {
    let read_preferences = |path: &Path| -> Found {
        let rows = preference::read_file(path)?;
        Ok((rows.iter().map(|r| serde_json::to_value(r).unwrap()).collect(), 0))
    };
    [
        Reader {
            good: (0..4)
                .map(|i| json!({"prompt": format!("p{i}"), "chosen": "a\u{2028}", "rejected": "b", "p": 0.9, "score": 1}))
                .collect(),
            read: read_preferences,
            expected: expected_preference,
        },
        Reader {
            good: (0..4)
                .map(|i| json!({"prompt": turns(&i.to_string()), "chosen": answer("a"), "rejected": answer("b"), "margin": 1}))
                .collect(),
            read: read_preferences,
            expected: expected_preference,
        },
        Reader {
            good: vec![json!({"prompt": turns("a")}), json!({"messages": turns("b"), "tags": ["t"]}), json!({"prompt": turns("a")})],
            read: |path| {
                let source: PromptSource = serde_json::from_value(json!({"uri": "p"})).unwrap();
                let found = prompts::read(&source, Some(path), "spec.prompts")?;
                let rows = found.prompts.iter().map(|p| serde_json::to_value(&p.content).unwrap());
                Ok((rows.collect(), found.duplicates))
            },
            expected: |record| {
                let (prompt, messages) = (present(&record["prompt"]), present(&record["messages"]));
                match (prompt, messages) {
                    (Some(content), None) => content_of(content),
                    (None, Some(turns)) if turns.is_array() => content_of(turns),
                    _ => None,
                }
            },
        },
        Reader {
            good: (0..4).map(|i| json!({"text": format!("text {i}"), "label": i, "complete": i > 1})).collect(),
            read: |path| {
                let rows = texts::read(path)?;
                let row = |t: &texts::Text| json!({"text": t.text, "label": t.label, "complete": t.complete});
                Ok((rows.iter().map(row).collect(), 0))
            },
            expected: |record| {
                let label = present(&record["label"]).map(Value::as_f64);
                let complete = present(&record["complete"]).map(Value::as_bool);
                Some(json!({
                    "text": record["text"].as_str()?,
                    "label": label.map_or(Some(None), |l| l.map(Some))?,
                    "complete": complete.unwrap_or(Some(true))?,
                }))
            },
        },
    ]
}

fn present(value: &Value) -> Option<&Value> {
    (!value.is_null()).then_some(value)
}

fn expected_preference(record: &Value) -> Option<Value> {
    let mut row = json!({
        "prompt": content_of(&record["prompt"])?,
        "chosen": content_of(&record["chosen"])?,
        "rejected": content_of(&record["rejected"])?,
        "p": if record.get("p").is_some() { record["p"].as_f64()? } else { 1.0 },
    });
    if let Some(margin) = present(&record["margin"]) {
        row["margin"] = json!(margin.as_f64()?);
    }
    Some(row)
}

/// A content as it must be read: turns have only a role and a text.
fn content_of(value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value.clone()),
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(turn_of).collect::<Option<Vec<_>>>().map(Value::Array)
        }
        _ => None,
    }
}

fn turn_of(turn: &Value) -> Option<Value> {
    let turn = turn.as_object()?;
    let known = |(name, value): (&String, &Value)| matches!(name.as_str(), "role" | "content") || empty(value);
    let (role, content) = (turn.get("role")?.as_str()?, text_of(turn.get("content")?)?);
    let roles = ["system", "user", "assistant"];
    (turn.iter().all(known) && roles.contains(&role)).then(|| json!({"role": role, "content": content}))
}

/// The text of a turn: parts of text are joined.
fn text_of(content: &Value) -> Option<String> {
    let part = |part: &Value| {
        let fields = part.as_object()?;
        let known = fields.iter().all(|(name, value)| matches!(name.as_str(), "type" | "text") || empty(value));
        (known && fields.get("type")? == "text").then(|| Some(fields.get("text")?.as_str()?.to_owned()))?
    };
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => None,
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(empty),
        _ => false,
    }
}

/// A value of another type.
fn other(random: &mut ChaCha8Rng) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1.5e300),
        json!(""),
        json!(" "),
        json!("\u{0}\u{feff}\u{2028}x"),
        json!([]),
        json!({}),
        json!([null]),
        json!({"role": "user", "content": "x"}),
        json!([{"role": "user", "content": "x"}]),
        json!([{"role": "tool", "content": "x"}]),
        json!([{"type": "text", "text": "x"}]),
        json!(u64::MAX),
    ];
    values.choose(random).cloned().unwrap()
}

/// Changes one randomly chosen part of a value.
fn change(value: &mut Value, random: &mut ChaCha8Rng) {
    let deeper = random.random_bool(0.7);
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let names: Vec<String> = map.keys().cloned().collect();
            let name = names.choose(random).unwrap();
            match random.random_range(0..5) {
                0 => drop(map.shift_remove(name)),
                1 => {
                    let added = ["tool_calls", "tools", "images", "name", "extra", "p", "messages", "system"];
                    map.insert((*added.choose(random).unwrap()).to_owned(), other(random));
                }
                _ => change(&mut map[name.as_str()], random),
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = random.random_range(0..items.len());
            match random.random_range(0..4) {
                0 => drop(items.remove(at)),
                1 => items.push(other(random)),
                _ => change(&mut items[at], random),
            }
        }
        _ => *value = other(random),
    }
}

/// Compares the rows that a reader returns for a file with the records in it.
fn check(reader: &Reader, path: &Path, records: &[Value], seed: u64) {
    match (reader.read)(path) {
        Err(error) => {
            let error = error.to_string();
            let placed =
                error.contains("/rows.") || error.contains("there are no prompts") || error.contains("has no texts");
            assert!(placed, "seed {seed}: {error}");
        }
        Ok((found, left_out)) => {
            assert_eq!(found.len() + left_out, records.len(), "seed {seed}: each record is read or counted");
            let expected: Vec<Option<Value>> = records.iter().map(reader.expected).collect();
            let mut seen = HashSet::new();
            let mut expected: Vec<Value> = expected
                .into_iter()
                .map(|row| {
                    row.unwrap_or_else(|| panic!("seed {seed}: a record was read that had to be refused: {records:?}"))
                })
                .collect();
            if left_out > 0 {
                expected.retain(|row| seen.insert(row.to_string()));
            }
            for (found, expected) in found.iter().zip(&expected) {
                let same = match (found, expected) {
                    // Ignore fields that the reader computes.
                    (Value::Object(found), Value::Object(expected)) => {
                        expected.iter().all(|(name, value)| found.get(name) == Some(value))
                    }
                    _ => found == expected,
                };
                assert!(same, "seed {seed}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn a_record_with_a_fault_is_rejected_or_read_exactly() {
    let folder = tempfile::tempdir().unwrap();
    for reader in readers() {
        let mut read = 0;
        for seed in 0..FILES {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut records = reader.good.clone();
            let at = random.random_range(0..records.len());
            for _ in 0..random.random_range(1..3) {
                change(&mut records[at], &mut random);
            }
            let (name, text) = if seed % 2 == 0 {
                ("rows.jsonl", records.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            } else {
                ("rows.json", serde_json::to_string_pretty(&records).unwrap())
            };
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            check(&reader, &path, &records, seed);
            read += usize::from((reader.read)(&path).is_ok());
        }
        let few = FILES as usize / 20;
        assert!(read > few && read < FILES as usize - few, "{read} of {FILES} files are read");
    }
}

#[test]
fn a_changed_file_is_rejected_or_read_as_by_another_json_parser() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    for reader in readers() {
        let good: Vec<u8> = reader.good.iter().flat_map(|r| format!("{r}\n").into_bytes()).collect();
        for seed in 0..FILES {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut bytes = good.clone();
            damage(&mut bytes, &mut random);
            fs::write(&path, &bytes).unwrap();
            let lines = bytes.split(|b| *b == b'\n').filter(|l| !String::from_utf8_lossy(l).trim().is_empty());
            let records: Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
            match records {
                Ok(records) => check(&reader, &path, &records, seed),
                // The other parser only differs in rejecting a byte order mark.
                Err(e) => {
                    assert!((reader.read)(&path).is_err() || bytes.starts_with(b"\xef\xbb\xbf"), "seed {seed}: {e}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_binary_file_gives_an_error_or_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    let row = |i: usize| {
        let prompt = super::Content::Text(format!("prompt {i}"));
        let (chosen, rejected) = (prompt.answered_by("a"), prompt.answered_by("b"));
        preference::Preference {
            prompt_id: prompt.id(),
            prompt,
            chosen,
            rejected,
            p: 0.75,
            margin: Some(1.0),
            provenance: None,
        }
    };
    let rows: Vec<_> = (0..50).map(row).collect();
    parquet::write_file(&path, &rows).unwrap();
    let table = fs::read(&path).unwrap();
    let lines: Vec<u8> = rows.iter().flat_map(|r| format!("{}\n", json!(r)).into_bytes()).collect();
    let mut gzip = flate2::read::GzEncoder::new(lines.as_slice(), flate2::Compression::fast());
    let mut packed = Vec::new();
    std::io::Read::read_to_end(&mut gzip, &mut packed).unwrap();
    for seed in 0..FILES / 3 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (name, good) in [("rows.parquet", &table), ("rows.jsonl.gz", &packed)] {
            let mut bytes = good.clone();
            damage(&mut bytes, &mut random);
            let path = folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            match preference::read_file(&path) {
                Err(error) => assert!(error.to_string().contains("/rows."), "seed {seed}: {error}"),
                // gzip has a checksum, so damage is detected.
                Ok(found) => assert!(name.ends_with("parquet") || found == rows || bytes.len() < 20, "seed {seed}"),
            }
        }
    }
}

/// Changes a few bytes, or the length.
fn damage(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..6) {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, *b"\"{}[],:\n\\0".choose(random).unwrap()),
            2 => bytes.truncate(at),
            3 => bytes[at] ^= 1 << random.random_range(0..8),
            4 => bytes[at] = random.random(),
            _ => {
                let end = (at + random.random_range(1..40)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}
