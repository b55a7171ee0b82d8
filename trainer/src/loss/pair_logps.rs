//! The inputs of pair losses.

use tch::Tensor;

/// Log-probabilities of the responses of pairs, summed over their tokens, in nats. Every tensor is `[pairs]`.
pub struct PairLogps {
    /// Under the policy, with gradients.
    pub policy: Sides,
    /// Under the reference model, without gradients. None if no loss has a reference.
    pub reference: Option<Sides>,
    /// Tokens of each response, 1 or more.
    pub lengths: Sides,
}

/// One value per side of a pair.
pub struct Sides {
    /// Of the chosen responses.
    pub chosen: Tensor,
    /// Of the rejected responses.
    pub rejected: Tensor,
}

impl Sides {
    /// Chosen minus rejected, `[pairs]`.
    pub fn difference(&self) -> Tensor {
        &self.chosen - &self.rejected
    }
}

impl PairLogps {
    /// Log-ratios of policy to reference, in nats; log-probabilities under the policy if there is no reference.
    pub fn logratios(&self) -> Sides {
        match &self.reference {
            Some(reference) => Sides {
                chosen: &self.policy.chosen - &reference.chosen,
                rejected: &self.policy.rejected - &reference.rejected,
            },
            None => {
                Sides { chosen: self.policy.chosen.shallow_clone(), rejected: self.policy.rejected.shallow_clone() }
            }
        }
    }

    /// Sums over the tokens of responses, divided by the number of these tokens.
    pub fn per_token(&self, sums: &Sides) -> Sides {
        Sides { chosen: &sums.chosen / &self.lengths.chosen, rejected: &sums.rejected / &self.lengths.rejected }
    }
}
