//! Resources that the judges of a dataset share (IO): one runtime, one journal, one ledger, and a limiter per endpoint.
//! A reason to stop one judge stops all: no new requests are sent, and those in flight are completed, as they are paid
//! for.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use plumbline_crds::judge::{Judge, JudgeLimits};
use plumbline_crds::preference_dataset::Budget;
use plumbline_crds::status::Cost;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::interval;

use super::journal::{Entry, Journal};
use super::ledger::{Bound, Ledger};
use super::limiter::Limiter;
use super::runtime::Target;
use super::wire::{Reply, Usage};
use crate::shutdown;
use crate::{Error, Result};

/// Interval for checking whether the process was asked to stop.
const TICK: Duration = Duration::from_millis(250);

/// The shared resources.
pub(super) struct Resources {
    tokio: Runtime,
    limiters: BTreeMap<String, Arc<Limiter>>,
    state: Mutex<State>,
    /// Whether new requests are no longer permitted.
    stopped: watch::Sender<bool>,
}

struct State {
    journal: Journal,
    ledger: Ledger,
    /// Why new requests are no longer permitted.
    stop: Option<Error>,
    /// Number of answered questions, and total number of questions.
    answered: usize,
    total: usize,
}

/// A judge that is asked over HTTP, as far as the shared resources need it.
pub(super) struct Member<'a> {
    pub(super) spec: &'a Judge,
    /// Its spec field, for messages.
    pub(super) field: &'a str,
    pub(super) target: &'a Target,
}

impl Resources {
    /// Opens the journal of a directory, and the ledger and limiters of these judges. `total`: number of their
    /// questions.
    pub(super) fn open(members: &[Member<'_>], journal: &Path, budget: &Budget, total: usize) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::Failed(format!("cannot start the runtime of the judge's client: {e}")))?;
        let priced: Vec<(&Judge, &str)> = members.iter().map(|member| (member.spec, member.field)).collect();
        let ledger = Ledger::open(budget, &priced)?;
        let journal = Journal::open(journal)?;
        let (stopped, _) = watch::channel(false);
        let state = Mutex::new(State { journal, ledger, stop: None, answered: 0, total });
        Ok(Self { tokio, limiters: limiters(members), state, stopped })
    }

    /// The runtime for clients.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.tokio
    }

    /// The limiter of a judge's endpoint.
    pub(super) fn limiter(&self, target: &Target) -> Option<Arc<Limiter>> {
        self.limiters.get(endpoint(target)).map(Arc::clone)
    }

    /// Runs the judges until all questions are answered, or until the process is asked to stop and requests in flight
    /// are completed. Then flushes the journal to disk.
    pub(super) fn wait<F: Future<Output = ()>>(&self, asking: impl IntoIterator<Item = F>) -> Result<()> {
        self.tokio.block_on(async {
            let mut all = pin!(join_all(asking));
            let mut ticks = interval(TICK);
            loop {
                tokio::select! {
                    _ = &mut all => return,
                    _ = ticks.tick() => {
                        // The caller would only notice at the next answer, which may be an hour away.
                        if shutdown::requested() {
                            self.stop(Error::Interrupted);
                        }
                    }
                }
            }
        });
        let mut state = self.state();
        state.journal.sync()?;
        state.stop.take().map_or(Ok(()), Err)
    }

    /// The reply with this id in the journal, if there is one.
    pub(super) fn reply(&self, id: &str) -> Result<Option<Reply>> {
        self.state().journal.reply(id)
    }

    /// Whether the journal has a reply with this id.
    pub(super) fn is_answered(&self, id: &str) -> bool {
        self.state().journal.contains(id)
    }

    /// Counts the cost of a reply that was already in the journal.
    pub(super) fn count(&self, judge: usize, bound: &Bound, usage: Option<Usage>) {
        self.state().ledger.settle(judge, bound, usage);
    }

    /// Reserves the bound of a request. Returns false, and stops all judges, if it exceeds the budget.
    pub(super) fn reserve(&self, judge: usize, bound: &Bound) -> bool {
        let mut state = self.state();
        if state.stop.is_some() {
            return false;
        }
        let Err(limit) = state.ledger.reserve(judge, bound) else { return true };
        let (answered, total) = (state.answered, state.total);
        drop(state);
        self.stop(Error::BudgetExhausted(format!(
            "{limit}; {answered} of {total} questions are answered and saved in the journal: raise the budget to \
             resume from there"
        )));
        false
    }

    /// Releases a reservation.
    pub(super) fn release(&self, judge: usize, bound: &Bound) {
        self.state().ledger.release(judge, bound);
    }

    /// Journals the reply to a reserved request and settles the reservation. Returns the charge.
    pub(super) fn settle(&self, judge: usize, bound: &Bound, entry: &Entry) -> Result<Usage> {
        let mut state = self.state();
        state.ledger.release(judge, bound);
        state.journal.append(entry)?;
        Ok(state.ledger.settle(judge, bound, entry.reply.usage))
    }

    /// Counts an answered question.
    pub(super) fn answered(&self) {
        self.state().answered += 1;
    }

    /// Total cost of all judges so far.
    pub(super) fn total_cost(&self) -> Cost {
        self.state().ledger.total()
    }

    /// Cost of a judge so far, and the number of its replies with an implausible token count.
    pub(super) fn account(&self, judge: usize) -> (Cost, i64) {
        let state = self.state();
        (state.ledger.cost(judge), state.ledger.implausible(judge))
    }

    /// Stops sending requests. Only the first reason is kept.
    pub(super) fn stop(&self, error: Error) {
        self.state().stop.get_or_insert(error);
        self.stopped.send_replace(true);
    }

    /// Whether new requests are no longer permitted.
    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits for a future; `None` if new requests are stopped before it completes.
    pub(super) async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            done = wait => Some(done),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoint(target: &Target) -> &str {
    target.url.trim_end_matches('/')
}

/// One limiter per endpoint; if several judges use the same endpoint, the strictest limits apply.
fn limiters(members: &[Member<'_>]) -> BTreeMap<String, Arc<Limiter>> {
    let mut limits: BTreeMap<String, JudgeLimits> = BTreeMap::new();
    for member in members {
        let own = &member.spec.limits;
        let all = limits.entry(endpoint(member.target).to_owned()).or_insert_with(|| own.clone());
        let least = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
        all.concurrency = all.concurrency.min(own.concurrency);
        all.requests_per_minute = least(all.requests_per_minute, own.requests_per_minute);
        all.tokens_per_minute = least(all.tokens_per_minute, own.tokens_per_minute);
    }
    limits.into_iter().map(|(endpoint, limits)| (endpoint, Arc::new(Limiter::new(&limits)))).collect()
}
