//! Downloads a model or a file of a dataset from the Hugging Face hub, or from a server with the same API. Talks to the
//! network and to the file system.

use std::fs;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use plumbline_crds::hub::{HubUri, SCHEME};
use plumbline_crds::remote::is_loopback;
use reqwest::Url;

use super::cache::Cache;
use super::download::{Expected, Source};
use super::finish;
use super::listing::{Listing, RemoteFile};
use crate::{Error, Result};

/// Environment variable with the hub's address, as huggingface_hub reads it.
const ENDPOINT: &str = "HF_ENDPOINT";
/// Environment variable with the access token, as huggingface_hub reads it.
const TOKEN: &str = "HF_TOKEN";
const PUBLIC: &str = "https://huggingface.co";
/// Files downloaded concurrently: a single connection seldom uses the whole bandwidth.
const AT_ONCE: usize = 4;
/// Digits of a commit in the name of a temporary directory.
const SHORT: usize = 12;

/// A model hub.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: Url,
    source: Source,
}

impl Hub {
    /// The hub that the environment configures.
    ///
    /// # Errors
    /// `Config` for an invalid address.
    pub fn from_env() -> Result<Self> {
        // A Secret created from a file ends in a line break.
        let set = |name| std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let endpoint = set(ENDPOINT).unwrap_or_else(|| PUBLIC.to_owned());
        let endpoint = Url::parse(&endpoint)
            .ok()
            .filter(|url| !url.cannot_be_a_base())
            .ok_or_else(|| Error::Config(format!("{ENDPOINT}: expected the address of a hub, found \"{endpoint}\"")))?;
        Self::at(endpoint, set(TOKEN).as_deref())
    }

    fn at(endpoint: Url, token: Option<&str>) -> Result<Self> {
        let is_here = endpoint.host_str().is_some_and(is_loopback);
        if token.is_some() && endpoint.scheme() != "https" && !is_here {
            let host = endpoint.host_str().unwrap_or_default();
            return Err(Error::Config(format!(
                "{ENDPOINT}: expected https://{host}, because {TOKEN} is set and could be read in transit, found {}://",
                endpoint.scheme()
            )));
        }
        let source = Source::new(&endpoint, token)?;
        Ok(Self { endpoint, source })
    }

    /// The content of a repository at a commit, or at the revision that the URI names.
    ///
    /// # Errors
    /// See [`Source::text`].
    pub async fn list(&self, uri: &HubUri, commit: Option<&str>) -> Result<Listing> {
        let (kind, repository, revision) = match uri {
            HubUri::Model { repository, revision } => ("models", repository, revision),
            HubUri::DatasetFile { repository, revision, .. } => ("datasets", repository, revision),
        };
        let mut url = self.url(&["api", kind], repository, &["revision"], commit.unwrap_or(revision), "");
        url.set_query(Some("blobs=true"));
        let listing = self.source.text(&url).await?;
        Listing::parse(&listing)
    }

    /// Downloads what a URI names to `path`, completely or not at all. `told` is called with the bytes received so far
    /// and the total, whenever more have arrived.
    ///
    /// # Errors
    /// See [`Source::file`].
    pub async fn fetch(
        &self,
        uri: &HubUri,
        listing: &Listing,
        cache: &Cache,
        path: &Path,
        told: &impl Fn(u64, u64),
    ) -> Result<()> {
        let (kind, files, name): (&[&str], _, _) = match uri {
            HubUri::Model { repository, .. } => (&[], listing.model()?, repository.clone()),
            HubUri::DatasetFile { repository, path, .. } => {
                (&["datasets"], vec![listing.file(path)?], format!("datasets/{repository}/{path}"))
            }
        };
        // If the branch moves during the download, files of two commits must not be mixed.
        let short: String = listing.sha.chars().filter(char::is_ascii_alphanumeric).take(SHORT).collect();
        let bring = async |path: &Path| {
            let aside = path.with_added_extension(short);
            if uri.is_folder() {
                fs::create_dir_all(&aside).map_err(|e| Error::disk(&aside, e))?;
            }
            let place = |file: &RemoteFile| if uri.is_folder() { aside.join(&file.path) } else { aside.clone() };
            self.files(kind, uri.repository(), &listing.sha, &files, place, told).await?;
            finish(&aside, path)
        };
        // Branches and tags of one commit share an entry; which files are needed may change between versions of this
        // program.
        let state = files.iter().fold(listing.sha.clone(), |state, file| format!("{state}\n{}", file.path));
        cache.through(&format!("{SCHEME}{name}"), &state, path, bring).await
    }

    async fn files(
        &self,
        kind: &[&str],
        repository: &str,
        commit: &str,
        files: &[RemoteFile],
        place: impl Fn(&RemoteFile) -> std::path::PathBuf,
        told: &impl Fn(u64, u64),
    ) -> Result<()> {
        let total = files.iter().filter_map(|f| f.size).fold(0, u64::saturating_add);
        let here = std::cell::Cell::new(0);
        let arrived = |bytes: u64| {
            here.set(here.get() + bytes);
            told(here.get(), total);
        };
        let one = async |file: &RemoteFile| {
            let path = place(file);
            if let Ok(found) = fs::metadata(&path) {
                arrived(found.len());
                return Ok(());
            }
            let url = self.url(kind, repository, &["resolve"], commit, &file.path);
            let expected = Expected { size: file.size, sha256: file.lfs.as_ref().map(|l| l.sha256.as_str()) };
            self.source.file(&url, &path, &expected, arrived).await
        };
        stream::iter(files).map(one).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// `<endpoint>/<before>/<repository>/<middle>/<revision>/<path>`.
    fn url(&self, before: &[&str], repository: &str, middle: &[&str], revision: &str, path: &str) -> Url {
        let mut url = self.endpoint.clone();
        // A revision may contain slashes, written as %2F; all other characters are escaped here.
        let revision = revision.replace("%2F", "/");
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(before).extend(repository.split('/')).extend(middle).push(&revision);
            segments.extend(path.split('/').filter(|part| !part.is_empty()));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_the_hubs_form_below_any_endpoint() {
        let hub = |endpoint: &str| Hub::at(Url::parse(endpoint).unwrap(), None).unwrap();
        for endpoint in ["http://127.0.0.1:1/mirror/", "http://127.0.0.1:1/mirror"] {
            let url = hub(endpoint).url(&["datasets"], "org/name", &["resolve"], "refs%2Fpr%2F1", "data/a b.jsonl");
            let expected = "http://127.0.0.1:1/mirror/datasets/org/name/resolve/refs%2Fpr%2F1/data/a%20b.jsonl";
            assert_eq!(url.as_str(), expected);
        }
    }

    #[test]
    fn a_token_is_only_sent_over_https_or_to_this_machine() {
        let at = |endpoint: &str, token| Hub::at(Url::parse(endpoint).unwrap(), token);
        for (endpoint, token) in [
            ("https://hub.example", Some("hf_secret")),
            ("http://mirror.example", None),
            ("http://127.0.0.1:1", Some("hf_secret")),
        ] {
            assert!(at(endpoint, token).is_ok(), "{endpoint}");
        }
        let error = at("http://mirror.example", Some("hf_secret")).unwrap_err();
        let named = |text: &str| text.contains("expected https://mirror.example") && !text.contains("hf_secret");
        assert!(matches!(&error, Error::Config(text) if named(text)), "{error}");
        let error = at("https://hub.example", Some("two\nlines")).unwrap_err();
        assert!(matches!(&error, Error::Config(text) if text.contains("nothing but the token")), "{error}");
    }
}
