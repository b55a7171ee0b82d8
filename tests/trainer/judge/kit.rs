//! Planted comparisons, and a judge to ask about them.

use std::path::Path;

use plumbline_crds::preference_dataset::{Budget, Order};
use plumbline_crds::run::RunDocument;
use plumbline_crds::status::Cost;
use plumbline_feedback::Result;
use plumbline_feedback::data::Content;
use plumbline_feedback::judge::{Comparison, JudgeOptions, JudgeRuntime, Judgements, judge};
use serde_json::{Value, json};

/// A judge at `url`, with more of its spec.
pub(crate) fn runtime(url: &str, more: &Value) -> JudgeRuntime {
    numbered(0, url, more)
}

/// As [`runtime`], in the place `spec.judges[i]`.
pub(crate) fn numbered(i: usize, url: &str, more: &Value) -> JudgeRuntime {
    let mut judge = json!({"name": "sim", "endpoint": {"url": url, "model": "planted"}, "limits": {"concurrency": 4}});
    for (key, value) in more.as_object().unwrap() {
        judge[key] = value.clone();
    }
    let run: RunDocument = serde_json::from_value(json!({
        "resource": {"apiVersion": "plumbline.dev/v1alpha1", "kind": "PreferenceDataset", "metadata": {"name": "d"},
            "spec": {"prompts": {"inline": ["p"]}, "judges": [judge]}},
        "inputs": [], "output": "", "work": "",
    }))
    .unwrap();
    JudgeRuntime::resolve(&serde_json::from_value(judge).unwrap(), &format!("judges[{i}]"), &run).unwrap()
}

/// Prompts and pairs of responses with planted qualities, a standard normal times 1.5 apart.
pub(crate) struct Planted {
    prompts: Vec<Content>,
    texts: Vec<[String; 2]>,
    pub(crate) differences: Vec<f64>,
}

pub(crate) fn planted(n: usize) -> Planted {
    let mut all = Planted { prompts: Vec::new(), texts: Vec::new(), differences: Vec::new() };
    for i in 0..n {
        // The quantiles of the distribution in a scrambled order: no sampling noise.
        let rank = (i * 7919 + 13) % n;
        let difference = 1.5 * normal_quantile((rank as f64 + 0.5) / n as f64);
        all.prompts.push(Content::Text(format!("prompt {i}")));
        all.texts.push([difference / 2.0, -difference / 2.0].map(|q| format!("answer {i} quality={q:.6}")));
        all.differences.push(difference);
    }
    all
}

/// By bisection of the distribution function, which is integrated numerically.
fn normal_quantile(p: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let distribution = |x: f64| {
        let steps = 400;
        let h = x / f64::from(steps);
        0.5 + h * (0..steps).map(|i| density(h * (f64::from(i) + 0.5))).sum::<f64>()
    };
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if distribution(middle) < p { low = middle } else { high = middle }
    }
    low
}

impl Planted {
    pub(crate) fn items(&self) -> Vec<Comparison<'_>> {
        let pairs = self.prompts.iter().zip(&self.texts);
        pairs.map(|(prompt, [a, b])| Comparison { prompt, response_a: a, response_b: b }).collect()
    }
}

pub(crate) fn quiet() -> impl FnMut(usize, usize, &Cost) -> Result<()> {
    |_, _, _| Ok(())
}

pub(crate) fn ask(url: &str, more: &Value, planted: &Planted, order: &Order, journal: &Path) -> Result<Judgements> {
    within(
        &runtime(url, more),
        planted,
        JudgeOptions { journal, order, budget: &Budget::default(), progress: &mut quiet() },
    )
}

/// One judge on its own.
pub(crate) fn within(runtime: &JudgeRuntime, planted: &Planted, options: JudgeOptions<'_>) -> Result<Judgements> {
    Ok(judge(std::slice::from_ref(runtime), &planted.items(), options)?.judges.remove(0))
}

pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
