//! What a trainer may do in its pod. Talks to the cluster and to the files of running containers.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use plumbline_tests::chain;
use serde_json::{Value, json};

use crate::chain::on_claim;
use crate::installation::lines;
use crate::node;

/// A policy that depends on nothing and is tuned for some seconds.
pub(crate) fn alone(name: &str, epochs: usize) -> Value {
    let alone =
        json!({"datasetRef": null, "dataset": {"uri": "pvc://models/pairs.jsonl"}, "training": {"epochs": epochs}});
    on_claim(&chain::with(chain::dpo(name, "none"), &alone))
}

#[test]
fn a_trainer_writes_to_its_claim_and_to_tmp_and_nothing_else_can_be_written_to() {
    let installed = node::shared();
    installed.apply(&[alone("confined", 8)]);
    installed.until_run("policytuning/confined", "a step is done", |run| lines(&run.join("metrics.jsonl")) > 0);
    let process = installed.cluster.process(&installed.container(&installed.pod("confined"), "trainer"));
    let of_process = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();

    // Root of this machine is bound by no permissions: only how things are mounted can refuse it.
    let root = format!("/proc/{process}/root");
    let write = |folder: &str| fs::write(Path::new(&root).join(folder).join("probe"), "x").map_err(|e| e.kind());
    for folder in ["", "etc", "usr/bin", "var", "var/lib/plumbline/claims/models", "etc/plumbline/run"] {
        assert_eq!(write(folder), Err(ErrorKind::ReadOnlyFilesystem), "/{folder}");
    }
    assert_eq!(write("tmp"), Ok(()));

    let writable: Vec<String> = of_process("mountinfo").lines().filter_map(writable).collect();
    let expected = ["/tmp", "/var/lib/plumbline/claims/results", "/dev/termination-log"];
    assert!(expected.iter().all(|place| writable.iter().any(|w| w == place)), "{writable:?}");
    // What the runtime mounts over /dev and /proc in every container, for devices and to hide things.
    let others = writable.iter().filter(|place| !expected.contains(&place.as_str()));
    let others: Vec<&String> =
        others.filter(|p| !["/dev", "/proc"].iter().any(|of_runtime| Path::new(p).starts_with(of_runtime))).collect();
    assert_eq!(others, [""; 0], "these could be written to too");

    let status = of_process("status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), ["65532"; 4]);
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    installed.until_ready("policytuning/confined");
}

/// The place of a mount that can be written to (proc_pid_mountinfo(5)).
fn writable(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split(' ').collect();
    let super_options = fields.last().unwrap();
    let rw = |options: &str| options.split(',').any(|option| option == "rw");
    (rw(fields[5]) && rw(super_options)).then(|| fields[4].to_owned())
}
