//! Brings the inputs of a run here that are not on a file system. What is here already stays as it is.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;

use plumbline_crds::conditions::Reason;
use plumbline_crds::remote::Remote;
use plumbline_crds::run::{ResolvedInput, RunDocument, StageResult};
use reqwest::Url;

use crate::report::progress::Progress;
use crate::store::bucket;
use crate::store::download::{Expected, Source};
use crate::store::hub::Hub;
use crate::{Error, Result};

/// Folder below the work folder that this leaves its result in.
pub const FOLDER: &str = "fetch";
/// Progress is told in these.
const MIB: u64 = 1 << 20;

/// Runs it.
pub fn run(document: &RunDocument) -> Result<StageResult> {
    let progress = RefCell::new(Progress::new(&Path::new(&document.work).join(FOLDER))?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::Failed(format!("the network cannot be used: {e}")))?;
    let mut fetched = 0;
    for (input, uri) in document.inputs.iter().filter_map(|input| Some((input, input.source.as_ref()?))) {
        if Path::new(&input.path).exists() {
            tracing::info!(uri, "is here already");
            continue;
        }
        tracing::info!(uri, "is fetched");
        runtime.block_on(fetch(input, uri, &progress)).map_err(|e| e.within(&format!("spec.{}: {uri}", input.role)))?;
        fetched += 1;
    }
    Ok(StageResult::new(Reason::Completed, format!("{fetched} inputs fetched")))
}

async fn fetch(input: &ResolvedInput, uri: &str, progress: &RefCell<Progress>) -> Result<()> {
    let remote = Remote::of(uri).unwrap_or_else(|| Err(format!("expected a URI to fetch from, found \"{uri}\"")));
    let remote = remote.map_err(Error::Config)?;
    let total = RefCell::new(0);
    let told = |here: u64, all: u64| {
        let mut progress = progress.borrow_mut();
        if total.replace(all) != all {
            progress.stage("Fetching", all.div_ceil(MIB) as i64);
        }
        progress.advance((here / MIB) as i64);
    };
    let path = Path::new(&input.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::store(parent, &e))?;
    }
    match &remote {
        Remote::Hub(uri) => Hub::from_env()?.fetch(uri, path, &told).await?,
        Remote::Store(uri) => bucket::fetch(uri, path, &told).await?,
        Remote::Web(uri) => {
            let url = Url::parse(uri).map_err(|e| Error::Config(e.to_string()))?;
            let here = Cell::new(0);
            let arrived = |bytes| {
                here.set(here.get() + bytes);
                told(here.get(), here.get());
            };
            Source::new(None)?.file(&url, path, &Expected { size: None, sha256: None }, arrived).await?;
        }
    }
    progress.borrow_mut().finish();
    Ok(())
}
