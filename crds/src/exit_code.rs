//! The trainer's exit codes: a contract with whatever runs it.

use crate::conditions::Reason;

/// How a trainer process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The stage is done and its artifact complete.
    Done = 0,
    /// An error without a name of its own.
    Failed = 1,
    /// The command line or the run document is wrong. Trying again does not help.
    Config = 2,
    /// Input data is broken, incomplete or does not match its digest.
    Data = 3,
    /// A judge does not answer. Trying again later helps.
    JudgeUnavailable = 4,
    /// The artifact store does not answer. Trying again later helps.
    StoreUnavailable = 5,
    /// The accelerator ran out of memory.
    AcceleratorOutOfMemory = 6,
    /// A judge refuses: key, quota, model or protocol.
    JudgeRejected = 7,
    /// The labelling budget is spent.
    BudgetExhausted = 8,
    /// A quality gate was not met.
    GateFailed = 9,
    /// A guard against reward hacking stopped the run.
    RewardHacking = 10,
    /// The stage stood still and was ended. Trying again continues from its last checkpoint.
    NoProgress = 11,
    /// Another of the processes that train together was lost. Trying all again continues from the last checkpoint.
    PeerLost = 12,
    /// Stopped by SIGTERM or SIGINT after making progress safe. Trying again continues.
    Interrupted = 75,
}

impl ExitCode {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Done,
        Self::Failed,
        Self::Config,
        Self::Data,
        Self::JudgeUnavailable,
        Self::StoreUnavailable,
        Self::AcceleratorOutOfMemory,
        Self::JudgeRejected,
        Self::BudgetExhausted,
        Self::GateFailed,
        Self::RewardHacking,
        Self::NoProgress,
        Self::PeerLost,
        Self::Interrupted,
    ];

    /// The named exit code for a number, if there is one.
    pub fn from_number(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as i32 == code)
    }

    /// The number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The reason that a status gives for this end.
    pub fn reason(self) -> Reason {
        match self {
            Self::Done => Reason::Completed,
            Self::Failed => Reason::TrainerFailed,
            Self::Config => Reason::TrainerConfigRejected,
            Self::Data => Reason::DataInvalid,
            Self::JudgeUnavailable => Reason::JudgeUnavailable,
            Self::StoreUnavailable => Reason::ArtifactUploadFailed,
            Self::AcceleratorOutOfMemory => Reason::AcceleratorOutOfMemory,
            Self::JudgeRejected => Reason::JudgeRejected,
            Self::BudgetExhausted => Reason::BudgetExhausted,
            Self::GateFailed => Reason::GateFailed,
            Self::RewardHacking => Reason::RewardHackingSuspected,
            Self::NoProgress => Reason::NoProgress,
            Self::PeerLost => Reason::PeerLost,
            Self::Interrupted => Reason::Suspended,
        }
    }

    /// Whether running the same thing again can end differently.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::Failed
                | Self::JudgeUnavailable
                | Self::StoreUnavailable
                | Self::NoProgress
                | Self::PeerLost
                | Self::Interrupted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_number() {
        for code in ExitCode::ALL {
            assert_eq!(ExitCode::from_number(i32::from(code.number())), Some(code));
        }
        assert_eq!(ExitCode::from_number(137), None);
    }
}
