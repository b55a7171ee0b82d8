//! What a resource is made from: every model, dataset and file that its spec names, by role. Computes only.
//!
//! A role is the path of the spec field that names the input, without `spec.`: `judges[0].model`, `rewardModelRef`.

use plumbline_crds::hub;
use plumbline_crds::judge::Judge;
use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::preference_dataset::PreferenceDatasetSpec;
use plumbline_crds::reward_model::RewardModelSpec;
use plumbline_crds::source::{ModelSource, NameRef, PromptSource};
use plumbline_crds::training::Precision;
use plumbline_crds::{Kind, Spec};

/// An input that a spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The spec field that names it.
    pub role: String,
    /// Where it comes from.
    pub from: From,
    /// What has to be there.
    pub shape: Shape,
}

impl Wanted {
    /// Path of the spec field that holds the name or URI (`spec.baseModel.uri`).
    pub fn path(&self) -> String {
        match &self.from {
            From::Resource { .. } => format!("spec.{}.name", self.role),
            From::Uri(_) => format!("spec.{}.uri", self.role),
            From::ConfigMap { .. } => format!("spec.{}.configMapRef", self.role),
        }
    }
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// The artifact of another resource.
    Resource {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// A file or folder; on the hub with its revision.
    Uri(String),
    /// A key of a ConfigMap.
    ConfigMap {
        /// Name of the ConfigMap.
        name: String,
        /// Key in its data.
        key: String,
    },
}

/// What an input has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// Either.
    FileOrFolder,
}

/// Every input that a spec names, in the order of its fields.
pub fn wanted(spec: &Spec) -> Vec<Wanted> {
    let mut list = List(Vec::new());
    match spec {
        Spec::PreferenceDataset(spec) => dataset(spec, &mut list),
        Spec::RewardModel(spec) => reward(spec, &mut list),
        Spec::PolicyTuning(spec) => tuning(spec, &mut list),
    }
    list.0
}

/// The judges of a spec with the role of each (`judges[0]`, `evaluation.judge`).
pub fn judges(spec: &Spec) -> Vec<(String, &Judge)> {
    match spec {
        Spec::PreferenceDataset(spec) => {
            spec.judges.iter().enumerate().map(|(i, judge)| (format!("judges[{i}]"), judge)).collect()
        }
        Spec::RewardModel(_) => Vec::new(),
        Spec::PolicyTuning(spec) => {
            let judge = spec.evaluation.as_ref().and_then(|e| e.judge.as_ref());
            judge.map(|judge| ("evaluation.judge".to_owned(), judge)).into_iter().collect()
        }
    }
}

/// The number format that a judge is served in, as the trainer's command line writes it: that of the stage's own model.
pub fn judge_precision(spec: &Spec) -> &'static str {
    let precision = match spec {
        Spec::PreferenceDataset(spec) => spec.generator.as_ref().map(|g| g.precision).unwrap_or_default(),
        Spec::RewardModel(spec) => spec.training.precision,
        Spec::PolicyTuning(spec) => spec.training.precision,
    };
    match precision {
        Precision::Float32 => "float32",
        Precision::BFloat16 => "bfloat16",
    }
}

struct List(Vec<Wanted>);

impl List {
    fn uri(&mut self, role: impl Into<String>, shape: Shape, uri: Option<&String>) {
        self.0.extend(uri.map(|uri| Wanted { role: role.into(), from: From::Uri(uri.clone()), shape }));
    }

    /// A model with its revision, where it has one.
    fn model(&mut self, role: impl Into<String>, model: Option<&ModelSource>) {
        let uri = model.map(|m| match &m.revision {
            Some(revision) if m.uri.starts_with(hub::SCHEME) => format!("{}@{}", m.uri, revision.replace('/', "%2F")),
            _ => m.uri.clone(),
        });
        self.uri(role, Shape::Folder, uri.as_ref());
    }

