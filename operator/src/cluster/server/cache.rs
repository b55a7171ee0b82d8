//! What is known of tokens, for a while. Keys are digests: no token is kept. Computes only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Entries at once.
const MAX_ENTRIES: usize = 4096;

type Key = [u8; 32];

/// A bounded cache whose entries expire.
#[derive(Debug)]
pub(super) struct Cache<V> {
    entries: Mutex<HashMap<Key, (Instant, V)>>,
}

impl<V: Clone> Cache<V> {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }

    /// What is known of a token, unless it expired.
    pub(super) fn get(&self, token: &str, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&key(token)).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    /// Remembers something of a token for some time.
    pub(super) fn put(&self, token: &str, value: V, life: Duration, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= MAX_ENTRIES {
            let first = entries.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| *key);
            first.and_then(|key| entries.remove(&key));
        }
        entries.insert(key(token), (now + life, value));
    }
}

fn key(token: &str) -> Key {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_known_until_it_expires_and_not_a_moment_longer() {
        let (cache, start) = (Cache::new(), Instant::now());
        cache.put("a", 1, Duration::from_secs(5), start);
        assert_eq!(cache.get("a", start + Duration::from_millis(4999)), Some(1));
        assert_eq!(cache.get("a", start + Duration::from_secs(5)), None);
        assert_eq!(cache.get("b", start), None);
    }

    #[test]
    fn a_full_cache_gives_up_what_expires_first() {
        let (cache, start) = (Cache::new(), Instant::now());
        cache.put("short", 0, Duration::from_secs(5), start);
        for i in 0..MAX_ENTRIES {
            cache.put(&i.to_string(), 1, Duration::from_mins(1), start);
        }
        assert_eq!(cache.get("short", start), None);
        assert_eq!(cache.get("0", start), Some(1));
        assert_eq!(cache.entries.lock().unwrap().len(), MAX_ENTRIES);
    }
}
