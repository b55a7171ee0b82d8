//! Several processes that train one model, like the pods of an Indexed Job. Talks to processes and files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::programs::{code, text};
use crate::{ports, stage};

/// Timeout for operations that normally take a second.
const PATIENCE: Duration = Duration::from_mins(2);

/// The processes, in order of rank.
pub struct Gang {
    processes: Vec<Child>,
    root: PathBuf,
    /// Number of steps in the metrics before these processes started.
    before: usize,
}

impl Gang {
    /// Starts all ranks in one directory. `inputs`: paths by role.
    pub fn start(size: usize, manifest: &Value, inputs: &[(&str, PathBuf)], root: &Path) -> Self {
        Self::start_some(size, &(0..size).collect::<Vec<_>>(), manifest, inputs, root)
    }

    /// Starts some of the ranks of a group of `size`.
    pub fn start_some(size: usize, ranks: &[usize], manifest: &Value, inputs: &[(&str, PathBuf)], root: &Path) -> Self {
        let port = ports::claim();
        let before = steps_in(root);
        // Created first, as each one rewrites the run document that all of them read.
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

    /// Waits until rank 0 has taken `steps` more steps than before it started.
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

    /// Sends a signal to one rank.
    pub fn signal(&self, rank: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.processes[rank]), signal).unwrap();
    }

    /// Waits for all ranks to end. Returns exit codes (-1 for a signal) and standard errors.
    pub fn end(mut self) -> Vec<(i32, String)> {
        let all: Vec<Output> = self.processes.drain(..).map(|p| p.wait_with_output().unwrap()).collect();
        all.iter().map(|output| (code(output), text(&output.stderr))).collect()
    }

    /// Waits for all ranks to end, and returns their results. Panics if one failed.
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
    let (a, b) = (weights(a), weights(b));
    assert!(a.keys().eq(b.keys()), "the tensors have other names");
    let apart = a.iter().map(|(name, a)| {
        let b = &b[name];
        assert_eq!(a.len(), b.len(), "{name}");
        let difference = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        difference / a.iter().map(|a| f64::from(a.abs())).fold(1e-9, f64::max)
    });
    apart.fold(0.0, f64::max)
}

/// The values of every tensor of a model, by name.
fn weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = |tensor: &TensorView| -> Vec<f32> {
        let (data, size) = (tensor.data(), tensor.dtype().bitsize() / 8);
        let each = data.chunks_exact(size);
        match tensor.dtype() {
            Dtype::F32 => each.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F16 => each.map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
            Dtype::BF16 => each.map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
            other => panic!("weights of type {other:?}"),
        }
    };
    tensors.tensors().iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect()
}

fn steps_in(root: &Path) -> usize {
    fs::read_to_string(root.join("work/metrics.jsonl")).unwrap_or_default().lines().count()
}

impl Drop for Gang {
    /// Ensures that no process outlives a failed test.
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
