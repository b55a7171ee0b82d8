//! Negative log-likelihood of the chosen response, for use beside another loss, which may lower the likelihood of both
//! responses (Pang et al., 2024, arXiv:2404.19733, eq. 1; `cpo_alpha` of Xu et al., 2024).
//!
//! Each pair has the mean over its tokens. TRL's is the mean over all tokens of a micro-batch, in which long responses weigh
//! more.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `-chosen`. `mean_logps`: log-probabilities per token.
pub(super) fn sft(mean_logps: &Sides) -> Tensor {
    -&mean_logps.chosen
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::assert_golden;

    #[test]
    fn sft_is_the_mean_over_the_tokens_of_chosen() {
        // -pc / nc
        assert_golden(DpoLoss::Sft, &[3.0, 2.5]);
    }
}
