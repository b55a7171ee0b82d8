//! Runs the processes of a test's cluster, and ends them with the test, however that ends. Talks to processes.
//!
//! `cluster_keeper FOLDER`: each line of standard input is a JSON list `[log file, program, argument...]` to start, which
//! is answered by its process id. The kernel closes that pipe when the test ends, even by SIGKILL: then all of them are
//! killed, and FOLDER, which holds their files, is removed.

use std::fs::{self, File};
use std::io::stdin;
use std::path::Path;
use std::process::{Child, Command, Stdio};

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
    fs::remove_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", Path::new(&folder).display()));
}

/// Tied to this process, so that nothing is left behind even when the keeper is killed.
fn start(command: &[String]) -> Child {
    let [log, program @ ..] = command else { panic!("a log file and a program, not an empty list") };
    let output = File::create(log).unwrap_or_else(|e| panic!("{log}: {e}"));
    let plumbline = std::env::current_exe().unwrap().with_file_name("plumbline");
    Command::new(&plumbline)
        .args(["tied", "--parent", &std::process::id().to_string(), "--"])
        .args(program)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", plumbline.display()))
}
