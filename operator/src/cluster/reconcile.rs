//! One visit of one resource: observe, validate, plan, build, apply, status. The same for the three kinds, and the same
//! whether it is the first visit or the thousandth: what was done is read from the cluster, never remembered.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::runtime::controller::Action as Next;
use plumbline_crds::Resource;
use plumbline_crds::conditions::Reason;
use plumbline_crds::status::{InputRef, JobRef};

use super::apply::{self, Made};
use super::build::{self, Input, Request};
use super::context::Context;
use super::dependents::Id;
use super::observe::{self, Found, ObserveError, Seen, Work};
use super::outcome;
use super::places::Place;
use super::queue;
use super::record::{account, record, tell};
use super::settings::Settings;
use super::times::now;
use super::usage;
use crate::digest;
use crate::plan::{Action, Artifact, Decision, Inputs, Observed, Phase, Rerun, Run, plan};
use crate::status::status;

/// What was seen is not so any more: it is looked at again at once.
const CHANGED: Duration = Duration::from_millis(100);
/// What the API server refused may be allowed later.
const REFUSED: Duration = Duration::from_secs(30);
/// Something has to go first; its going is an event, unless it belonged to somebody else.
const IN_THE_WAY: Duration = Duration::from_secs(5);

/// Everything that a decision is made from.
pub(super) struct World {
    pub(super) seen: Seen,
    output: Option<Place>,
    found: Option<Found>,
    pub(super) work: Option<Work>,
    /// Jobs that visits have made which were cut short, and that are not what is wanted any more.
    unwanted: Vec<Job>,
    pub(super) run: Run,
    pub(super) job: Option<JobRef>,
    base_name: String,
    now: String,
}

/// Visits a resource.
pub async fn reconcile(context: &Context, id: &Id) -> Result<Next, ObserveError> {
    let Id { namespace, kind, name } = id;
    let seen = observe::resource(&context.client, &context.settings, *kind, namespace, name).await?;
    let Some(seen) = seen.filter(|s| !s.deleting) else {
        // Its children are owned by it: the cluster removes them. Outputs stay.
        context.dependents.set(id, BTreeSet::new());
        context.resources.remove(id);
        return Ok(Next::await_change());
    };
    // Before anything else is read: a change that is missed from now on is asked for by what is known of.
    context.resources.set(id, seen.previous.leading_reason());
    let output = output(&seen.resource, &context.settings);
    context.dependents.set(id, observe::referents(&seen.resource, output.as_ref()));
    let world = Box::pin(observe(context, id, seen, output)).await?;
    let inputs = world.inputs();
    let observed = Observed {
        spec: &world.seen.resource.spec,
        generation: world.seen.resource.metadata.generation.unwrap_or_default(),
        previous: &world.seen.previous,
        inputs,
        run: world.run.clone(),
        job: world.job.clone(),
        base_name: &world.base_name,
        problems: &world.seen.problems,
        artifact: Artifact::Unseen,
        stopping: false,
        rerun: Rerun::SpecChange,
    };
    let mut decision = plan(&observed);
    if starts(decision.action) && !observe::is_current(&context.client, &world.seen).await? {
        return Ok(Next::requeue(CHANGED));
    }
    for job in &world.unwanted {
        apply::stop(&context.client, namespace, job).await?;
    }
    let next = act(context, id, &world, &mut decision).await?;
    let mut status = status(&observed, &decision, &world.now);
    // A Job that is there when a run starts is of the run before.
    if decision.action != Action::Start {
        account(&mut status, &world);
    }
    let status = tell(context, &world, status);
    if !record(context, id, &world, status).await? {
        return Ok(Next::await_change());
    }
    // A run may be over whose Job would go on.
    let is_over =
        |job: &Job| matches!(world.run, Run::Ended(_)) && !outcome::is_finished(job) && !starts(decision.action);
    if let Some(work) = &world.work
        && (decision.action == Action::Stop || is_over(&work.job))
    {
        apply::stop(&context.client, namespace, &work.job).await?;
    }
    if matches!(decision.phase, Phase::Done | Phase::Failed | Phase::Spoilt)
        && let Some(work) = &world.work
    {
        apply::expire(&context.client, namespace, &work.job, context.settings.job_ttl_seconds).await?;
    }
    Ok(next)
}

