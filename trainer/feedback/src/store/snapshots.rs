//! A work directory in an object store: a single snapshot, which later ones replace. Talks to the store and to the file
//! system.
//!
//! ```text
//! <key>/index.json        the files of the directory (see `index`)
//! <key>/pieces/<sha256>   its content
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use plumbline_crds::artifact::hex;
use sha2::{Digest, Sha256};

use super::connect::{open, persist, read_error, write_error};
use super::index::{Entry, Index, PIECE, pieces};
use crate::shutdown;
use crate::{Error, Result, heartbeat};

/// Pieces uploaded concurrently.
const AT_ONCE: usize = 4;

/// A file at the time of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    /// Path relative to the work directory, separated by `/`.
    pub(super) path: String,
    /// The file with its content, which may have grown since.
    pub(super) file: PathBuf,
    /// Identifies its state.
    pub(super) stamp: Stamp,
}

/// Detects changes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Size in bytes at the time of the snapshot.
    pub(super) size: u64,
    /// Modification time.
    pub(super) modified: SystemTime,
    /// Inode number, which changes if the file is replaced.
    pub(super) inode: u64,
}

impl Stamp {
    /// The current stamp of a file.
    ///
    /// # Errors
    /// If the file system does not report modification times.
    pub(super) fn of(file: &fs::Metadata) -> std::io::Result<Self> {
        Ok(Self { size: file.len(), modified: file.modified()?, inode: file.ino() })
    }
}

/// The work directory in the store.
pub(super) struct Snapshots {
    uri: String,
    store: Arc<dyn ObjectStore>,
    key: Key,
    /// A unique name of this process.
    owner: String,
    /// The index in the store, and its version.
    index: Index,
    version: Option<UpdateVersion>,
    /// Pieces in the store.
    stored: BTreeSet<String>,
    /// The stamps of files at the last check.
    known: HashMap<String, (Stamp, Entry)>,
}

impl Snapshots {
    /// Reads the index in a store.
    ///
    /// # Errors
    /// `Config` and `Data` if the store denies access or contains something else, `Store` if it does not respond.
    pub(super) async fn open(uri: &str) -> Result<Self> {
        let (store, key) = open(uri)?;
        let mut snapshots = Self {
            uri: uri.to_owned(),
            store,
            key,
            owner: this_process(),
            index: Index::default(),
            version: None,
            stored: BTreeSet::new(),
            known: HashMap::new(),
        };
        snapshots.look().await?;
        Ok(snapshots)
    }

    async fn look(&mut self) -> Result<()> {
        let found = persist(&self.uri, async || self.read().await).await?;
        (self.index, self.version) = found.map_or_else(Default::default, |(index, version)| (index, Some(version)));
        Ok(())
    }

    /// Makes this process the owner of the work directory. If another process still writes to it, its next write fails,
    /// and it removes nothing that this process needs.
    ///
    /// # Errors
    /// Those of [`Snapshots::open`].
    pub(super) async fn take_over(&mut self) -> Result<()> {
        loop {
            let index = Index { owner: self.owner.clone(), ..self.index.clone() };
            match persist(&self.uri, async || self.write(&index).await).await {
                Ok(version) => {
                    (self.index, self.version) = (index, Some(version));
                    break;
                }
                // The other process wrote in between.
                Err(Error::Failed(_)) if !shutdown::requested() => self.look().await?,
                Err(error) => return Err(error),
            }
        }
        // Pieces uploaded by an attempt that was killed need not be uploaded again.
        self.stored = persist(&self.uri, async || self.list().await).await?;
        Ok(())
    }

