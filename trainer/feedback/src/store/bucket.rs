//! Fetches an object, or all objects below a key, from S3, Google Cloud Storage or Azure. Talks to the network and to
//! the file system.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{Error as StoreError, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};
use plumbline_crds::artifact::{self, MANIFEST, hex};
use plumbline_crds::relative;
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::connect::{open, persist_while, read_error};
use super::finish;
use super::upload::PARTIAL;
use crate::shutdown;
use crate::{Error, Result, heartbeat};

/// Objects fetched concurrently.
const AT_ONCE: usize = 4;

/// Fetches what a URI names to `path`, completely or not at all. `told` is called with the bytes received so far and
/// the total, whenever more have arrived.
///
/// # Errors
/// `Data` if there is nothing, if the store denies access, or if an artifact is incomplete; `Store` if the store does
/// not respond after all attempts, or the file system fails.
pub async fn fetch(uri: &str, cache: &Cache, path: &Path, told: &impl Fn(u64, u64)) -> Result<()> {
    // A retry counts complete files of an earlier attempt again, so report the maximum.
    let most = Cell::new(0);
    let told = |here: u64, total: u64| {
        most.set(most.get().max(here));
        told(here, total);
    };
    persist_while(
        uri,
        || most.get(),
        async || {
            if shutdown::requested() {
                return Err(Error::Interrupted);
            }
            attempt(uri, cache, path, &told).await
        },
    )
    .await
}

/// One attempt: complete files of an earlier one are kept.
async fn attempt(uri: &str, cache: &Cache, path: &Path, told: &impl Fn(u64, u64)) -> Result<()> {
    let (store, key) = open(uri)?;
    let objects = list(&*store, &key).await?;
    let state = state(&objects);
    let bring =
        async |path: &Path| bring_all(&*store, &key, &objects, &path.with_added_extension(&state), path, told).await;
    cache.through(uri, &state, path, bring).await
}

/// Fetches objects to `aside`, and moves them to `path` in one step.
async fn bring_all(
    store: &dyn ObjectStore,
    key: &Key,
    objects: &[ObjectMeta],
    aside: &Path,
    path: &Path,
    told: &impl Fn(u64, u64),
) -> Result<()> {
    let (total, here) = (objects.iter().map(|o| o.size).fold(0, u64::saturating_add), Cell::new(0));
    let arrived = |bytes: u64| {
        here.set(here.get() + bytes);
        told(here.get(), total);
    };
    let one = async |object: &ObjectMeta| {
        let parts = object.location.prefix_match(key).into_iter().flatten();
        let target = parts.fold(aside.to_owned(), |path, part| path.join(part.as_ref()));
        bring(store, object, &target, &arrived).await
    };
    let (manifest, partial) = (key.clone().join(MANIFEST), key.clone().join(PARTIAL));
    let is_there = |key: &Key| objects.iter().find(|o| o.location == *key);
    let Some(manifest) = is_there(&manifest) else {
        if is_there(&partial).is_some() {
            return Err(Error::Store(
                "the artifact is still being written; it will be fetched once it is complete".into(),
            ));
        }
        stream::iter(objects).map(one).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        return finish(aside, path);
    };
    // Of an artifact, only the files in its manifest: its prefix may contain other objects.
    one(manifest).await?;
    let files = artifact::read_manifest(aside)?.files.into_iter().map(|file| super::below(key, &file.path));
    let named: BTreeSet<Key> = files.collect();
    let named = objects.iter().filter(|o| named.contains(&o.location));
    stream::iter(named).map(one).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    if let Err(error) = artifact::verify_telling(aside, &heartbeat::beat) {
        fs::remove_dir_all(aside).map_err(|e| Error::disk(aside, e))?;
        return Err(error.into());
    }
    finish(aside, path)
}

/// The object of a key, or those below it.
async fn list(store: &dyn ObjectStore, key: &Key) -> Result<Vec<ObjectMeta>> {
    match store.head(key).await {
        Ok(object) => return Ok(vec![object]),
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(read_error(&error)),
    }
    let mut objects: Vec<ObjectMeta> = store.list(Some(key)).try_collect().await.map_err(|e| read_error(&e))?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    // Some tools represent a directory by an empty object whose key ends in a slash.
    let keys: Vec<String> = objects.iter().map(|o| o.location.to_string()).collect();
    let folders: HashSet<&str> = keys.iter().flat_map(|k| k.match_indices('/').map(|(at, _)| &k[..at])).collect();
    objects.retain(|o| o.size > 0 || !(o.location == *key || folders.contains(o.location.as_ref())));
    check(key, &objects)?;
    if objects.is_empty() {
        return Err(Error::Data("expected an object or objects below this key, found none; correct the URI".into()));
    }
    Ok(objects)
}

/// Checks that all keys can be files in one directory.
fn check(key: &Key, objects: &[ObjectMeta]) -> Result<()> {
    let wrong = |what: &str| Error::Data(format!("the store lists keys that cannot be files of a directory: {what}"));
    let mut keys: HashSet<&str> = HashSet::new();
    if let Some(twice) = objects.iter().find(|o| !keys.insert(o.location.as_ref())) {
        return Err(wrong(&format!("{:?} is listed twice", twice.location.as_ref())));
    }
    let prefix = if key.as_ref().is_empty() { String::new() } else { format!("{key}/") };
    for object in objects {
        let path: &str = object.location.as_ref();
        if object.location == *key {
            return Err(ends_in_slash(key));
        }
        let Some(below) = path.strip_prefix(&prefix) else {
            return Err(wrong(&format!("{path:?} is not below {key}")));
        };
        relative::check(below).map_err(|why| wrong(&why))?;
        let folders = below.match_indices('/').map(|(at, _)| &path[..path.len() - below.len() + at]);
        if let Some(both) = folders.into_iter().find(|folder| keys.contains(folder)) {
            return Err(wrong(&format!("{both} is an object, and others are below it")));
        }
    }
    Ok(())
}