    fn resource(&mut self, role: &str, kind: Kind, reference: Option<&NameRef>) {
        self.0.extend(reference.map(|r| Wanted {
            role: role.into(),
            from: From::Resource { kind, name: r.name.clone() },
            shape: Shape::Folder,
        }));
    }

    fn prompts(&mut self, role: &str, prompts: &PromptSource) {
        self.uri(role, Shape::FileOrFolder, prompts.uri.as_ref());
        self.0.extend(prompts.config_map_ref.as_ref().map(|r| Wanted {
            role: role.into(),
            from: From::ConfigMap { name: r.name.clone(), key: r.key.clone() },
            shape: Shape::File,
        }));
    }

    fn judge(&mut self, role: &str, judge: &Judge) {
        self.model(format!("{role}.model"), judge.model.as_ref());
        self.uri(format!("{role}.lexicon"), Shape::File, judge.lexicon.as_ref().map(|l| &l.uri));
    }
}

fn dataset(spec: &PreferenceDatasetSpec, list: &mut List) {
    list.prompts("prompts", &spec.prompts);
    let model = spec.generator.as_ref().and_then(|g| g.model.as_ref());
    list.model("generator.model", model);
    for (i, judge) in spec.judges.iter().enumerate() {
        list.judge(&format!("judges[{i}]"), judge);
    }
}

fn reward(spec: &RewardModelSpec, list: &mut List) {
    list.resource("datasetRef", Kind::PreferenceDataset, spec.dataset_ref.as_ref());
    list.uri("dataset", Shape::FileOrFolder, spec.dataset.as_ref().map(|d| &d.uri));
    list.model("baseModel", Some(&spec.base_model));
    list.uri("referenceLabels", Shape::FileOrFolder, spec.reference_labels.as_ref().map(|d| &d.uri));
}

fn tuning(spec: &PolicyTuningSpec, list: &mut List) {
    list.model("policyModel", Some(&spec.policy_model));
    list.resource("rewardModelRef", Kind::RewardModel, spec.reward_model_ref.as_ref());
    list.resource("datasetRef", Kind::PreferenceDataset, spec.dataset_ref.as_ref());
    list.uri("dataset", Shape::FileOrFolder, spec.dataset.as_ref().map(|d| &d.uri));
    if let Some(prompts) = &spec.prompts {
        list.prompts("prompts", prompts);
    }
    list.model("dpo.referenceModel", spec.dpo.as_ref().and_then(|d| d.reference_model.as_ref()));
    if let Some(evaluation) = &spec.evaluation {
        list.prompts("evaluation.prompts", &evaluation.prompts);
        if let Some(judge) = &evaluation.judge {
            list.judge("evaluation.judge", judge);
        }
        for (i, lexicon) in evaluation.lexicons.iter().enumerate() {
            list.uri(format!("evaluation.lexicons[{i}]"), Shape::File, Some(&lexicon.uri));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn roles_are_spec_paths_in_the_order_of_the_fields() {
        let spec = Spec::from_json(
            Kind::PolicyTuning,
            json!({"method": "PPO", "policyModel": {"uri": "m"}, "rewardModelRef": {"name": "r"},
                   "prompts": {"inline": ["a"]},
                   "evaluation": {"prompts": {"uri": "p.txt"}, "judge": {"name": "j", "model": {"uri": "jm"}},
                                  "lexicons": [{"name": "a", "uri": "a.txt"}, {"name": "b", "uri": "b.txt"}]}}),
        )
        .unwrap();
        let paths: Vec<String> = wanted(&spec).iter().map(Wanted::path).collect();
        assert_eq!(
            paths,
            [
                "spec.policyModel.uri",
                "spec.rewardModelRef.name",
                "spec.evaluation.prompts.uri",
                "spec.evaluation.judge.model.uri",
                "spec.evaluation.lexicons[0].uri",
                "spec.evaluation.lexicons[1].uri",
            ]
        );
        assert_eq!(judges(&spec)[0].0, "evaluation.judge");
    }
}
