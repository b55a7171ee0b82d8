//! The block `dpo` of a PolicyTuning: losses that learn from pairs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::ModelSource;
use crate::training::LabelKind;

/// The DPO family.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Dpo {
    /// Loss function. At most one of `loss` and `losses` may be set. Defaults to Sigmoid, the loss of Rafailov et al.
    /// (2023).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DpoLoss")]
    pub loss: Option<DpoLoss>,
    /// Several loss functions, whose weighted sum is minimised. All have the same `beta`, `labels` and
    /// `labelSmoothing`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["loss"]))]
    pub losses: Vec<WeightedLoss>,
    /// Strength of the regularisation towards the reference model; for Simpo, Orpo and Cpo, the scale of the
    /// log-probabilities. Defaults to 0.1.
    #[schemars(range(min = 0.0001, max = 100.0))]
    pub beta: f64,
    /// Assumed fraction of wrong labels: Sigmoid with it is conservative DPO. Robust and ExoPair read it, and the
    /// losses that accept `labels: Soft`. Defaults to 0.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub label_smoothing: f64,
    /// Target of the loss: Soft uses the judge's probability, Hard only which response is preferred. Sigmoid,
    /// SigmoidNorm, Ipo, ExoPair, SppoHard and Cpo accept Soft; Sft beside one of them does not read it. Defaults to
    /// Hard.
    pub labels: LabelKind,
    /// Lead that Simpo demands of the chosen response, after scaling by `beta`. Only Simpo reads it. Defaults to 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub simpo_gamma: Option<f64>,
    /// Temperature at which Discopop blends its two parts. Only Discopop reads it. Defaults to 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0001, max = 100.0))]
    pub discopop_tau: Option<f64>,
    /// Reference model, if it differs from `policyModel`. Losses without a reference do not read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_model: Option<ModelSource>,
}

impl Default for Dpo {
    fn default() -> Self {
        Self {
            loss: None,
            losses: Vec::new(),
            beta: 0.1,
            label_smoothing: 0.0,
            labels: LabelKind::Hard,
            simpo_gamma: None,
            discopop_tau: None,
            reference_model: None,
        }
    }
}

impl Dpo {
    /// The losses and their weights.
    pub fn losses(&self) -> Vec<WeightedLoss> {
        if self.losses.is_empty() {
            vec![WeightedLoss { loss: self.loss.unwrap_or_default(), weight: default_weight() }]
        } else {
            self.losses.clone()
        }
    }

    /// Whether a loss is among those that are minimised.
    pub fn has(&self, loss: DpoLoss) -> bool {
        self.losses().iter().any(|l| l.loss == loss)
    }

    /// Whether one of the losses compares the policy with a reference.
    pub fn uses_reference(&self) -> bool {
        self.losses().iter().any(|l| l.loss.uses_reference())
    }
}

/// A loss of a weighted sum.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedLoss {
    /// Loss function. Sft, the negative log-likelihood of the chosen response, is only for use with another loss.
    pub loss: DpoLoss,
    /// Factor of this loss in the sum. Defaults to 1.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0.0001, max = 1000.0))]
    pub weight: f64,
}

fn default_weight() -> f64 {
    1.0
}

/// Losses of the DPO family, by the names of TRL.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum DpoLoss {
    /// Rafailov et al., 2023.
    #[default]
    Sigmoid,
    /// Sigmoid on log-ratios per token.
    SigmoidNorm,
    /// Zhao et al., 2023 (`SLiC`).
    Hinge,
    /// Azar et al., 2023, on log-ratios per token.
    Ipo,
    /// Chowdhury et al., 2024.
    Robust,
    /// Ji et al., 2024.
    ExoPair,
    /// Chen et al., 2024.
    NcaPair,
    /// Jung et al., 2024.
    BcoPair,
    /// Wu et al., 2024.
    SppoHard,
    /// D'Oosterlinck et al., 2024.
    ApoZero,
    /// D'Oosterlinck et al., 2024.
    ApoDown,
    /// Lu et al., 2024.
    Discopop,
    /// Meng et al., 2024. Without a reference.
    Simpo,
    /// Hong et al., 2024. Without a reference.
    Orpo,
    /// Xu et al., 2024, its preference part. Without a reference.
    Cpo,
    /// Negative log-likelihood of the chosen response per token.
    Sft,
}

impl DpoLoss {
    /// Every loss.
    pub const ALL: [Self; 16] = [
        Self::Sigmoid,
        Self::SigmoidNorm,
        Self::Hinge,
        Self::Ipo,
        Self::Robust,
        Self::ExoPair,
        Self::NcaPair,
        Self::BcoPair,
        Self::SppoHard,
        Self::ApoZero,
        Self::ApoDown,
        Self::Discopop,
        Self::Simpo,
        Self::Orpo,
        Self::Cpo,
        Self::Sft,
    ];

    /// Whether it compares the policy with a reference.
    pub fn uses_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Orpo | Self::Cpo | Self::Sft)
    }

    /// Whether it is defined for a probability that the chosen response is better, and so also for a smoothed label.
    pub fn accepts_probabilities(self) -> bool {
        matches!(self, Self::Sigmoid | Self::SigmoidNorm | Self::Ipo | Self::ExoPair | Self::SppoHard | Self::Cpo)
    }

    /// Whether `labelSmoothing` acts on it.
    pub fn reads_label_smoothing(self) -> bool {
        self.accepts_probabilities() || self == Self::Robust
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dpo(value: serde_json::Value) -> Dpo {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn without_a_loss_it_is_sigmoid_with_weight_one() {
        let only = |loss| vec![WeightedLoss { loss, weight: 1.0 }];
        assert_eq!(dpo(json!({})).losses(), only(DpoLoss::Sigmoid));
        assert_eq!(dpo(json!({"loss": "Ipo"})).losses(), only(DpoLoss::Ipo));
        assert_eq!(dpo(json!({"losses": [{"loss": "Hinge"}]})).losses(), only(DpoLoss::Hinge));
    }

    #[test]
    fn one_loss_with_a_reference_is_enough_to_need_it() {
        assert!(dpo(json!({"losses": [{"loss": "Sft", "weight": 0.2}, {"loss": "Sigmoid"}]})).uses_reference());
        assert!(!dpo(json!({"losses": [{"loss": "Sft"}, {"loss": "Cpo"}]})).uses_reference());
        assert!(!dpo(json!({"loss": "Orpo"})).uses_reference());
    }
}