    async fn read(&self) -> Result<Option<(Index, UpdateVersion)>> {
        let found = match self.store.get(&self.index_key()).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(read_error(&error)),
        };
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let text = found.bytes().await.map_err(|e| read_error(&e))?;
        Ok(Some((Index::read(&text).map_err(|why| self.damaged(&why))?, version)))
    }

    async fn list(&self) -> Result<BTreeSet<String>> {
        let folder = self.key.clone().join("pieces");
        let names = self.store.list(Some(&folder)).map_ok(|o| o.location.filename().unwrap_or_default().to_owned());
        names.try_collect().await.map_err(|e| read_error(&e))
    }

    fn index_key(&self) -> Key {
        self.key.clone().join("index.json")
    }

    fn piece_key(&self, sha256: &str) -> Key {
        self.key.clone().join("pieces").join(sha256)
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Data(format!(
            "{}: not the work directory of a run: {why}; delete it to start the run from scratch",
            self.uri
        ))
    }

    /// Restores the files that differ from the snapshot, and returns their number. Other files are not changed.
    pub(super) async fn restore(&mut self, work: &Path) -> Result<usize> {
        let mut brought = 0;
        for (path, entry) in self.index.files.clone() {
            let target = work.join(&path);
            if !is_here(&target, &entry)? {
                self.restore_file(&target, &entry).await?;
                brought += 1;
            }
            let about = fs::metadata(&target).map_err(|e| Error::disk(&target, e))?;
            let stamp = Stamp::of(&about).map_err(|e| Error::disk(&target, e))?;
            self.known.insert(path, (stamp, entry));
        }
        Ok(brought)
    }

    async fn restore_file(&self, target: &Path, entry: &Entry) -> Result<()> {
        let aside = target.with_added_extension("part");
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::disk(parent, e))?;
        }
        let mut file = File::create(&aside).map_err(|e| Error::disk(&aside, e))?;
        let piece = |sha256: String| async move { persist(&sha256, async || self.piece(&sha256).await).await };
        let mut content = stream::iter(entry.pieces.clone()).map(piece).buffered(AT_ONCE);
        while let Some(piece) = content.next().await {
            file.write_all(&piece?).map_err(|e| Error::disk(&aside, e))?;
            if shutdown::requested() {
                return Err(Error::Interrupted);
            }
        }
        file.sync_all().map_err(|e| Error::disk(&aside, e))?;
        fs::rename(&aside, target).map_err(|e| Error::disk(target, e))
    }

    /// The content of a file in the snapshot; `None` if it is not there.
    pub(super) async fn content(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(entry) = self.index.files.get(path) else { return Ok(None) };
        let mut content = Vec::new();
        for sha256 in &entry.pieces {
            content.extend(persist(sha256, async || self.piece(sha256).await).await?);
        }
        Ok(Some(content))
    }

    async fn piece(&self, sha256: &str) -> Result<Vec<u8>> {
        let found = match self.store.get(&self.piece_key(sha256)).await {
            Ok(found) => found.bytes().await.map_err(|e| read_error(&e))?,
            Err(StoreError::NotFound { .. }) => return Err(self.damaged(&format!("piece {sha256} is missing"))),
            Err(error) => return Err(read_error(&error)),
        };
        heartbeat::beat();
        if hex(&Sha256::digest(&found)) != sha256 {
            return Err(self.damaged(&format!("piece {sha256} does not match its checksum")));
        }
        Ok(found.into())
    }

    /// Uploads a snapshot.
    ///
    /// # Errors
    /// `Config` if the store denies access, `Store` if it does not respond, `Failed` if another process has taken over.
    pub(super) async fn save(&mut self, files: &[Frozen]) -> Result<()> {
        let mut index = Index { owner: self.owner.clone(), ..Index::default() };
        for file in files {
            let entry = match self.known.get(&file.path) {
                Some((stamp, entry)) if *stamp == file.stamp => entry.clone(),
                _ => self.bring(file).await?,
            };
            self.known.insert(file.path.clone(), (file.stamp, entry.clone()));
            index.files.insert(file.path.clone(), entry);
        }
        if index == self.index {
            return Ok(());
        }
        self.version = Some(persist(&self.uri, async || self.write(&index).await).await?);
        self.index = index;
        self.known.retain(|path, _| self.index.files.contains_key(path));
        self.forget().await;
        Ok(())
    }

    /// Uploads the pieces of a file that are not in the store.
    async fn bring(&mut self, file: &Frozen) -> Result<Entry> {
        let size = file.stamp.size;
        let piece = |number: u64| {
            let stored = &*self;
            async move {
                let content = read(&file.file, number * PIECE, PIECE.min(size - number * PIECE))?;
                let sha256 = hex(&Sha256::digest(&content));
                heartbeat::beat();
                if !stored.stored.contains(&sha256) {
                    let (key, payload) = (stored.piece_key(&sha256), PutPayload::from(content));
                    let put = async || stored.store.put(&key, payload.clone()).await.map_err(|e| write_error(&e));
                    persist(&sha256, put).await?;
                    heartbeat::beat();
                }
                Ok(sha256)
            }
        };
        let brought: Result<Vec<String>> =
            stream::iter(0..pieces(size)).map(piece).buffered(AT_ONCE).try_collect().await;
        let pieces = brought?;
        self.stored.extend(pieces.iter().cloned());
        Ok(Entry { size, pieces })
    }

    /// Replaces the index, if it is still the one that was last read or written: a pod that was presumed lost must not
    /// overwrite the work of its successor. `Failed` if it has changed.
    async fn write(&self, index: &Index) -> Result<UpdateVersion> {
        let key = self.index_key();
        let text = serde_json::to_vec(index).map_err(|e| Error::Failed(format!("{key}: {e}")))?;
        let mode = self.version.clone().map_or(PutMode::Create, PutMode::Update);
        let put = |mode| self.store.put_opts(&key, text.clone().into(), PutOptions::from(mode));
        let written = match put(mode).await {
            // Some stores do not support conditional writes.
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => match self.read().await? {
                Some((found, _)) if found != self.index => return Err(self.taken_over(&found)),
                _ => put(PutMode::Overwrite).await,
            },
            written => written,
        };
        match written {
            Ok(written) => Ok(UpdateVersion { e_tag: written.e_tag, version: written.version }),
            Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. }) => match self.read().await? {
                // The write succeeded, and only the response was lost.
                Some((found, version)) if found == *index => Ok(version),
                found => Err(self.taken_over(&found.map(|(index, _)| index).unwrap_or_default())),
            },
            Err(error) => Err(write_error(&error)),
        }
    }

    fn taken_over(&self, found: &Index) -> Error {
        Error::Failed(format!(
            "{}: another process ({}) has taken the work directory over; this process stops",
            self.uri, found.owner
        ))
    }

    /// Removes pieces that the snapshot no longer needs, to free space.
    async fn forget(&mut self) {
        let needed = self.index.pieces();
        let (kept, old): (BTreeSet<String>, BTreeSet<String>) =
            std::mem::take(&mut self.stored).into_iter().partition(|piece| needed.contains(piece.as_str()));
        self.stored = kept;
        let old: Vec<_> = old.iter().map(|piece| Ok(self.piece_key(piece))).collect();
        let keys = stream::iter(old).boxed();
        if let Err(error) = self.store.delete_stream(keys).try_collect::<Vec<_>>().await {
            tracing::warn!("failed to delete blobs of old snapshots: {error}");
        }
    }
}

/// A unique name for this process.
fn this_process() -> String {
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{pod} {} {}", std::process::id(), since.as_nanos())
}

/// Whether a local file matches an entry of the index.
fn is_here(target: &Path, entry: &Entry) -> Result<bool> {
    match fs::metadata(target) {
        Ok(found) if found.len() == entry.size => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::disk(target, error)),
    }
    for (number, sha256) in (0..).zip(&entry.pieces) {
        let content = read(target, number * PIECE, PIECE.min(entry.size - number * PIECE))?;
        heartbeat::beat();
        if hex(&Sha256::digest(&content)) != *sha256 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read(file: &Path, from: u64, size: u64) -> Result<Vec<u8>> {
    let mut content = vec![0; size as usize];
    let read = File::open(file).and_then(|mut f| {
        f.seek(SeekFrom::Start(from))?;
        f.read_exact(&mut content)
    });
    read.map_err(|e| Error::disk(file, e))?;
    Ok(content)
}
