//! How a stage fails. Each variant is one exit code; the message says what was expected, what was found, and what to
//! do.

use plumbline_crds::exit_code::ExitCode;

/// A stage's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the run document is wrong.
    #[error("{0}")]
    Config(String),
    /// Input data is broken, incomplete or does not match its digest.
    #[error("{0}")]
    Data(String),
    /// A judge does not respond.
    #[error("{0}")]
    JudgeUnavailable(String),
    /// A judge rejects requests: key, quota, model or protocol.
    #[error("{0}")]
    JudgeRejected(String),
    /// The labelling budget is spent.
    #[error("{0}")]
    BudgetExhausted(String),
    /// A store, hub or server does not respond.
    #[error("{0}")]
    Store(String),
    /// A local file or directory cannot be read or written: retrying at once does not help.
    #[error("{0}")]
    Disk(String),
    /// The accelerator ran out of memory.
    #[error("{0}")]
    AcceleratorOutOfMemory(String),
    /// A quality gate was not met.
    #[error("{0}")]
    Gate(String),
    /// A guard against reward hacking stopped the run.
    #[error("{0}")]
    RewardHacking(String),
    /// The stage stalled.
    #[error("{0}")]
    NoProgress(String),
    /// Another process that trains the same model was lost.
    #[error("{0}")]
    PeerLost(String),
    /// Interrupted after saving its progress.
    #[error("interrupted; run again to resume")]
    Interrupted,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A stage's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The exit code of the contract.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::Config,
            Self::Data(_) => ExitCode::Data,
            Self::JudgeUnavailable(_) => ExitCode::JudgeUnavailable,
            Self::JudgeRejected(_) => ExitCode::JudgeRejected,
            Self::BudgetExhausted(_) => ExitCode::BudgetExhausted,
            Self::Store(_) | Self::Disk(_) => ExitCode::StoreUnavailable,
            Self::AcceleratorOutOfMemory(_) => ExitCode::AcceleratorOutOfMemory,
            Self::Gate(_) => ExitCode::GateFailed,
            Self::RewardHacking(_) => ExitCode::RewardHacking,
            Self::NoProgress(_) => ExitCode::NoProgress,
            Self::PeerLost(_) => ExitCode::PeerLost,
            Self::Interrupted => ExitCode::Interrupted,
            Self::Failed(_) => ExitCode::Failed,
        }
    }

    /// The same error, with the location in front of its message.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        let at = |message: String| format!("{place}: {message}");
        match self {
            Self::Config(message) => Self::Config(at(message)),
            Self::Data(message) => Self::Data(at(message)),
            Self::Store(message) => Self::Store(at(message)),
            Self::Disk(message) => Self::Disk(at(message)),
            other => other,
        }
    }

    /// An error of reading or writing our own files.
    pub fn store(path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let advice = match error.kind() {
            StorageFull | QuotaExceeded => "; free space there and run again to resume",
            PermissionDenied | ReadOnlyFilesystem => "; check its owner, permissions and mount",
            _ => "",
        };
        Self::Disk(format!("{}: {error}{advice}", path.display()))
    }
}

impl From<plumbline_crds::artifact::ArtifactError> for Error {
    fn from(error: plumbline_crds::artifact::ArtifactError) -> Self {
        use plumbline_crds::artifact::ArtifactError as A;
        use std::io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput};
        match &error {
            // It is not the disk's fault that a pipe or something without an end is there.
            A::Io { source, .. } if matches!(source.kind(), FileTooLarge | InvalidData | InvalidInput) => {
                Self::Data(error.to_string())
            }
            A::Io { path, source } => Self::store(path, source),
            _ => Self::Data(error.to_string()),
        }
    }
}
