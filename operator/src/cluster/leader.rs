//! Leader election: one process at a time acts, the others wait. Talks to the API server.
//!
//! The claim is a Lease (`coordination.k8s.io/v1` LeaseSpec) that its holder renews. Every write replaces the Lease at
//! the resourceVersion that was read, so that of several writers one wins and the others learn it (409).
//!
//! Two rules keep leaders apart, and neither compares the clocks of two machines:
//! - Whoever waits takes over when it has itself seen the Lease unchanged for the whole lease duration.
//! - Whoever leads stops when its last successful renewal, by the moment it was *sent*, is older than the renew
//!   deadline, which is shorter.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Others take over after the Lease did not change for this long.
    pub lease: Duration,
    /// The leader stops after it could not renew for this long; shorter than `lease`.
    pub renew_deadline: Duration,
    /// Between two tries, of renewing as of taking over.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew_deadline: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// Why a process leads no longer. The process has to end: it may act no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The renew deadline passed.
    #[error("failed to renew the Lease {lease} for {deadline:?}: {error}")]
    NotRenewed {
        /// `namespace/name`.
        lease: String,
        /// The renew deadline.
        deadline: Duration,
        /// What the last try met.
        error: String,
    },
    /// Another process holds the Lease, or none does.
    #[error("the Lease {lease} is held by {holder}")]
    Taken {
        /// `namespace/name`.
        lease: String,
        /// Who holds it, in words.
        holder: String,
    },
}

/// Whether this process leads, for everything that must ask. Cheap to clone and to ask.
#[derive(Clone, Debug)]
pub struct Claim {
    since: Instant,
    /// Milliseconds after `since` up to which the claim holds; 0 for no claim.
    until: Arc<AtomicU64>,
}

impl Claim {
    /// Whether this process leads at this moment. True only within the renew deadline of a successful renewal, also when
    /// the task that renews is stuck.
    pub fn is_held(&self) -> bool {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.until.load(Ordering::Acquire)
    }

    /// One that holds for a time from now.
    #[cfg(test)]
    pub(super) fn held_for(time: Duration) -> Self {
        let claim = Self { since: Instant::now(), until: Arc::default() };
        claim.hold_until(Some(claim.since + time));
        claim
    }

    fn hold_until(&self, deadline: Option<Instant>) {
        let millis = deadline.map_or(0, |d| d.duration_since(self.since).as_millis());
        self.until.store(u64::try_from(millis).unwrap_or(0), Ordering::Release);
    }
}

/// A contender for one Lease.
#[derive(Debug)]
pub struct Election {
    leases: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    timing: Timing,
    claim: Claim,
    /// What somebody else's Lease looked like, and since when it does.
    seen: Option<(String, Instant)>,
    /// The Lease as this process wrote it last.
    held: Option<Lease>,
    deadline: Instant,
}

