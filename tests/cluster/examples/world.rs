//! What the URIs of an example lead to: a hub, a bucket, claims and folders that hold the fixtures under the names that the
//! example gives them, and a judge that answers. Talks to the file system and to servers.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use plumbline_crds::hub::HubUri;
use plumbline_crds::remote::Remote;
use plumbline_crds::{Resource, artifact};
use plumbline_operator::inputs::{From, Wanted, judges, wanted};
use plumbline_testkit::fixture;
use plumbline_testkit::hub::Hub;
use plumbline_testkit::judge_sim::{Config, JudgeSim};
use plumbline_testkit::store::{BUCKET, Store};
use serde_json::{Value, json};

use super::example::{EXAMPLES, Example};

/// The key that the judge asks for.
const API_KEY: &str = "key-of-the-examples";

/// Everything that an example needs from elsewhere.
pub(crate) struct World {
    example: PathBuf,
    folder: PathBuf,
    hub: Option<Hub>,
    store: OnceCell<Store>,
    judge: OnceCell<JudgeSim>,
    keys: Vec<String>,
}

impl World {
    /// Puts the fixtures where the manifests of an example look for them.
    pub(crate) fn of(example: &Example, folder: &Path) -> Self {
        let mut world = Self {
            example: Path::new(EXAMPLES).join(&example.name),
            folder: folder.to_owned(),
            hub: None,
            store: OnceCell::new(),
            judge: OnceCell::new(),
            keys: Vec::new(),
        };
        let mut repositories: BTreeMap<String, PathBuf> = BTreeMap::new();
        for manifest in example.with_needs() {
            let resource = resource(&manifest);
            for wanted in wanted(&resource.spec) {
                let From::Uri(uri) = &wanted.from else { continue };
                match Remote::of(uri).map(Result::unwrap) {
                    Some(Remote::Hub(uri)) => world.put_on_hub(&uri, &wanted, &manifest, &mut repositories),
                    Some(Remote::Store(uri)) => world.put_in_bucket(&uri, &wanted, &manifest),
                    Some(Remote::Web(uri)) => panic!("examples/{}: {uri}: no test serves it", example.name),
                    None => put(&world.content(&wanted, uri, &manifest), &world.local(uri)),
                }
            }
            let endpoints = judges(&resource.spec).into_iter().filter_map(|(_, judge)| judge.endpoint.as_ref());
            world.keys.extend(endpoints.filter_map(|e| Some(e.api_key_secret_ref.as_ref()?.variable())));
        }
        if !repositories.is_empty() {
            let repositories: Vec<_> =
                repositories.iter().map(|(name, folder)| (name.as_str(), folder.clone())).collect();
            world.hub = Some(Hub::start(&repositories, None));
        }
        world
    }

    fn put_on_hub(&self, uri: &HubUri, wanted: &Wanted, of: &Value, repositories: &mut BTreeMap<String, PathBuf>) {
        let (name, path) = match uri {
            HubUri::Model { repository, .. } => (format!("models/{repository}"), ""),
            HubUri::DatasetFile { repository, path, .. } => (format!("datasets/{repository}"), path.as_str()),
        };
        let folder = self.folder.join("hub").join(&name);
        put(&self.content(wanted, &uri.to_string(), of), &folder.join(path));
        repositories.insert(name, folder);
    }

    fn put_in_bucket(&self, uri: &str, wanted: &Wanted, of: &Value) {
        let key = uri.strip_prefix(&format!("s3://{BUCKET}/"));
        let key = key.unwrap_or_else(|| panic!("{uri}: the tests' store has the bucket {BUCKET} alone"));
        self.store.get_or_init(Store::start).put(&self.content(wanted, uri, of), key);
    }

    /// The folder of this machine that stands for a claim, or for a folder of the user's.
    fn local(&self, uri: &str) -> PathBuf {
        let (kind, path) = match uri.strip_prefix("pvc://") {
            Some(path) => ("claims", path),
            None => ("files", uri.trim_start_matches("file://")),
        };
        self.folder.join(kind).join(path.replace("../", "").trim_start_matches('/'))
    }

