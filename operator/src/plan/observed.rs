//! What is observed of a resource, and what can be decided about it. Types only.

use std::time::Duration;

use plumbline_crds::Spec;
use plumbline_crds::conditions::Reason;
use plumbline_crds::run::StageResult;
use plumbline_crds::status::{ArtifactRef, InputRef, JobRef, Status};

/// What was observed of one resource.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// What is wanted.
    pub spec: &'a Spec,
    /// Generation of the spec.
    pub generation: i64,
    /// Status as last written; the default before it was written once.
    pub previous: &'a Status,
    /// What the spec's references resolve to.
    pub inputs: &'a Inputs,
    /// The run that `previous.job` names.
    pub run: &'a Run,
    /// That run as the cluster counts its attempts; none where the counting is done here.
    pub job: Option<&'a JobRef>,
    /// Start of the run's name: names must differ where runs of several resources share a directory or namespace.
    pub base_name: &'a str,
    /// What is wrong with the spec: it must not be run.
    pub problems: &'a [String],
    /// What was found where the artifact belongs.
    pub artifact: Artifact,
    /// Whether the process that acts is about to end and must leave nothing running.
    pub stopping: bool,
    /// What starts finished work again.
    pub rerun: Rerun,
}

/// The inputs of a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// All are there.
    Ready(Vec<InputRef>),
    /// Some resources do not exist: `Kind/name` of each.
    NotFound(Vec<String>),
    /// Some resources exist and have no artifact yet: `Kind/name` of each.
    NotReady(Vec<String>),
    /// They were not observed: the spec must not be run.
    Unknown,
}

/// A run as it stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    /// Nothing runs and nothing is known of an end.
    None,
    /// It runs, or is about to: what keeps it from running, if anything does.
    Running(Option<Obstacle>),
    /// It is over, and what is left of it is being ended: then it can be told how.
    Ending,
    /// It was stopped and is not gone yet. Nothing may start beside it.
    Stopping,
    /// It ended since it was observed last.
    Ended(Box<End>),
}

/// What keeps a run that was started from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// In a word.
    pub reason: Reason,
    /// In a sentence.
    pub message: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// How the process ended.
    pub exit: Exit,
    /// What it left to say.
    pub result: Option<StageResult>,
    /// It was retried as often as is allowed, and is not retried again.
    pub last: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with a code (see [`ExitCode`]).
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// What was found where the artifact belongs.
#[derive(Clone, Debug, PartialEq)]
pub enum Artifact {
    /// It cannot be looked at from here; the status is trusted.
    Unseen,
    /// Nothing complete.
    Absent,
    /// A complete artifact that matches its manifest.
    Verified(ArtifactRef),
    /// An artifact that does not match its manifest, and how.
    Mismatch(String),
}

/// What starts finished work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerun {
    /// Only a changed spec: a controller reconciles a resource over and over, unasked.
    SpecChange,
    /// A user asked just now: a changed input makes a new run, a failed run is tried again, a missing artifact is
    /// made again.
    Asked,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something changes.
    Wait,
    /// Start a new run.
    Start,
    /// Start the same run again from where it stopped, after a delay.
    Continue(Duration),
    /// Start the same run again after a failure and a delay.
    Retry(Duration),
    /// Nothing but observe: it runs.
    Watch,
    /// Stop what runs, so that it can continue later.
    Stop,
    /// Record the end of a run that succeeded.
    Finish,
    /// Nothing: what is wanted is there.
    Skip,
    /// Nothing: it failed and stays so.
    Fail,
}

/// Where a resource stands, in the terms of its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for something else.
    Waiting,
    /// Is being made, or is about to.
    Active,
    /// Holds nothing until it is resumed.
    Suspended,
    /// Made and verified.
    Done,
    /// Failed, and will not recover without a change.
    Failed,
    /// It succeeded, but what is found in its place is another artifact, or none.
    ArtifactMismatch,
}

/// What to do and what to say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Where the resource stands.
    pub phase: Phase,
    /// Why, in a word.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
    /// The run that this speaks of, with attempts and retries counted.
    pub job: JobRef,
    /// The inputs whose digests changed since the artifact was made: their roles.
    pub outdated: Vec<String>,
}
