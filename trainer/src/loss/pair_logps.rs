//! What losses of preference pairs are functions of.

use tch::Tensor;

/// Log-probabilities of the responses of pairs, summed over their tokens, in nats. Every tensor is `[pairs]`.
pub struct PairLogps {
    /// Under the policy, with gradients.
    pub policy: Sides,
    /// Under the reference model, without.
    pub reference: Sides,
    /// Tokens of each response.
    pub lengths: Sides,
}

/// A value of each side of pairs.
pub struct Sides {
    /// Of the chosen responses.
    pub chosen: Tensor,
    /// Of the rejected responses.
    pub rejected: Tensor,
}

impl PairLogps {
    /// Log-ratios of policy to reference.
    pub fn logratios(&self) -> Sides {
        Sides {
            chosen: &self.policy.chosen - &self.reference.chosen,
            rejected: &self.policy.rejected - &self.reference.rejected,
        }
    }
}
