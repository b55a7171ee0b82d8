//! What a trainer may do in its pod. Talks to the cluster and to the files of running containers.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use plumbline_testkit::programs::text;

use crate::chain::{REPLIES, lasting};
use crate::installation::lines;
use crate::node;

#[test]
fn a_trainer_writes_to_its_claim_and_to_tmp_and_nothing_else_can_be_written_to() {
    let installed = node::shared();
    installed.apply(&[lasting("confined", 10)]);
    installed.until_run("preferencedataset/confined", "a question is answered", |run| lines(&run.join(REPLIES)) > 0);
    let process = installed.cluster.process(&installed.container(&installed.pod("confined"), "trainer"));
    let of_process = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();

    // Root of this machine is bound by no permissions: only how things are mounted can refuse it.
    let root = format!("/proc/{process}/root/");
    let write = |folder: &str| fs::write(format!("{root}{folder}/probe"), "x").map_err(|e| e.kind());
    for folder in ["", "etc", "usr/bin", "var", "var/lib/plumbline/claims/models", "etc/plumbline/run"] {
        assert_eq!(write(folder), Err(ErrorKind::ReadOnlyFilesystem), "/{folder}");
    }
    assert_eq!(write("tmp"), Ok(()));

    // And the trainer's user, everywhere.
    let user = ["--reuid=65532", "--regid=65532", "--clear-groups", "--no-new-privs"];
    let search =
        ["-path", &format!("{root}proc"), "-prune", "-o", "-writable", "-not", "-type", "l", "-prune", "-print"];
    let found = Command::new("setpriv").args(user).args(["find", &root]).args(search).output().unwrap();
    let found = text(&found.stdout);
    let (devices, places): (Vec<&str>, Vec<&str>) =
        found.lines().map(|place| place.strip_prefix(&root).unwrap()).partition(|place| place.starts_with("dev/"));
    assert_eq!(BTreeSet::from_iter(places), BTreeSet::from(["tmp", "var/lib/plumbline/claims/results"]));
    assert!(devices.contains(&"dev/termination-log") && devices.contains(&"dev/null"), "{devices:?}");

    let status = of_process("status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), ["65532"; 4]);
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    installed.until_ready("preferencedataset/confined");
}
