//! Several processes that train one model, as the pods of an Indexed Job do. Talks to processes and files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::programs::{code, text};
use crate::{ports, stage};

/// How long something may take that takes a second.
const PATIENCE: Duration = Duration::from_mins(2);

/// The processes, in order of rank.
pub struct Gang {
    processes: Vec<Child>,
    root: PathBuf,
    /// Steps that an earlier gang has taken, or is remembered to have taken.
    before: usize,
}

impl Gang {
    /// Starts them in one folder, over the same inputs by role.
    pub fn start(size: usize, manifest: &Value, inputs: &[(&str, PathBuf)], root: &Path) -> Self {
        Self::start_some(size, &(0..size).collect::<Vec<_>>(), manifest, inputs, root)
    }

    /// Starts some ranks of so many.
    pub fn start_some(size: usize, ranks: &[usize], manifest: &Value, inputs: &[(&str, PathBuf)], root: &Path) -> Self {
        let port = ports::claim();
        let before = steps_in(root);
        // Before the first one reads what they are all told.
        let commands: Vec<Command> = ranks
            .iter()
            .map(|rank| {
                let mut command = stage::command(manifest, inputs, root);
                command.envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port.to_string())]);
                command.envs([("WORLD_SIZE", size.to_string()), ("JOB_COMPLETION_INDEX", rank.to_string())]);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
                command
            })
            .collect();
        let processes = commands.into_iter().map(|mut command| command.spawn().unwrap()).collect();
        Self { processes, root: root.to_owned(), before }
    }

    /// Waits until rank 0 is so many steps further than an earlier gang was.
    #[must_use]
    pub fn until_further(mut self, steps: usize) -> Self {
        let (deadline, steps) = (Instant::now() + PATIENCE, self.before + steps);
        while steps_in(&self.root) < steps {
            assert!(self.processes[0].try_wait().unwrap().is_none(), "rank 0 ended before step {steps}");
            assert!(Instant::now() < deadline, "never: step {steps}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self
    }

    /// Sends one of them a signal.
    pub fn signal(&self, rank: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.processes[rank]), signal).unwrap();
    }

    /// Waits for their ends: exit codes (-1 for a signal) and what they said.
    pub fn end(mut self) -> Vec<(i32, String)> {
        let all: Vec<Output> = self.processes.drain(..).map(|p| p.wait_with_output().unwrap()).collect();
        all.iter().map(|output| (code(output), text(&output.stderr))).collect()
    }

    /// Waits for their ends, which must be good; gives what they have made.
    pub fn well(self) -> stage::Made {
        let root = self.root.clone();
        for (rank, (code, said)) in self.end().into_iter().enumerate() {
            assert_eq!(code, 0, "rank {rank}: {said}");
        }
        stage::Made::read(&root)
    }
}

/// The largest difference between two models' weights, relative to the largest weight of each tensor.
pub fn weights_apart(a: &Path, b: &Path) -> f64 {
    let read = |folder: &Path| tch::Tensor::read_safetensors(folder.join("model.safetensors")).unwrap();
    let (mut a, mut b) = (read(a), read(b));
    a.sort_by(|x, y| x.0.cmp(&y.0));
    b.sort_by(|x, y| x.0.cmp(&y.0));
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(&b).map(|((name, a), (other, b))| {
        assert_eq!(name, other);
        (a - b).abs().max().double_value(&[]) / a.abs().max().double_value(&[]).max(1e-9)
    });
    apart.fold(0.0, f64::max)
}

fn steps_in(root: &Path) -> usize {
    fs::read_to_string(root.join("work/metrics.jsonl")).unwrap_or_default().lines().count()
}

impl Drop for Gang {
    /// A test that ends early leaves no process behind.
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
