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
    /// Status as last written; the default before the first visit.
    pub previous: &'a Status,
    /// What the spec's references resolve to.
    pub inputs: Inputs,
    /// The run that `previous.job` names.
    pub run: Run,
    /// What whoever counts attempts elsewhere says of that run; none where the counting is done here.
    pub job: Option<JobRef>,
    /// What begins the name of a run: names must not meet where runs of several resources stand side by side.
    pub base_name: &'a str,
    /// What is wrong with the spec: it must not be run.
    pub problems: &'a [String],
    /// What lies where the artifact belongs.
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
    /// Nobody looked: the spec must not be run.
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
    /// It ended since the last visit.
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
    /// Whoever ran it has tried again as often as that was allowed.
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

/// What lies where the artifact belongs.
#[derive(Clone, Debug, PartialEq)]
pub enum Artifact {
    /// It cannot be looked at from here; the status is trusted.
    Unseen,
    /// Nothing complete.
    Absent,
    /// A complete artifact that matches its manifest.
    Verified(ArtifactRef),
    /// An artifact that does not match its manifest, and how.
    Altered(String),
}

/// What starts finished work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerun {
    /// Only a changed spec: a controller sees a resource over and over, unasked.
    SpecChange,
    /// Somebody asked just now: a changed input makes a new run, a failed run is tried again, a missing artifact is
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
    /// Nothing but look on: it runs.
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
    /// Failed, and will not heal by itself.
    Failed,
    /// Made once, but what lies there is not it any more.
    Spoilt,
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
