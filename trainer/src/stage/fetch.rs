//! Downloads the remote inputs of a run. Inputs that already exist are not changed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use plumbline_crds::conditions::Reason;
use plumbline_crds::hub::HubUri;
use plumbline_crds::remote::Remote;
use plumbline_crds::run::{ResolvedInput, RunDocument, StageResult};
use plumbline_feedback::files;
use plumbline_feedback::report::progress::Progress;
use plumbline_feedback::shutdown;
use plumbline_feedback::store::cache::Cache;
use plumbline_feedback::store::download::{Expected, Source};
use plumbline_feedback::store::hub::Hub;
use plumbline_feedback::store::work_dir_sync::{self, FETCHED, WorkDirSync};
use plumbline_feedback::store::{self, bucket};
use reqwest::Url;

use crate::{Error, Result};

/// File in it with the commits that a run has started with, by URI.
const COMMITS_FILE: &str = "commits.json";
/// Unit of the reported progress.
const MIB: u64 = 1 << 20;

/// Runs it. Each rank fetches its own inputs, and reports progress in its own directory.
pub fn run(document: &RunDocument, sync: &WorkDirSync, rank: usize, work: &Path) -> Result<StageResult> {
    let (progress, mut begun) = (RefCell::new(Progress::new(work, sync)?), Begun::of(work)?);
    let runtime = store::runtime()?;
    if rank > 0 {
        begun.commits.extend(runtime.block_on(shutdown::unless_asked(broadcast(document)))?);
    }
    let mut fetched = 0;
    for (input, uri) in document.inputs.iter().filter_map(|input| Some((input, input.source.as_ref()?))) {
        if Path::new(&input.path).exists() {
            tracing::info!(uri, "already present");
            continue;
        }
        tracing::info!(uri, "fetching");
        let fetched_now = runtime.block_on(shutdown::unless_asked(fetch(input, uri, &mut begun, &progress)));
        fetched_now.map_err(|e| e.within(&format!("spec.{}: {uri}", input.role)))?;
        fetched += 1;
    }
    Ok(StageResult::new(Reason::Completed, format!("{fetched} inputs fetched")))
}

async fn fetch(input: &ResolvedInput, uri: &str, begun: &mut Begun, progress: &RefCell<Progress>) -> Result<()> {
    let remote = Remote::of(uri).unwrap_or_else(|| Err(format!("expected a URI to fetch from, found \"{uri}\"")));
    let remote = remote.map_err(Error::Config)?;
    let path = Path::new(&input.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::disk(parent, e))?;
    }
    let cache = Cache::from_env();
    // A web server does not say beforehand how much there will be.
    let (total, here) = (Cell::new(None), Cell::new(0));
    let told = |bytes: u64, all: u64| {
        let mut progress = progress.borrow_mut();
        if total.replace(Some(all)) != Some(all) {
            progress.stage("Fetching", all.div_ceil(MIB) as i64);
        }
        progress.advance((bytes / MIB) as i64);
    };
    match &remote {
        Remote::Hub(uri) => {
            let hub = Hub::from_env()?;
            let listing = hub.list(uri, begun.commit(uri)).await?;
            begun.keep(uri, &listing.sha)?;
            hub.fetch(uri, &listing, &cache, path, &told).await?;
        }
        Remote::Store(uri) => bucket::fetch(uri, &cache, path, &told).await?,
        Remote::Web(uri) => {
            let url = Url::parse(uri).map_err(|e| Error::Config(e.to_string()))?;
            let arrived = |bytes| {
                here.set(here.get() + bytes);
                told(here.get(), 0);
            };
            Source::new(&url, None)?.file(&url, path, &Expected { size: None, sha256: None }, arrived).await?;
        }
    }
    progress.borrow_mut().finish();
    Ok(())
}

/// The commits that rank 0 has started with, as far as they are known: all ranks must have the same inputs, whichever
/// of them lost its pod.
async fn broadcast(document: &RunDocument) -> Result<BTreeMap<String, String>> {
    let Some(uri) = document.store.as_ref().and_then(|store| store.work.as_ref()) else {
        let file = Path::new(&document.work).join(FETCHED).join(COMMITS_FILE);
        return Ok(files::kept(&file)?.unwrap_or_default());
    };
    let wrong = |e: serde_json::Error| Error::Data(format!("{uri}: {FETCHED}/{COMMITS_FILE}: {e}"));
    match work_dir_sync::file(&format!("{uri}/{FETCHED}"), COMMITS_FILE).await? {
        Some(text) => serde_json::from_slice(&text).map_err(wrong),
        None => Ok(BTreeMap::new()),
    }
}

/// The commits that a run has started with: if its pod is lost, the next one fetches the same ones.
struct Begun {
    file: PathBuf,
    commits: BTreeMap<String, String>,
}

impl Begun {
    fn of(work: &Path) -> Result<Self> {
        let file = work.join(COMMITS_FILE);
        let commits = files::kept(&file)?.unwrap_or_default();
        Ok(Self { file, commits })
    }

    fn commit(&self, uri: &HubUri) -> Option<&str> {
        self.commits.get(&uri.to_string()).map(String::as_str)
    }

    fn keep(&mut self, uri: &HubUri, commit: &str) -> Result<()> {
        self.commits.insert(uri.to_string(), commit.to_owned());
        files::keep(&self.file, &self.commits)
    }
}
