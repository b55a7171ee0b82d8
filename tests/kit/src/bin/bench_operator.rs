//! `make bench-operator`: many PolicyTunings at once on a real API server. Prints the time until each has its Job and
//! until each is finished, the number of API requests per resource, and the operator's memory.

use std::fs;
use std::time::{Duration, Instant};

use futures::StreamExt;
use plumbline_crds::Kind::PolicyTuning;
use plumbline_crds::conditions::Reason;
use plumbline_testkit::operator::{Operator, Scene, alone, resource};

/// Concurrent requests of this program.
const AT_ONCE: usize = 16;

#[tokio::main]
async fn main() {
    let many: usize = std::env::args().nth(1).map_or(1000, |n| n.parse().expect("a number of resources"));
    let scene = Scene::new("bench").await;
    let operator = Operator::start(&scene.namespace, &scene.account().await, &["--job-ttl-seconds", "0"]);
    operator.address("progress").await;
    let idle = memory(&operator, "VmRSS");
    let names: Vec<String> = (0..many).map(|i| format!("p{i}")).collect();

    let begun = Instant::now();
    each(&names, async |name| scene.apply(&resource(PolicyTuning, name, &alone(PolicyTuning))).await).await;
    let applied = begun.elapsed();
    while scene.jobs().await.len() < many {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let started = begun.elapsed();
    each(&names, async |name| {
        scene.until_reason(PolicyTuning, name, Reason::Running).await;
    })
    .await;
    let asked = requests(&scene);
    println!("resources                          {many}");
    println!("all applied after                  {:.1} s", applied.as_secs_f64());
    println!("all have their Job after           {:.1} s", started.as_secs_f64());
    println!("requests a resource until then     {:.1} (watches and leases left out)", asked as f64 / many as f64);

    each(&names, async |name| {
        scene.succeed(PolicyTuning, name, "sha256:x").await;
        scene.until_reason(PolicyTuning, name, Reason::Completed).await;
    })
    .await;
    let asked = requests(&scene) - asked;
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("requests a resource to its end     {:.1}", asked as f64 / many as f64);
    let (now, peak) = (memory(&operator, "VmRSS"), memory(&operator, "VmHWM"));
    println!("memory: idle, finished, peak       {idle} kB, {now} kB, {peak} kB");
    println!("memory a finished resource         {:.1} kB", (now as f64 - idle as f64) / many as f64);
}

async fn each(names: &[String], act: impl AsyncFn(&str)) {
    futures::stream::iter(names).for_each_concurrent(AT_ONCE, |name| act(name)).await;
}

/// Number of requests that the operator has sent to the API server.
fn requests(scene: &Scene) -> usize {
    let ours = format!("system:serviceaccount:{}:plumbline-operator", scene.namespace.name());
    let within = scene.namespace.name();
    let lines =
        scene.namespace.audit().into_iter().filter(|l| l.user.username == ours && l.object_ref.namespace == within);
    lines.filter(|l| l.verb != "watch" && l.object_ref.resource != "leases").count()
}

/// The value of a line of `/proc/<pid>/status`, in kB.
fn memory(operator: &Operator, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", operator.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
