//! The inputs of pair losses.

use tch::Tensor;

/// Log-probabilities of the responses of pairs, summed over their tokens, in nats. Every tensor is `[pairs]`.
pub struct PairLogps {
    /// Under the policy, with gradients.
    pub policy: Sides,
    /// Under the reference model, without gradients.
    pub reference: Sides,
    /// Tokens of each response.
    pub lengths: Sides,
}

/// One value per side of a pair.
pub struct Sides {
    /// Of the chosen responses.
    pub chosen: Tensor,
    /// Of the rejected responses.
    pub rejected: Tensor,
}

impl PairLogps {
    /// Log-ratios of policy to reference, in nats.
    pub fn logratios(&self) -> Sides {
        Sides {
            chosen: &self.policy.chosen - &self.reference.chosen,
            rejected: &self.policy.rejected - &self.reference.rejected,
        }
    }
}
