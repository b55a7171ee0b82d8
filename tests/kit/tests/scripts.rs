//! What the scripts decide: what a machine lacks, whose a process is, and whether a document says what they compute.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use plumbline_testkit::programs::text;
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// The steps of `make setup-tests` that build with Go.
const GO_STEPS: [&str; 6] = ["cluster", "gitops", "store", "helm", "helm4", "flux"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Runs a script's text with what `scripts/common.sh` has, in the root of the repository.
fn bash(commands: &str) -> Output {
    let script = format!("set -euo pipefail\nsource scripts/common.sh\n{commands}");
    // What waits for ever is a failure.
    let mut command = Command::new("timeout");
    command.args(["60", "bash", "-c", &script]).current_dir(ROOT).stdin(Stdio::null());
    command.output().unwrap()
}

fn succeeds(commands: &str) {
    let output = bash(commands);
    assert!(output.status.success(), "{commands}\n{}{}", text(&output.stdout), text(&output.stderr));
}

/// A copy of what `scripts/check_machine.sh` reads, on a machine whose Go is too old.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let modules =
            ["kubernetes", "gitops", "store", "helm", "helm4", "flux", "kueue"].map(|m| format!("tests/go/{m}"));
        let files = ["scripts", "images/oci.py", "rust-toolchain.toml", ".cache/done"].map(str::to_owned);
        let mut copy = Command::new("cp");
        copy.args(["-r", "--parents"]).args(modules).args(files).arg(folder.path()).current_dir(ROOT);
        assert!(copy.status().unwrap().success());
        let go = folder.path().join("bin/go");
        fs::create_dir(go.parent().unwrap()).unwrap();
        fs::write(&go, "#!/bin/sh\necho go1.0\n").unwrap();
        fs::set_permissions(&go, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    /// Forgets that a step was done.
    fn forget(&self, step: &str) {
        fs::remove_file(self.0.path().join(".cache/done").join(step)).unwrap();
    }

    /// What it says about Go.
    fn about_go(&self, argument: &str) -> String {
        let path = format!("{}:{}", self.0.path().join("bin").display(), std::env::var("PATH").unwrap());
        let mut check = Command::new("scripts/check_machine.sh");
        let output = check.arg(argument).current_dir(self.0.path()).env("PATH", path).output().unwrap();
        text(&output.stderr).lines().filter(|line| line.contains("go is")).collect()
    }
}

#[test]
fn go_is_asked_for_as_long_as_any_step_that_it_builds_is_to_be_done() {
    let machine = Machine::new();
    assert_eq!(machine.about_go("--tests"), "", "all is there, as tests run");
    for step in GO_STEPS {
        let machine = Machine::new();
        machine.forget(step);
        let said = machine.about_go("--tests");
        assert!(said.contains("go is 1.0") && said.contains(&format!(": {step} (")), "{step}: {said}");
        assert_eq!(machine.about_go(""), "", "a build takes no Go");
    }
}

#[test]
fn a_fresh_clone_is_told_what_make_test_will_build() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.0.path().join(".cache")).unwrap();
    let mut plan = Command::new("scripts/check_machine.sh");
    plan.arg("--plan").current_dir(machine.0.path()).env_remove("PLUMBLINE_CACHE");
    let output = plan.output().unwrap();
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("libtorch") && GO_STEPS.iter().all(|step| said.contains(step)), "{said}");
}

#[test]
fn every_script_that_builds_with_go_is_among_the_steps_that_are_checked() {
    let check = read("scripts/check_machine.sh");
    let steps: Vec<&str> = check.lines().filter_map(|line| line.split_once("steps=(")?.1.split(')').next()).collect();
    let mut count = 0;
    for entry in fs::read_dir(Path::new(ROOT).join("scripts")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let Some(step) = name.strip_prefix("install_").and_then(|name| name.strip_suffix(".sh")) else { continue };
        if read(&format!("scripts/{name}")).lines().any(|line| line.trim_start().starts_with("build_go ")) {
            let found = steps.iter().any(|steps| steps.split([' ', '"']).any(|word| word == step));
            assert!(found, "scripts/check_machine.sh does not know {step}");
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

#[test]
fn a_process_is_ours_while_it_runs_the_program_and_not_when_it_has_ended_or_is_anothers() {
    succeeds("sleep 60 & pid=$!; until is_running $pid sleep; do :; done; ! is_running $pid local_cluster; kill $pid");
    succeeds("! is_running '' sleep; ! is_running 4194305 sleep");
    // One that has ended, and whose parent does not look: `exec` puts a program there that never does.
    let output = bash(
        "told=$(mktemp)
        bash -c 'sleep 0.3 & echo $!; exec sleep 30' >\"$told\" & parent=$!
        trap 'kill $parent; rm \"$told\"' EXIT
        until pid=$(cat \"$told\") && grep -qs '^State:.*Z' /proc/$pid/status; do sleep 0.01; done
        kill -0 $pid && echo it is there
        if is_running $pid sleep; then echo taken for one that runs; fi",
    );
    assert_eq!(text(&output.stdout), "it is there\n", "{}", text(&output.stderr));
}

#[test]
fn waiting_ends_with_what_is_waited_for_or_with_its_time() {
    succeeds("sleep 0.2 & until_not 30 is_running $! sleep");
    succeeds("if until_not 1 true; then exit 1; fi");
}

#[test]
fn lists_of_packages_are_brought_up_to_date_when_a_command_lacks_them_and_only_then() {
    let apt = "lists=old; id() { echo 0; }; apt-get() { lists=new; }
        install() { [ $lists = new ]; }";
    succeeds(&format!("{apt}\nwith_lists install; [ $lists = new ]"));
    succeeds(&format!("{apt}\nwith_lists true; [ $lists = old ]"));
    let output = bash(&format!("{apt}\nid() {{ echo 1000; }}\nwith_lists install"));
    assert!(!output.status.success() && text(&output.stderr).contains("run apt-get update as root"));
}

#[test]
fn the_tables_of_sizing_are_those_that_the_script_computes() {
    let check = |script: &str| Command::new("python3").args([script, "--check"]).current_dir(ROOT).output().unwrap();
    let output = check("scripts/sizing.py");
    assert!(output.status.success(), "{}", text(&output.stderr));

    let folder = tempfile::tempdir().unwrap();
    for name in ["scripts", "docs"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let script = folder.path().join("scripts/sizing.py");
    fs::write(&script, read("scripts/sizing.py")).unwrap();
    fs::write(folder.path().join("docs/sizing.md"), read("docs/sizing.md").replace("| 225.9 |", "| 225.8 |")).unwrap();
    let output = check(script.to_str().unwrap());
    assert!(!output.status.success() && text(&output.stderr).contains("| 225.9 |"), "{}", text(&output.stderr));
}

#[test]
fn images_are_built_from_what_git_has_and_without_its_history() {
    let ignored = read(".dockerignore");
    let ignored: Vec<&str> = ignored.lines().collect();
    let by_git = read(".gitignore");
    for path in by_git.lines().map(|line| line.trim_start_matches('/')).chain([".git"]) {
        assert!(ignored.contains(&path), ".dockerignore lacks {path}, which `COPY . .` would send");
    }
}

#[test]
fn every_script_is_one_that_bash_reads() {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(ROOT).join("scripts")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|ending| ending == "sh") {
            let output = Command::new("bash").arg("-n").arg(&entry).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}
