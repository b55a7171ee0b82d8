//! A manifest that is wrong in one way, and what must be said of it. Computes only.

use serde_json::{Map, Value};

/// A good manifest with changes, and what the API server must say of the result.
pub(crate) struct Case {
    /// What is wrong.
    pub(crate) what: String,
    /// The manifest.
    pub(crate) manifest: Value,
    /// The field that must be named.
    pub(crate) path: String,
    /// Words that must be said of it.
    pub(crate) words: String,
}

/// The cases of a kind, each a change of a good manifest.
pub(crate) struct Cases {
    good: Value,
    /// All of them.
    pub(crate) list: Vec<Case>,
}

impl Cases {
    /// Cases that start from this manifest.
    pub(crate) fn of(good: Value) -> Self {
        Self { good, list: Vec::new() }
    }

    /// A case: the value at each JSON pointer replaced, or removed where it is null.
    pub(crate) fn add(&mut self, what: &str, changes: &[(&str, Value)], path: &str, words: &str) {
        let manifest = changed(&self.good, changes);
        self.list.push(Case { what: what.into(), manifest, path: path.into(), words: words.into() });
    }

    /// A case under `spec`, of one change to the field that must be named.
    pub(crate) fn field(&mut self, what: &str, pointer: &str, value: Value, words: &str) {
        let path = path_of(pointer);
        self.add(what, &[(pointer, value)], &path, words);
    }
}

/// `/spec/judges/0/name` as people write it: `spec.judges[0].name`.
pub(crate) fn path_of(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, part| match part.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => part.to_owned(),
        Err(_) => format!("{path}.{part}"),
    })
}

/// A manifest with the value at each JSON pointer replaced, or removed where it is null.
pub(crate) fn changed(manifest: &Value, changes: &[(&str, Value)]) -> Value {
    let mut manifest = manifest.clone();
    for (pointer, value) in changes {
        let (parents, last) = pointer.rsplit_once('/').unwrap();
        let mut place = &mut manifest;
        for part in parents.split('/').skip(1) {
            place = match part.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => place.as_object_mut().unwrap().entry(part).or_insert(Value::Object(Map::new())),
            };
        }
        match (last.parse::<usize>(), value) {
            (Ok(index), value) => place[index] = value.clone(),
            (Err(_), Value::Null) => drop(place.as_object_mut().unwrap().remove(last).unwrap()),
            (Err(_), value) => place[last] = value.clone(),
        }
    }
    manifest
}
