//! Uploads an artifact to an object store: its manifest is removed first and uploaded last, so that readers see a
//! complete artifact or none. Talks to the store and to the file system.
//!
//! During the upload there is a manifest with another name that lists everything that may exist: an attempt that
//! resumes after a kill reads from it what to remove, and readers know from it that the artifact is incomplete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, WriteMultipart,
};
use plumbline_crds::artifact::{self, FileEntry, MANIFEST, Manifest, RECORDS};

use super::below;
use super::connect::{open, persist, read_error, write_error};
use crate::{Error, Result, heartbeat};

/// Files uploaded concurrently.
const AT_ONCE: usize = 2;
/// Size of a part of a file in bytes; a smaller file is uploaded in one request.
const PART: usize = 16 << 20;
/// Parts of a file uploaded concurrently.
const PARTS: usize = 4;
/// Name of the manifest while the artifact is being written.
pub(super) const PARTIAL: &str = "manifest.partial.json";
/// Object metadata with the sha256 of the content, which tells an attempt what an earlier one has uploaded.
const SHA256: &str = "sha256";

/// Checks that the artifact of a resource (kind and name) can be uploaded to a URI.
///
/// # Errors
/// `Config` if the store denies access, or contains the artifact of another resource; `Store` if it does not respond.
pub(super) async fn check(uri: &str, owner: &(String, String)) -> Result<()> {
    let (store, key) = open(uri)?;
    for name in [MANIFEST, PARTIAL] {
        persist(uri, async || former(&*store, &key.clone().join(name), owner).await).await?;
    }
    let probe = key.join(".probe");
    persist(uri, async || {
        store.put(&probe, PutPayload::default()).await.map_err(|e| write_error(&e))?;
        remove(&*store, &probe).await
    })
    .await
}

/// Uploads an artifact's directory.
///
/// # Errors
/// Those of [`check`].
pub(super) async fn publish(folder: &Path, uri: &str, owner: &(String, String)) -> Result<()> {
    let manifest = artifact::read_manifest(folder)?;
    let (store, key) = open(uri)?;
    let (marker, partial) = (key.clone().join(MANIFEST), key.clone().join(PARTIAL));
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(|e| Error::disk(&path, e))?;
    let put = async |key: &Key, text: Vec<u8>| {
        persist(uri, async || store.put(key, text.clone().into()).await.map_err(|e| write_error(&e)).map(|_| ())).await
    };
    let former_at = async |key: &Key| persist(uri, async || former(&*store, key, owner).await).await;
    let (whole, begun) = (former_at(&marker).await?, former_at(&partial).await?);
    if whole.as_ref() == Some(&manifest) {
        return persist(uri, async || remove(&*store, &partial).await).await;
    }
    let all = [&begun, &whole].into_iter().flatten().chain([&manifest]).flat_map(|m| m.files.clone());
    let all: BTreeMap<String, FileEntry> = all.map(|file| (file.path.clone(), file)).collect();
    let listed = Manifest { files: all.into_values().collect(), ..manifest.clone() };
    let listing = serde_json::to_vec_pretty(&listed).map_err(|e| Error::Failed(format!("{partial}: {e}")))?;
    put(&partial, listing).await?;
    if whole.is_some() {
        persist(uri, async || remove(&*store, &marker).await).await?;
    }
    let bring = |entry: FileEntry| {
        let (store, key) = (&store, &key);
        async move { persist(&entry.path, async || file(store, key, folder, &entry).await).await }
    };
    stream::iter(manifest.files.clone()).map(bring).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let needed: BTreeSet<&str> = manifest.files.iter().map(|f| f.path.as_str()).collect();
    for entry in listed.files.iter().filter(|f| !needed.contains(f.path.as_str())) {
        let key = below(&key, &entry.path);
        persist(uri, async || remove(&*store, &key).await).await?;
    }
    put(&marker, text).await?;
    persist(uri, async || remove(&*store, &partial).await).await
}

/// Removes an object. It is not an error if the object does not exist: an earlier attempt may have removed it and lost
/// the response.
async fn remove(store: &dyn ObjectStore, key: &Key) -> Result<()> {
    match store.delete(key).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(write_error(&error)),
    }
}

/// Uploads the records of how an artifact was made.
///
/// # Errors
/// `Config` if the store denies access, `Store` if it does not respond, or if the directory lacks some of them.
pub(super) async fn records(folder: &Path, uri: &str) -> Result<()> {
    let (store, key) = open(uri)?;
    for name in RECORDS {
        let path = folder.join(name);
        let content = fs::read(&path).map_err(|e| Error::disk(&path, e))?;
        let target = below(&key, name);
        persist(uri, async || store.put(&target, content.clone().into()).await.map_err(|e| write_error(&e))).await?;
    }
    Ok(())
}

/// The existing manifest under a key, which must be of the same resource.
async fn former(store: &dyn ObjectStore, key: &Key, owner: &(String, String)) -> Result<Option<Manifest>> {
    let found = match store.get(key).await {
        Ok(found) => found.bytes().await.map_err(|e| read_error(&e))?,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(write_error(&error)),
    };
    let manifest: Option<Manifest> = serde_json::from_slice(&found).ok();
    match manifest {
        Some(manifest) if (&manifest.kind, &manifest.name) == (&owner.0, &owner.1) => Ok(Some(manifest)),
        _ => Err(Error::Config(format!(
            "expected an empty location or an artifact of {}/{}, found another artifact; choose another location",
            owner.0, owner.1
        ))),
    }
}

/// Uploads one file, unless it has been uploaded already.
async fn file(store: &Arc<dyn ObjectStore>, key: &Key, folder: &Path, entry: &FileEntry) -> Result<()> {
    let (target, source) = (below(key, &entry.path), folder.join(&entry.path));
    let of_content = Attribute::Metadata(SHA256.into());
    let head = GetOptions { head: true, ..GetOptions::default() };
    match store.get_opts(&target, head).await {
        Ok(found) => {
            let is = found.attributes.get(&of_content).is_some_and(|sha256| **sha256 == *entry.sha256);
            if is && found.meta.size == entry.size {
                return Ok(());
            }
        }
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(write_error(&error)),
    }
    let attributes = Attributes::from_iter([(of_content, entry.sha256.clone())]);
    if entry.size <= PART as u64 {
        let content = fs::read(&source).map_err(|e| Error::disk(&source, e))?;
        let options = PutOptions { attributes, ..PutOptions::default() };
        store.put_opts(&target, content.into(), options).await.map_err(|e| write_error(&e))?;
    } else {
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = store.put_multipart_opts(&target, options).await.map_err(|e| write_error(&e))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
        if let Err(error) = write(&mut writer, &source).await {
            // Parts of an incomplete upload would be charged for.
            let _ = writer.abort().await;
            return Err(error);
        }
        writer.finish().await.map_err(|e| write_error(&e))?;
    }
    let size = store.head(&target).await.map_err(|e| write_error(&e))?.size;
    if size == entry.size {
        Ok(())
    } else {
        Err(Error::Store(format!("{target}: wrote {} bytes, found {size}", entry.size)))
    }
}

async fn write(writer: &mut WriteMultipart, source: &Path) -> Result<()> {
    let mut file = File::open(source).map_err(|e| Error::disk(source, e))?;
    loop {
        let mut part = Vec::with_capacity(PART);
        file.by_ref().take(PART as u64).read_to_end(&mut part).map_err(|e| Error::disk(source, e))?;
        heartbeat::beat();
        if part.is_empty() {
            return Ok(());
        }
        writer.wait_for_capacity(PARTS).await.map_err(|e| write_error(&e))?;
        writer.put(part.into());
    }
}
