//! How a stage fails. Each variant is one exit code; the message says what was expected, what was found, and what to
//! do.

use std::io;
use std::path::{Path, PathBuf};

use plumbline_crds::artifact::ArtifactError;
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
    #[error("{}: {source}{}", path.display(), disk_advice(source))]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An input's artifact is incomplete, broken or altered.
    #[error(transparent)]
    Artifact(ArtifactError),
    /// The same, with the location in front of it.
    #[error("{place}: {source}")]
    Within {
        /// The field, or the resource.
        place: String,
        /// What happened there.
        source: Box<Error>,
    },
    /// The accelerator ran out of memory.
    #[error("{0}")]
    AcceleratorOutOfMemory(String),
    /// A quality gate was not met.
    #[error("{0}")]
    Gate(String),
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
            Self::Data(_) | Self::Artifact(_) => ExitCode::Data,
            Self::JudgeUnavailable(_) => ExitCode::JudgeUnavailable,
            Self::JudgeRejected(_) => ExitCode::JudgeRejected,
            Self::BudgetExhausted(_) => ExitCode::BudgetExhausted,
            Self::Store(_) | Self::Disk { .. } => ExitCode::StoreUnavailable,
            Self::AcceleratorOutOfMemory(_) => ExitCode::AcceleratorOutOfMemory,
            Self::Gate(_) => ExitCode::GateFailed,
            Self::NoProgress(_) => ExitCode::NoProgress,
            Self::PeerLost(_) => ExitCode::PeerLost,
            Self::Interrupted => ExitCode::Interrupted,
            Self::Failed(_) => ExitCode::Failed,
            Self::Within { source, .. } => source.exit_code(),
        }
    }

    /// The same error, with the location in front of its message. What is no fault of a place, such as an interruption, stays
    /// as it is.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        let at = |message: String| format!("{place}: {message}");
        match self {
            Self::Config(message) => Self::Config(at(message)),
            Self::Data(message) => Self::Data(at(message)),
            Self::Store(message) => Self::Store(at(message)),
            Self::Disk { .. } | Self::Artifact(_) => Self::Within { place: place.to_owned(), source: Box::new(self) },
            other => other,
        }
    }

    /// An error of reading or writing a local file.
    pub fn disk(path: &Path, source: io::Error) -> Self {
        Self::Disk { path: path.to_owned(), source }
    }
}

/// What to do about a file that cannot be read or written.
fn disk_advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => "; free space there and run again to resume",
        PermissionDenied | ReadOnlyFilesystem => "; check its owner, permissions and mount",
        _ => "",
    }
}

impl From<ArtifactError> for Error {
    fn from(error: ArtifactError) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput};
        match error {
            // It is not the disk's fault that a pipe or something without an end is there.
            ArtifactError::Io { path, source }
                if !matches!(source.kind(), FileTooLarge | InvalidData | InvalidInput) =>
            {
                Self::Disk { path, source }
            }
            other => Self::Artifact(other),
        }
    }
}
