//! The three kinds as one, for an API server. Computes only.

use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use plumbline_crds::Kind;
use plumbline_crds::policy_tuning::PolicyTuning;
use plumbline_crds::preference_dataset::PreferenceDataset;
use plumbline_crds::reward_model::RewardModel;

/// What the API server calls a kind.
pub fn api_resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::PreferenceDataset => ApiResource::erase::<PreferenceDataset>(&()),
        Kind::RewardModel => ApiResource::erase::<RewardModel>(&()),
        Kind::PolicyTuning => ApiResource::erase::<PolicyTuning>(&()),
    }
}

/// The objects of a kind in a namespace, as JSON: one that this version cannot read must not stop the others.
pub fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &api_resource(kind))
}

/// A type that is one of the kinds.
pub trait OfKind {
    /// The kind.
    const KIND: Kind;
}

impl OfKind for PreferenceDataset {
    const KIND: Kind = Kind::PreferenceDataset;
}

impl OfKind for RewardModel {
    const KIND: Kind = Kind::RewardModel;
}

impl OfKind for PolicyTuning {
    const KIND: Kind = Kind::PolicyTuning;
}