/// A short digest of the objects' current versions: versions from before and after a change must not be mixed.
fn state(objects: &[ObjectMeta]) -> String {
    let line = |o: &ObjectMeta| format!("{} {} {:?} {}\n", o.location, o.size, o.e_tag, o.last_modified);
    hex(&Sha256::digest(objects.iter().map(line).collect::<String>())[..6])
}

/// Fetches one object to `target`, completely or not at all, unless it is already there.
async fn bring(store: &dyn ObjectStore, object: &ObjectMeta, target: &Path, arrived: &impl Fn(u64)) -> Result<()> {
    if let Ok(found) = fs::metadata(target) {
        arrived(found.len());
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::disk(parent, e))?;
    }
    super::fits(object.size, target.parent().unwrap_or(target))?;
    let aside = target.with_added_extension("part");
    // Fails if the object was overwritten since it was listed.
    let listed = GetOptions { if_match: object.e_tag.clone(), ..GetOptions::default() };
    let content = store.get_opts(&object.location, listed).await.map_err(|error| match error {
        StoreError::NotFound { .. } => None,
        error => Some(read_error(&error)),
    });
    let mut content = match content {
        Ok(content) => content.into_stream(),
        Err(Some(error)) => return Err(error),
        Err(None) => return not_there(store, object).await,
    };
    let mut file = File::create(&aside).map_err(|e| Error::disk(&aside, e))?;
    let mut size = 0;
    while let Some(chunk) = content.try_next().await.map_err(|e| read_error(&e))? {
        size += chunk.len() as u64;
        if size > object.size {
            break;
        }
        file.write_all(&chunk).map_err(|e| Error::disk(&aside, e))?;
        arrived(chunk.len() as u64);
        if shutdown::requested() {
            return Err(Error::Interrupted);
        }
    }
    if size != object.size {
        // The object is the listed one, so its size in the listing was wrong, and a retry would not help.
        let found = if size > object.size { "more".into() } else { size.to_string() };
        let what = format!("{}: the store lists {} bytes, but sent {found}", object.location, object.size);
        return Err(Error::Data(what));
    }
    file.sync_all().map_err(|e| Error::disk(&aside, e))?;
    fs::rename(&aside, target).map_err(|e| Error::disk(target, e))
}

/// Handles an object that was listed but does not exist: listings drop the trailing slash of a key.
async fn not_there(store: &dyn ObjectStore, object: &ObjectMeta) -> Result<()> {
    let key = &object.location;
    let below = store.list(Some(key)).try_collect::<Vec<_>>().await;
    match below.ok().and_then(|below| below.into_iter().find(|o| o.location == *key)) {
        // The marker of an empty directory.
        Some(marker) if marker.size == 0 => Ok(()),
        Some(_) => Err(ends_in_slash(key)),
        None => Err(Error::Store(format!("{key} was removed while it was being fetched"))),
    }
}

fn ends_in_slash(key: &Key) -> Error {
    let what = "ends in a slash and has content; remove it";
    Error::Data(format!("the store lists keys that cannot be files of a directory: {key}/ {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_object_above_other_keys_is_a_directory() {
        let store = object_store::memory::InMemory::new();
        let put = async |key: &str, bytes: &'static [u8]| {
            store.put(&Key::from(key), bytes.into()).await.unwrap();
        };
        for empty in ["m/a", "m/b", "m/b/c", "m/empty"] {
            put(empty, b"").await;
        }
        // Keys that sort between a directory and its contents.
        for key in ["m/a-1", "m/a/x", "m/b.1", "m/b/c/d"] {
            put(key, b"1").await;
        }
        for i in 0..5_000 {
            put(&format!("m/many/{i}"), b"").await;
        }
        let listed = list(&store, &Key::from("m")).await.unwrap();
        let keys: Vec<String> = listed.into_iter().map(|o| o.location.to_string()).collect();
        let few: Vec<&str> = keys.iter().map(String::as_str).filter(|key| !key.starts_with("m/many/")).collect();
        assert_eq!(few, ["m/a-1", "m/a/x", "m/b.1", "m/b/c/d", "m/empty"]);
        assert_eq!(keys.len(), 5_005);
    }

    #[test]
    fn keys_that_conflict_as_paths_are_a_data_error() {
        let object = |key: &str| ObjectMeta {
            location: Key::from(key),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 1,
            e_tag: None,
            version: None,
        };
        let check = |keys: &[&str]| check(&Key::from("m"), &keys.iter().map(|k| object(k)).collect::<Vec<_>>());
        check(&["m/a", "m/b/c", "m/b/d", "m/bc"]).unwrap();
        for (keys, what) in [
            (&["m/a", "m/a/b"][..], "m/a is an object"),
            (&["m/a/b/c", "m/a"], "m/a is an object"),
            (&[&format!("m/{}", "n".repeat(250))], "250 bytes"),
            (&["m/a", "elsewhere/b"], "\"elsewhere/b\" is not below m"),
            (&["mm/a"], "\"mm/a\" is not below m"),
            (&["m/a", "m/b", "m/a"], "\"m/a\" is listed twice"),
        ] {
            let error = check(keys).unwrap_err();
            assert!(matches!(&error, Error::Data(text) if text.contains(what)), "{error}");
        }
    }
}