/// Looks at everything that a decision about a resource is made from.
async fn observe(context: &Context, id: &Id, seen: Seen, output: Option<Place>) -> Result<World, ObserveError> {
    let base_name = build::base_name(id.kind, &id.name);
    let mut found = None;
    if let Some(output) = output.as_ref().filter(|_| seen.problems.is_empty()) {
        found = Some(observe::inputs(&context.client, &seen.resource, output).await?);
    }
    let (work, unwanted) = (None, Vec::new());
    let mut world = World { seen, output, found, work, unwanted, run: Run::None, job: None, base_name, now: now() };
    let (names, jobs) = (world.job_names(), observe::jobs(&context.client, &world.seen).await?);
    let place = |job: &Job| names.iter().position(|name| *name == job.name_any());
    let (named, others): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| place(job).is_some());
    if matches!(world.inputs(), Inputs::Ready(_)) {
        world.unwanted = others.into_iter().filter(|job| job.metadata.deletion_timestamp.is_none()).collect();
    }
    if let Some(job) = named.into_iter().min_by_key(place) {
        let work = observe::work(&context.client, &id.namespace, job, context.settings.kueue, &world.now).await?;
        let run = outcome::run(&work.job, &work.pods, work.refusal.as_deref());
        world.run = with_uri(queue::explained(run, work.workload.as_ref()), world.output.as_ref());
        let counted = usage::counted(&work.job, &work.pods, world.seen.previous.job.as_ref(), &world.now);
        world.job = Some(queue::counted(counted, work.workload.as_ref()));
        world.work = Some(work);
    }
    Ok(world)
}

/// Where the artifact of a resource goes.
fn output(resource: &Resource, settings: &Settings) -> Option<Place> {
    let uri = match (&resource.spec.output().uri, &settings.artifact_root) {
        (Some(uri), _) => uri.clone(),
        (None, Some(root)) => {
            let (plural, name) = (resource.kind.plural(), &resource.metadata.name);
            let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
            format!("{root}/{namespace}/{plural}/{name}")
        }
        (None, None) => return None,
    };
    Place::of_output(&uri).ok()
}

/// The pod knows its artifact by a path; everybody else by its URI.
fn with_uri(mut run: Run, output: Option<&Place>) -> Run {
    if let (Run::Ended(end), Some(output)) = (&mut run, output)
        && let Some(artifact) = end.result.as_mut().and_then(|r| r.artifact.as_mut())
    {
        artifact.uri = output.to_string();
    }
    run
}

impl World {
    /// The Jobs that may hold the run: the one that the status names, and the one that a visit which was cut short may have
    /// made.
    fn job_names(&self) -> Vec<String> {
        let recorded = self.seen.previous.job.as_ref().map(|job| job.name.clone());
        let wanted = match self.inputs() {
            Inputs::Ready(inputs) => Some(digest::run_name(&self.base_name, &self.seen.resource.spec, &inputs)),
            _ => None,
        };
        let mut names: Vec<String> = recorded.into_iter().chain(wanted).filter(|n| !n.is_empty()).collect();
        names.dedup();
        names
    }

    /// What is left of a pause that began when the last attempt ended. The status says at least once that its Job was let go.
    fn left_of(&self, pause: Duration) -> Duration {
        let left = self.work.as_ref().map_or(Duration::ZERO, |work| usage::left_of(pause, &work.job, &self.now));
        let is_let_go = self.job.as_ref().is_none_or(|job| job.uid.is_none());
        if is_let_go { left } else { left.max(CHANGED) }
    }

    /// Accelerator seconds of the run so far, as far as its Job can tell.
    pub(super) fn held(&self) -> Option<i64> {
        let work = self.work.as_ref()?;
        let previous = &self.seen.previous;
        let before = (previous.accelerator_seconds.unwrap_or(0), previous.job.as_ref());
        let held = usage::accelerator_seconds(&work.job, &work.pods, before, &self.now);
        Some(held.max(before.0))
    }

    fn inputs(&self) -> Inputs {
        match &self.found {
            None => Inputs::Unknown,
            Some(found) if !found.missing.is_empty() => Inputs::NotFound(found.missing.clone()),
            Some(found) if !found.unready.is_empty() => Inputs::NotReady(found.unready.clone()),
            Some(found) => Inputs::Ready(found.inputs.iter().map(lineage).collect()),
        }
    }
}

fn lineage(input: &Input) -> InputRef {
    InputRef { role: input.role.clone(), name: input.name.clone(), digest: input.digest.clone() }
}

fn starts(action: Action) -> bool {
    matches!(action, Action::Start | Action::Continue(_) | Action::Retry(_))
}

fn again(context: &Context) -> Next {
    Next::requeue(Duration::from_secs(context.settings.resync_seconds))
}