impl Election {
    /// A contender called `identity`, as a rule the name of the pod. A suffix makes it this process's own: what an earlier
    /// process of the same pod wrote is somebody else's claim.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        let now = Instant::now();
        let suffix = format!("{:x}-{:x}", std::process::id(), Timestamp::now().as_nanosecond());
        Self {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: format!("{identity}_{suffix}"),
            timing,
            // Earlier than any deadline, so that one is never 0 milliseconds away from it.
            claim: Claim { since: now.checked_sub(Duration::from_secs(1)).unwrap_or(now), until: Arc::default() },
            seen: None,
            held: None,
            deadline: now,
        }
    }

    /// As this contender stands in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether this process leads, for others to ask.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// Waits until this process leads. What the API server refuses or does not answer is logged and tried again.
    pub async fn acquire(&mut self) {
        loop {
            match self.try_acquire().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(lease = %self.path(), %error, "failed to acquire the lease; retrying"),
            }
            sleep(self.timing.retry).await;
        }
    }

    /// Renews, and returns when this process leads no longer. Safe to drop at any moment.
    pub async fn hold(&mut self) -> Lost {
        let mut error = String::from("no try was made");
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (lease, deadline) = (self.path(), self.timing.renew_deadline);
                return self.lose(Lost::NotRenewed { lease, deadline, error });
            }
            match timeout(left, self.renew()).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(holder))) => {
                    let lease = self.path();
                    return self.lose(Lost::Taken { lease, holder });
                }
                Ok(Err(refused)) => {
                    tracing::warn!(lease = %self.path(), error = %refused, "failed to renew the lease; retrying");
                    error = refused;
                }
                Err(_) => continue,
            }
            sleep(self.timing.retry.min(self.deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Gives the Lease back, so that the next one need not wait. Call it after the last write; a failure is logged only.
    pub async fn release(&mut self) {
        self.claim.hold_until(None);
        if self.held.take().is_none() {
            return;
        }
        let released = self.timed(async {
            let Some(mut lease) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            if holder(&lease) != Some(self.identity.as_str()) {
                return Ok(());
            }
            lease.spec.get_or_insert_default().holder_identity = None;
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(|_| ())
        });
        if let Err(error) = released.await {
            tracing::warn!(lease = %self.path(), %error, "failed to release the lease; the next leader has to wait until it expires");
        }
    }

    async fn try_acquire(&mut self) -> Result<bool, String> {
        let found = self.timed(self.leases.get_opt(&self.name)).await?;
        if !self.is_free(found.as_ref()) {
            return Ok(false);
        }
        let sent = Instant::now();
        let lease = self.taken(found.as_ref());
        let params = PostParams::default();
        let written = match found {
            Some(_) => self.timed(self.leases.replace(&self.name, &params, &lease)).await,
            None => self.timed(self.leases.create(&params, &lease)).await,
        };
        self.held(written?, sent);
        Ok(true)
    }

    /// Who else holds the Lease, where that is what came out.
    async fn renew(&mut self) -> Result<Option<String>, String> {
        let Some(held) = &self.held else { return Ok(Some("no process".into())) };
        let sent = Instant::now();
        let mut lease = held.clone();
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        match self.timed(self.leases.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(written) => {
                self.held(written, sent);
                Ok(None)
            }
            Err(error) => {
                // An answer that was lost looks like a lost race. What the Lease says now tells them apart.
                let found = self.timed(self.leases.get_opt(&self.name)).await?;
                match found {
                    Some(lease) if holder(&lease) == Some(self.identity.as_str()) => {
                        self.held = Some(lease);
                        Err(error)
                    }
                    Some(lease) => Ok(Some(holder(&lease).unwrap_or("no process").to_owned())),
                    None => Ok(Some("no process: it was deleted".into())),
                }
            }
        }
    }

    /// Whether the Lease may be taken: no process holds it, or its holder did not renew it for the lease duration.
    fn is_free(&mut self, found: Option<&Lease>) -> bool {
        let held = found.and_then(|lease| holder(lease).map(|_| lease));
        let (version, duration) = match (held, found, &self.seen) {
            // An answer to this process's own write was lost; no other process writes this name.
            (Some(lease), ..) if holder(lease) == Some(self.identity.as_str()) => return true,
            (Some(lease), ..) => {
                let theirs = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).unwrap_or_default();
                let theirs = Duration::from_secs(u64::try_from(theirs).unwrap_or_default());
                (lease.metadata.resource_version.clone().unwrap_or_default(), self.timing.lease.max(theirs))
            }
            // It was there and held, and was deleted: whoever held it may not know yet.
            (None, None, Some(_)) => (String::new(), self.timing.lease),
            _ => return true,
        };
        let now = Instant::now();
        match &self.seen {
            Some((seen, since)) if *seen == version => now.duration_since(*since) > duration,
            _ => {
                self.seen = Some((version, now));
                false
            }
        }
    }

    /// The Lease with this process as its holder.
    fn taken(&self, found: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let transitions = found.and_then(|l| l.spec.as_ref()).and_then(|s| s.lease_transitions);
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        let seconds = self.timing.lease.as_secs() + u64::from(self.timing.lease.subsec_nanos() > 0);
        Lease {
            metadata: found.map_or(metadata, |l| l.metadata.clone()),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(transitions.map_or(0, |n| n.saturating_add(1))),
                ..LeaseSpec::default()
            }),
        }
    }

    fn held(&mut self, lease: Lease, sent: Instant) {
        self.held = Some(lease);
        self.seen = None;
        self.deadline = sent + self.timing.renew_deadline;
        self.claim.hold_until(Some(self.deadline));
    }

    fn lose(&mut self, lost: Lost) -> Lost {
        self.held = None;
        self.claim.hold_until(None);
        lost
    }

    /// One call: the client by itself would wait and repeat for minutes.
    async fn timed<T, E: Display>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, String> {
        let longest = self.timing.renew_deadline / 2;
        match timeout(longest, call).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the API server did not answer within {longest:?}")),
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_until_its_deadline_and_not_longer() {
        assert!(Claim::held_for(Duration::from_mins(1)).is_held());
        let short = Claim::held_for(Duration::from_millis(10));
        std::thread::sleep(Duration::from_millis(10));
        assert!(!short.is_held());
        let given_back = Claim::held_for(Duration::from_mins(1));
        given_back.hold_until(None);
        assert!(!given_back.is_held());
    }

    #[test]
    fn the_default_timing_leaves_time_to_stop_in() {
        let timing = Timing::default();
        assert!(timing.renew_deadline + timing.retry < timing.lease);
    }
}
