//! The results of `reward`, as numbers and as a report. Reads the reports of its inputs.

use std::collections::BTreeMap;
use std::path::Path;

use plumbline_crds::Kind;
use plumbline_crds::reward_model::RewardModelSpec;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::report::{MetricsWriter, Number, Report, Section};

use crate::Result;
use crate::stage::reward::{Data, Evaluated};

impl Evaluated {
    /// The numbers under stable names; those measured on training pairs begin with `train_`.
    pub(super) fn numbers(&self) -> Vec<(String, f64)> {
        let c = &self.measured;
        let of_pairs = [
            ("accuracy", c.accuracy),
            ("log_loss", c.log_loss),
            ("calibration_error", c.ece),
            ("pairs", c.pairs as f64),
            ("length_correlation", self.length_correlation),
        ];
        let split = if self.held_out { "" } else { "train_" };
        let mut numbers: Vec<(String, f64)> =
            of_pairs.into_iter().map(|(name, value)| (format!("{split}{name}"), value)).collect();
        numbers.extend(self.reference.map(|(accuracy, _)| ("reference_accuracy".to_owned(), accuracy)));
        numbers
    }
}

/// Builds the report of a run.
pub(super) fn report(
    run: &RunDocument,
    spec: &RewardModelSpec,
    data: &Data,
    found: &Evaluated,
    metrics: &MetricsWriter,
    seconds: &BTreeMap<String, f64>,
) -> Result<Report> {
    let name = &run.resource.metadata.name;
    let mut report = Report::new(Kind::RewardModel, name, format!("Reward model {name}"));
    report.card.base_model = Some(spec.base_model.uri.clone());
    report.fact("Base model", &spec.base_model.uri);
    report.fact("Preference data", spec.dataset_ref.as_ref().map_or("a file", |r| &r.name));
    report.fact("Loss", "Bradley-Terry on the judge's probabilities; a scalar head on the last token of a response");
    for (name, value) in found.numbers() {
        report.number(name, value);
    }
    let c = &found.measured;
    let (title, split) = if found.held_out {
        ("Held-out results", "held-out pairs")
    } else {
        ("Results on the training pairs", "training pairs (the data has no validation split)")
    };
    if !found.held_out {
        report.sections.push(Section::Notice {
            title: "Nothing was held out".into(),
            text: "The data has no validation split, so the model was measured on its training pairs. The numbers do \
                   not show how well it judges other pairs."
                .into(),
        });
    }
    let mut rows = vec![
        Number::new("Accuracy against the judge", c.accuracy)
            .percent()
            .reference(0.5)
            .note(format!("{} {split}", c.pairs)),
        Number::new("Log-loss", c.log_loss).reference(std::f64::consts::LN_2).note(
            "nats per pair; ln 2 is the loss \
                                                                                    of knowing nothing",
        ),
        Number::new("Calibration error", c.ece).note("expected, 10 bins of equal mass"),
        Number::new("Correlation with length", found.length_correlation)
            .reference(0.0)
            .note("of the score difference with the difference in tokens"),
    ];
    if let Some((accuracy, texts)) = found.reference {
        rows.push(
            Number::new("Accuracy on reference labels", accuracy)
                .percent()
                .reference(0.5)
                .note(format!("{texts} labelled texts, split at the median score")),
        );
    }
    report.sections.push(Section::Numbers { title: title.into(), rows });
    data.left_out().show(&mut report, &format!("Longer than {} tokens is too long.", data.longest));
    let history = metrics.history()?;
    report.sections.extend(Section::curves("Loss", "nats per pair", &history, &["loss"]));
    report.sections.extend(Section::curves("Accuracy", "share of pairs", &history, &["accuracy"]));
    report.timings(seconds);
    if let Some(input) = run.input("datasetRef") {
        report.upstream.extend(Report::read(Path::new(&input.path))?);
    }
    Ok(report)
}
