//! The server's metrics, in Prometheus' text format. Label values come from closed lists. Computes.

use std::sync::Mutex;
use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramTimer, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use crate::generate::engine::Stats;
use crate::{Error, Result};

/// The server's metrics.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    refused_connections: IntCounter,
    seconds: HistogramVec,
    first_token: Histogram,
    step: Histogram,
    batch: Histogram,
    waiting: IntGauge,
    active: IntGauge,
    prompt_tokens: IntCounter,
    completion_tokens: IntCounter,
    reused_tokens: IntCounter,
    seen: Mutex<Stats>,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Result<Self> {
        Self::registered().map_err(|e| Error::Failed(format!("cannot register a metric: {e}")))
    }

    fn registered() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("plumbline_serve".into()), None)?;
        let seconds =
            [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0].to_vec();
        let batches = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0].to_vec();
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("requests_total", "Requests by route and status code; 499: the client disconnected."),
                &["route", "code"],
            )?,
            refused_connections: IntCounter::new(
                "connections_refused_total",
                "Connections closed because too many were open: new ones, or those idle for the longest time.",
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "request_seconds",
                    "Seconds from a request to the last byte of its reply, by route.",
                )
                .buckets(seconds.clone()),
                &["route"],
            )?,
            first_token: Histogram::with_opts(
                HistogramOpts::new("first_token_seconds", "Seconds from queueing a sequence to its first token.")
                    .buckets(seconds.clone()),
            )?,
            step: Histogram::with_opts(
                HistogramOpts::new(
                    "step_seconds",
                    "Duration of a step in seconds: prefill, and one token for each \
                                                    sequence.",
                )
                .buckets(seconds),
            )?,
            batch: Histogram::with_opts(
                HistogramOpts::new("batch_size", "Sequences sampled together in one step.").buckets(batches),
            )?,
            waiting: IntGauge::new("sequences_waiting", "Sequences in the queue.")?,
            active: IntGauge::new("sequences_active", "Sequences being sampled.")?,
            prompt_tokens: IntCounter::new("prompt_tokens_total", "Prompt tokens.")?,
            completion_tokens: IntCounter::new("completion_tokens_total", "Sampled tokens.")?,
            reused_tokens: IntCounter::new(
                "prefix_tokens_reused_total",
                "Prompt tokens that were not computed because another prompt has the same prefix.",
            )?,
            seen: Mutex::default(),
            registry,
        };
        metrics.registry.register(Box::new(metrics.requests.clone()))?;
        metrics.registry.register(Box::new(metrics.seconds.clone()))?;
        for histogram in [&metrics.first_token, &metrics.step, &metrics.batch] {
            metrics.registry.register(Box::new(histogram.clone()))?;
        }
        for gauge in [&metrics.waiting, &metrics.active] {
            metrics.registry.register(Box::new(gauge.clone()))?;
        }
        for counter in
            [&metrics.refused_connections, &metrics.prompt_tokens, &metrics.completion_tokens, &metrics.reused_tokens]
        {
            metrics.registry.register(Box::new(counter.clone()))?;
        }
        Ok(metrics)
    }

    /// Counts a request. `route` must come from a closed list.
    pub fn request(&self, route: &'static str, code: u16) {
        self.requests.with_label_values(&[route, &code.to_string()]).inc();
    }

    /// Counts a connection that was closed because there were too many.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// Measures the duration of a request until the timer is dropped.
    pub fn timer(&self, route: &'static str) -> HistogramTimer {
        self.seconds.with_label_values(&[route]).start_timer()
    }

    /// Records the time to the first token of a sequence.
    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    /// Records a step that sampled `batch` tokens.
    pub fn stepped(&self, took: Duration, batch: usize) {
        self.step.observe(took.as_secs_f64());
        if batch > 0 {
            self.batch.observe(batch as f64);
        }
    }

    /// Updates the sampler's counters and gauges. `stats` contains totals since the start.
    pub fn sampler(&self, stats: Stats) {
        self.waiting.set(stats.waiting as i64);
        self.active.set(stats.active as i64);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.prompt_tokens.inc_by(stats.prompt_tokens.saturating_sub(seen.prompt_tokens));
        self.completion_tokens.inc_by(stats.sampled_tokens.saturating_sub(seen.sampled_tokens));
        self.reused_tokens.inc_by(stats.prefix_tokens_reused.saturating_sub(seen.prefix_tokens_reused));
        *seen = stats;
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> Result<String> {
        let mut bytes = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut bytes)
            .map_err(|e| Error::Failed(format!("cannot write the metrics: {e}")))?;
        String::from_utf8(bytes).map_err(|e| Error::Failed(format!("cannot write the metrics: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samplers_totals_are_counted_once() {
        let metrics = Metrics::new().unwrap();
        let stats = |n| Stats {
            waiting: 3,
            active: 2,
            prefix_tokens_reused: n,
            prompt_tokens: 10 * n,
            sampled_tokens: 100 * n,
        };
        metrics.sampler(stats(1));
        metrics.sampler(stats(1));
        metrics.sampler(stats(3));
        let text = metrics.text().unwrap();
        for line in [
            "plumbline_serve_sequences_waiting 3",
            "plumbline_serve_sequences_active 2",
            "plumbline_serve_prefix_tokens_reused_total 3",
            "plumbline_serve_prompt_tokens_total 30",
            "plumbline_serve_completion_tokens_total 300",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in:\n{text}");
        }
    }
}