/// Does what was decided. What stands in the way of it goes into the decision.
async fn act(context: &Context, id: &Id, world: &World, decision: &mut Decision) -> Result<Next, ObserveError> {
    match decision.action {
        // A pod that cannot be made is no change that could be heard of.
        Action::Watch if world.work.as_ref().is_some_and(|w| outcome::may_lack_a_pod(&w.job, &w.pods)) => {
            Ok(Next::requeue(IN_THE_WAY))
        }
        Action::Watch if world.work.as_ref().is_some_and(|w| outcome::is_suspended(&w.job)) => {
            queued(context, id, world).await
        }
        // A Job is stopped when the status says so: then nobody else can have deleted it.
        Action::Wait | Action::Watch | Action::Stop => Ok(again(context)),
        Action::Finish | Action::Skip | Action::Fail => Ok(Next::await_change()),
        Action::Continue(pause) | Action::Retry(pause) if world.left_of(pause) > Duration::ZERO => {
            // What is counted stays counted, should the Job vanish meanwhile; no more is expected of it, and nothing runs yet.
            let job = &mut decision.job;
            (job.attempt, job.uid) = (job.attempt.saturating_sub(1), None);
            Ok(Next::requeue(world.left_of(pause)))
        }
        Action::Start | Action::Continue(_) | Action::Retry(_) => {
            forget_last(context, id, world, decision).await?;
            start(context, id, world, decision).await
        }
    }
}

/// A Job that waits in a queue. Whoever resumes it starts its deadline anew, so it is told what is left of it.
async fn queued(context: &Context, id: &Id, world: &World) -> Result<Next, ObserveError> {
    let Some(work) = &world.work else { return Ok(again(context)) };
    let deadline = world.seen.resource.spec.compute().deadline_seconds;
    if let (Some(deadline), Some(counted)) = (deadline, &world.job) {
        let left = deadline.saturating_sub(counted.active_seconds).max(1);
        apply::shorten(&context.client, &id.namespace, &work.job, left).await?;
    }
    if !context.settings.kueue {
        return Ok(again(context));
    }
    let patience = queue::patience(&work.job, work.workload.as_ref(), &world.now);
    Ok(Next::requeue(patience.min(Duration::from_secs(context.settings.resync_seconds))))
}

/// At most one Job of a resource exists: one that ended would otherwise be taken for the outcome of a later run of the same
/// name.
async fn forget_last(context: &Context, id: &Id, world: &World, decision: &Decision) -> Result<(), kube::Error> {
    if let Some(work) = &world.work {
        apply::forget(&context.client, &id.namespace, &work.job).await?;
    }
    if let Some(last) = world.seen.previous.job.as_ref().filter(|job| job.name != decision.job.name) {
        apply::forget_document(&context.client, &id.namespace, &last.name, &world.seen.uid).await?;
    }
    Ok(())
}

async fn start(context: &Context, id: &Id, world: &World, decision: &mut Decision) -> Result<Next, ObserveError> {
    let (Some(found), Some(output)) = (&world.found, &world.output) else { return Ok(again(context)) };
    let mut previous = world.seen.previous.job.clone().unwrap_or_default();
    if world.work.is_some() {
        // It is gone from here.
        previous.uid = None;
    }
    if let Some(pod) = observe::left_over(&context.client, &world.seen).await? {
        let what = format!("pod {pod} of the last run has not ended yet; this starts when it has");
        hold(decision, previous, Reason::Pending, what);
        return Ok(Next::requeue(IN_THE_WAY));
    }
    let cache = observe::cache(&context.client, &id.namespace, &context.settings, &found.inputs).await?;
    let children = build::children(&Request {
        resource: &world.seen.resource,
        uid: &world.seen.uid,
        job: &decision.job,
        // A new run counts from nothing, one that goes on counts on.
        accelerator_seconds: match decision.action {
            Action::Start => 0,
            _ => world.held().or(world.seen.previous.accelerator_seconds).unwrap_or(0),
        },
        inputs: &found.inputs,
        output,
        cache,
        settings: &context.settings,
    });
    match apply::make(&context.client, &id.namespace, &world.seen.uid, &children).await? {
        Made::Job(job) => {
            decision.job.uid.clone_from(&job.metadata.uid);
            Ok(again(context))
        }
        Made::InTheWay(what) => {
            hold(decision, previous, Reason::Pending, what);
            Ok(Next::requeue(IN_THE_WAY))
        }
        Made::Refused(why) => {
            hold(decision, previous, Reason::ChildCreationFailed, why);
            Ok(Next::requeue(REFUSED))
        }
    }
}

/// Nothing was started: the status must not say so.
fn hold(decision: &mut Decision, previous: JobRef, reason: Reason, message: String) {
    *decision =
        Decision { action: Action::Wait, phase: Phase::Active, reason, message, job: previous, outdated: Vec::new() };
}
