//! Runs the processes of a test's cluster, and kills them when the test ends for whatever reason. Talks to processes.
//!
//! `cluster_keeper FOLDER`: each line of standard input is a JSON list `[log file, program, argument...]` to start; the
//! response is its process id. The kernel closes the pipe when the test ends, even by SIGKILL: then all processes are
//! killed, and FOLDER, which contains their files, is removed, together with the control groups of the same name, which
//! belong to a node.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::stdin;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Timeout for the processes of a node to exit after they are killed.
const NODE_ENDS: Duration = Duration::from_secs(20);

fn main() {
    let folder = std::env::args_os().nth(1).expect("usage: cluster_keeper FOLDER");
    let mut children = Vec::new();
    for line in stdin().lines() {
        let Ok(line) = line else { break };
        let command: Vec<String> = serde_json::from_str(&line).expect("a list of texts");
        let child = start(&command);
        println!("{}", child.id());
        children.push(child);
    }
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    remove_control_groups(Path::new(&folder).file_name().expect("a folder with a name"));
    fs::remove_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", Path::new(&folder).display()));
}

/// Removes the control groups in every mounted hierarchy. They are busy until the last process of the node has exited.
fn remove_control_groups(name: &OsStr) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let hierarchies = mounts.lines().filter_map(|line| {
        let [_, folder, kind, ..] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        ["cgroup", "cgroup2"].contains(&kind).then(|| Path::new(folder).join(name))
    });
    let deadline = Instant::now() + NODE_ENDS;
    for group in hierarchies {
        while group.exists() && remove_group(&group).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Removes a group after its subgroups. Other files in its directory belong to the kernel, and are removed with it.
fn remove_group(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Starts a process that is killed when this process exits, even if the keeper itself is killed.
fn start(command: &[String]) -> Child {
    let [log, program @ ..] = command else { panic!("a log file and a program, not an empty list") };
    let output = File::create(log).unwrap_or_else(|e| panic!("{log}: {e}"));
    let plumbline = std::env::current_exe().unwrap().with_file_name("plumbline");
    Command::new(&plumbline)
        .args(["run-tied-to-parent", "--parent", &std::process::id().to_string(), "--"])
        .args(program)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", plumbline.display()))
}
