//! Presents an evaluation as numbers, as report sections, and as `samples.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use plumbline_feedback::report::{Number, Sample, SampleScore, Section, decimal, status_name};
use serde_json::json;

use crate::stage::evaluate::{Evaluation, Measured};
use crate::{Error, Result};

/// Number of samples shown in a report; `samples.jsonl` contains all.
const SHOWN: usize = 12;

impl Evaluation {
    /// A one-line summary.
    pub fn headline(&self) -> String {
        match &self.win_rate {
            Some(w) => format!("win rate {:.3} ({:.3} to {:.3}) on {} prompts", w.rate, w.low, w.high, w.prompts),
            None => format!("KL {:.2} nats per response; no judge was asked", self.kl),
        }
    }

    /// The numbers under stable names: `before.vader`, `after.vader`, `win_rate`, `kl` ...
    pub fn numbers(&self) -> Vec<(String, f64)> {
        let mut numbers = vec![
            ("kl".to_owned(), self.kl),
            ("prompts".to_owned(), self.prompts.len() as f64),
            ("duplicate_prompts".to_owned(), self.duplicates as f64),
        ];
        if let Some(w) = &self.win_rate {
            numbers.extend([
                ("win_rate".to_owned(), w.rate),
                ("win_rate_low".to_owned(), w.low),
                ("win_rate_high".to_owned(), w.high),
                ("comparisons".to_owned(), w.comparisons as f64),
                ("failed_comparisons".to_owned(), w.failed as f64),
            ]);
        }
        numbers.extend(self.conflicts.map(|(_, conflicts)| ("conflicts".to_owned(), conflicts as f64)));
        for (side, measured) in [("before", &self.before), ("after", &self.after)] {
            numbers.extend(measured.numbers().into_iter().map(|(name, value)| (format!("{side}.{name}"), value)));
        }
        numbers
    }

    /// The numbers, formatted for a status.
    pub fn status(&self) -> BTreeMap<String, String> {
        self.numbers().into_iter().map(|(name, value)| (status_name(&name), decimal(value))).collect()
    }

    /// The sections of a report.
    pub fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section::Numbers { title: "Before and after".into(), rows: self.rows() }];
        if self.judge_shares_weights {
            sections.push(Section::Notice {
                title: "The judge and the policy share their weights".into(),
                text: "The judge of this evaluation is the model that was tuned. The win rate shows whether tuning \
                     moved the policy towards what this judge prefers, not whether people would agree. The measures \
                     that use no judge are the independent evidence."
                    .into(),
            });
        }
        if let Some((asked, conflicts)) = self.conflicts.filter(|(asked, conflicts)| 2 * conflicts > *asked) {
            sections.push(Section::Notice {
                title: "The judge follows the order more than the responses".into(),
                text: format!(
                    "In {conflicts} of {asked} comparisons its preference changes when the two responses are swapped. \
                     The win rate is then close to 50 % whatever the responses are, and is no evidence."
                ),
            });
        }
        let columns = vec!["measure".to_owned(), "before".to_owned(), "after".to_owned()];
        let mut rows = Vec::new();
        for ((name, before), (_, after)) in self.before.numbers().into_iter().zip(self.after.numbers()) {
            rows.push(vec![name.replace('_', " "), format!("{before:.3}"), format!("{after:.3}")]);
        }
        sections.push(Section::Table { title: "Measures".into(), columns, rows });
        sections.push(Section::Samples {
            title: "Samples".into(),
            columns: vec!["before".into(), "after".into()],
            rows: (0..self.prompts.len().min(SHOWN)).map(|p| self.sample(p)).collect(),
        });
        sections
    }

    /// Writes every prompt with its responses and scores.
    pub fn write_samples(&self, folder: &Path) -> Result<()> {
        let mut text = String::new();
        for (p, prompt) in self.prompts.iter().enumerate() {
            let line = json!({
                "prompt": prompt,
                "before": self.before.texts[p],
                "after": self.after.texts[p],
                "reward_before": self.before.rewards.as_ref().map(|r| &r[p]),
                "reward_after": self.after.rewards.as_ref().map(|r| &r[p]),
                "p_after_better": self.better.get(p),
            });
            text += &line.to_string();
            text.push('\n');
        }
        let path = folder.join("samples.jsonl");
        fs::write(&path, text).map_err(|e| Error::disk(&path, e))
    }

    fn rows(&self) -> Vec<Number> {
        let mut rows = Vec::new();
        if let Some(w) = &self.win_rate {
            let judge = self.judge.as_deref().unwrap_or_default();
            let failed = if w.failed > 0 {
                format!("; {} comparisons without a verdict are not counted", w.failed)
            } else {
                String::new()
            };
            rows.push(
                Number::new("Win rate against the starting model", w.rate)
                    .percent()
                    .interval(w.low, w.high)
                    .reference(0.5)
                    .note(format!("{} comparisons on {} prompts, judged by {judge}{failed}", w.comparisons, w.prompts)),
            );
        }
        for (name, before) in &self.before.lexicons {
            let after = self.after.lexicons.get(name).copied().unwrap_or(f64::NAN);
            rows.push(
                Number::new(format!("{name}, after"), after)
                    .reference(*before)
                    .note(format!("mean valence of the responses; before: {before:.3}")),
            );
        }
        rows.push(Number::new("KL divergence to the starting model", self.kl).note(
            "nats per response, on the tuned model's \
                                                                              responses",
        ));
        if let (Some(before), Some(after)) = (&self.before.diversity, &self.after.diversity) {
            rows.push(
                Number::new("Distinct word pairs, after", after.distinct_2)
                    .reference(before.distinct_2)
                    .note(format!("distinct bigrams as a share of all bigrams; before: {:.3}", before.distinct_2)),
            );
        }
        rows
    }

    fn sample(&self, p: usize) -> Sample {
        let first = |rewards: &Option<Vec<Vec<f64>>>| rewards.as_ref().and_then(|r| r[p].first().copied());
        let mut scores = Vec::new();
        if self.before.rewards.is_some() {
            scores.push(SampleScore {
                name: "reward".into(),
                values: vec![first(&self.before.rewards), first(&self.after.rewards)],
            });
        }
        if let Some(better) = self.better.get(p).and_then(|b| b.first().copied().flatten()) {
            scores.push(SampleScore { name: "p(better)".into(), values: vec![Some(1.0 - better), Some(better)] });
        }
        let text = |m: &Measured| m.texts[p].first().cloned().unwrap_or_default();
        Sample { prompt: self.prompts[p].to_text(), texts: vec![text(&self.before), text(&self.after)], scores }
    }
}

impl Measured {
    fn numbers(&self) -> Vec<(String, f64)> {
        let mut numbers: Vec<(String, f64)> = self.lexicons.iter().map(|(n, v)| (n.clone(), *v)).collect();
        if let Some(reward) = self.reward() {
            numbers.push(("reward".into(), reward));
        }
        if let Some(d) = &self.diversity {
            numbers.push(("distinct_2".into(), d.distinct_2));
            numbers.push(("repetition_rate".into(), d.repetition_rate));
        }
        numbers.push(("length".into(), self.length));
        numbers.push(("ended".into(), self.ended));
        numbers
    }
}