    /// A manifest whose claims and folders are those of this machine, and whose judges answer.
    pub(crate) fn here(&self, manifest: &Value) -> Value {
        let resource = resource(manifest);
        let mut changed = manifest.clone();
        for wanted in wanted(&resource.spec) {
            let place = match &wanted.from {
                From::Uri(uri) if Remote::of(uri).is_none() => self.local(uri),
                From::ConfigMap { name, key } => {
                    let file = self.folder.join("config-maps").join(name).join(key);
                    put(&self.example.join(key), &file);
                    at(&mut changed, &wanted.role).as_object_mut().unwrap().remove("configMapRef");
                    file
                }
                From::Uri(_) | From::Resource { .. } => continue,
            };
            at(&mut changed, &wanted.role)["uri"] = json!(format!("file://{}", place.display()));
        }
        for (role, judge) in judges(&resource.spec) {
            if judge.endpoint.is_some() {
                let sim = self.judge.get_or_init(|| {
                    JudgeSim::start(Config { api_key: Some(API_KEY), answers_all: true, ..Config::default() })
                });
                at(&mut changed, &role)["endpoint"]["url"] = json!(sim.url());
            }
        }
        changed
    }

    /// The fixture that an input is, in the format that its name asks for.
    fn content(&self, wanted: &Wanted, uri: &str, manifest: &Value) -> PathBuf {
        let fields = wanted.role.rsplit('.').next().unwrap_or_default();
        let name = match fields.split('[').next().unwrap_or_default() {
            "model" | "baseModel" | "policyModel" => return fixture::tiny(),
            "lexicon" | "lexicons" => "words.tsv",
            "prompts" if wanted.role.starts_with("evaluation") => "prompts-held-out.txt",
            "prompts" => "prompts.txt",
            "dataset" | "referenceLabels" => "pairs.jsonl",
            _ => panic!("{uri}: there is no fixture for {}", wanted.role),
        };
        let lines = fs::read_to_string(fixture::path(name)).unwrap();
        let pair = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let whole = |pair: &Value, which: &str| {
            format!("{}{}", pair["prompt"].as_str().unwrap(), pair[which].as_str().unwrap())
        };
        let lines = lines.lines().flat_map(|line| match wanted.role.as_str() {
            "dataset" if manifest["spec"]["method"] == "SFT" => vec![json!({"text": whole(&pair(line), "chosen")})],
            "referenceLabels" => [("chosen", 1), ("rejected", 0)]
                .map(|(which, label)| json!({"text": whole(&pair(line), which), "label": label}))
                .into(),
            "prompts" | "evaluation.prompts" if Path::new(uri).extension().is_some_and(|e| e == "jsonl") => {
                vec![json!({"prompt": line})]
            }
            _ => vec![Value::String(line.to_owned())],
        });
        let lines: Vec<String> =
            lines.map(|line| line.as_str().map_or_else(|| line.to_string(), str::to_owned)).collect();
        let file = self.folder.join("made").join(&wanted.role);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        file
    }

    /// What runs need to reach it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let hub = self.hub.iter().map(|hub| ("HF_ENDPOINT".to_owned(), hub.address().to_owned()));
        let store = self.store.get().into_iter().flat_map(Store::environment);
        let store = store.map(|(name, value)| (name.to_owned(), value));
        let keys = self.keys.iter().map(|name| (name.clone(), API_KEY.to_owned()));
        hub.chain(store).chain(keys).collect()
    }

    /// Nothing of it was there in vain, and what an example writes to a bucket is there as a whole.
    pub(crate) fn was_used(&self, manifests: &[Value]) {
        for manifest in manifests {
            let uri = manifest["spec"]["output"]["uri"].as_str().unwrap_or_default();
            let Some(key) = uri.strip_prefix(&format!("s3://{BUCKET}/")) else { continue };
            let made = self.store.get().unwrap().path(key);
            artifact::verify(&made).unwrap_or_else(|e| panic!("{uri}: {e}"));
        }
        assert!(self.hub.as_ref().is_none_or(|hub| !hub.state().asked.is_empty()), "no run asked the hub");
        assert!(self.judge.get().is_none_or(|judge| judge.answered() > 0), "no run asked the judge");
    }
}

fn resource(manifest: &Value) -> Resource {
    serde_json::from_value(manifest.clone()).unwrap()
}

/// The field of a role: `judges[0].model`.
fn at<'a>(manifest: &'a mut Value, role: &str) -> &'a mut Value {
    role.split(['.', '[']).fold(&mut manifest["spec"], |field, part| {
        match part.trim_end_matches(']').parse::<usize>() {
            Ok(index) => &mut field[index],
            Err(_) => &mut field[part],
        }
    })
}

/// Copies a file, or a folder of files.
fn put(from: &Path, to: &Path) {
    if from.is_file() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
        return;
    }
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        put(&from.join(&name), &to.join(&name));
    }
}
