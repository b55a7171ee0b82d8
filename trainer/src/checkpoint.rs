//! Checkpoints: one directory per step, written to a temporary location and moved into place; a run resumes from the
//! newest complete one. Each file has a checksum, so that a run never resumes from content that a disk has corrupted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use plumbline_feedback::files::write_json;
use plumbline_feedback::heartbeat;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Tensor};

use crate::load::hugging_face::{read_safetensors, write_safetensors};
use crate::torch_error::of_torch;
use crate::{Error, Result};

const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "crc32c.json";
const RNG: &str = "rng";
const DEVICE_RNG: &str = "rng/cuda";
/// Before the name of a checkpoint while another one of the same step takes its place.
const REPLACED: &str = "replaced-";

/// The checkpoints of a run.
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

/// The content of a checkpoint: numbers (`S`: step, data position, best so far ...) and tensors.
pub struct Checkpoint<S> {
    /// Everything that is not a tensor.
    pub state: S,
    /// Parameters, optimiser state, generator state.
    pub tensors: BTreeMap<String, Tensor>,
}

impl<S> Checkpoint<S> {
    /// A tensor that every checkpoint of this run contains.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::Data(format!("checkpoint: '{name}' is missing")))
    }

    /// Restores the random generators of a run on `device`: the CPU's, and the GPU's, which draws the dropout there. If
    /// the run was on another type of device before, the GPU's generator keeps its seed.
    pub fn restore_generators(&self, device: Device) -> Result<()> {
        let set = |device, state: &Tensor| {
            plumbline_torch::set_rng_state(device, state).map_err(|e| Error::Data(format!("checkpoint: {e}")))
        };
        set(Device::Cpu, self.tensor(RNG)?)?;
        match self.tensors.get(DEVICE_RNG).filter(|_| device.is_cuda()) {
            Some(state) => set(device, state),
            None => Ok(()),
        }
    }
}

impl Checkpoints {
    /// The checkpoints in a work directory; the newest `keep` are kept.
    pub fn new(work: &Path, keep: i64) -> Self {
        Self { folder: work.join("checkpoints"), keep: keep.max(1) as usize }
    }

    /// Saves a checkpoint of `step`, with the states of the random generators of a run on `device`. After a crash at
    /// any point it is complete or absent. Older ones are removed only when this one is in place.
    pub fn save<S: Serialize>(
        &self,
        step: i64,
        state: &S,
        mut tensors: BTreeMap<String, Tensor>,
        device: Device,
    ) -> Result<()> {
        tensors.insert(RNG.into(), plumbline_torch::rng_state(Device::Cpu).map_err(of_torch)?);
        if device.is_cuda() {
            tensors.insert(DEVICE_RNG.into(), plumbline_torch::rng_state(device).map_err(of_torch)?);
        }
        let (aside, target) = (self.folder.join("writing"), self.folder.join(format!("step-{step:09}")));
        remove(&aside)?;
        fs::create_dir_all(&aside).map_err(|e| Error::disk(&aside, e))?;
        write_safetensors(&aside.join(TENSORS), &tensors)?;
        let text = serde_json::to_vec_pretty(state)
            .map_err(|e| Error::Failed(format!("{}: {e}", aside.join(STATE).display())))?;
        fs::write(aside.join(STATE), text).map_err(|e| Error::disk(&aside, e))?;
        let mut sums = BTreeMap::new();
        for file in [TENSORS, STATE] {
            let path = aside.join(file);
            File::open(&path).and_then(|f| f.sync_all()).map_err(|e| Error::disk(&path, e))?;
            sums.insert(file.to_owned(), checksum(&path)?);
        }
        write_json(&aside.join(SUMS), &sums)?;
        let replaced = self.folder.join(format!("{REPLACED}step-{step:09}"));
        if target.exists() {
            remove(&replaced)?;
            fs::rename(&target, &replaced).map_err(|e| Error::disk(&replaced, e))?;
        }
        fs::rename(&aside, &target).map_err(|e| Error::disk(&target, e))?;
        File::open(&self.folder).and_then(|f| f.sync_all()).map_err(|e| Error::disk(&self.folder, e))?;
        let steps = self.steps()?;
        remove(&replaced)?;
        for old in steps.iter().rev().skip(self.keep) {
            let path = self.folder.join(format!("step-{old:09}"));
            fs::remove_dir_all(&path).map_err(|e| Error::disk(&path, e))?;
        }
        Ok(())
    }

    /// The newest checkpoint, if there is one.
    pub fn newest<S: DeserializeOwned>(&self) -> Result<Option<Checkpoint<S>>> {
        let Some(step) = self.newest_step()? else { return Ok(None) };
        let folder = self.folder.join(format!("step-{step:09}"));
        check(&folder)?;
        let path = folder.join(STATE);
        let text = fs::read(&path).map_err(|e| Error::disk(&path, e))?;
        let state = serde_json::from_slice(&text).map_err(|e| damaged(&folder, STATE, &e.to_string()))?;
        Ok(Some(Checkpoint { state, tensors: read_safetensors(&folder.join(TENSORS))? }))
    }

    /// The step of the newest checkpoint, without reading it.
    pub fn newest_step(&self) -> Result<Option<i64>> {
        Ok(self.steps()?.pop())
    }

    /// Steps with a checkpoint, ascending. One that was moved away and not replaced, because the process was killed in between,
    /// is moved back.
    fn steps(&self) -> Result<Vec<i64>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::disk(&self.folder, e)),
        };
        let mut steps = Vec::new();
        for name in entries.filter_map(|e| e.ok()?.file_name().into_string().ok()) {
            let Some((place, step)) = name.split_once("step-").and_then(|(at, n)| Some((at, n.parse().ok()?))) else {
                continue;
            };
            let target = self.folder.join(format!("step-{step:09}"));
            if place == REPLACED && !target.exists() {
                fs::rename(self.folder.join(&name), &target).map_err(|e| Error::disk(&target, e))?;
                steps.push(step);
            } else if place.is_empty() {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        steps.dedup();
        Ok(steps)
    }
}

/// Removes a directory, if it exists.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::disk(folder, e)),
        _ => Ok(()),
    }
}

/// Checks that the files of a checkpoint are unchanged.
fn check(folder: &Path) -> Result<()> {
    let path = folder.join(SUMS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(damaged(folder, SUMS, "it is missing")),
        Err(e) => return Err(Error::disk(&path, e)),
    };
    let sums: BTreeMap<String, u32> =
        serde_json::from_slice(&text).map_err(|e| damaged(folder, SUMS, &e.to_string()))?;
    for file in [TENSORS, STATE] {
        let path = folder.join(file);
        if !path.is_file() || sums.get(file) != Some(&checksum(&path)?) {
            return Err(damaged(folder, file, "its content differs from what was written"));
        }
    }
    Ok(())
}

fn damaged(folder: &Path, file: &str, what: &str) -> Error {
    Error::Data(format!(
        "{}: damaged checkpoint: {file}: {what}; move this directory away to resume from the previous checkpoint, or \
         from scratch if there is none",
        folder.display()
    ))
}

/// CRC-32C of a file's content.
fn checksum(path: &Path) -> Result<u32> {
    let mut file = File::open(path).map_err(|e| Error::disk(path, e))?;
    let (mut buffer, mut sum) = (vec![0; 1 << 20], 0);
    loop {
        let read = file.read(&mut buffer).map_err(|e| Error::disk(path, e))?;
        heartbeat::beat();
        if read == 0 {
            return Ok(sum);
        }
        sum = crc32c::crc32c_append(sum, &buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_checkpoint_is_found_and_old_ones_go() {
        let work = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(work.path(), 2);
        assert!(checkpoints.newest::<i64>().unwrap().is_none());
        for step in [5i64, 10, 15] {
            let tensors = [("w".to_owned(), Tensor::from_slice(&[step as f32]))].into();
            checkpoints.save(step, &step, tensors, Device::Cpu).unwrap();
        }
        // What a crash leaves behind is not taken for a checkpoint.
        fs::create_dir_all(work.path().join("checkpoints/writing")).unwrap();
        let newest = checkpoints.newest::<i64>().unwrap().unwrap();
        assert_eq!(newest.state, 15);
        assert_eq!(newest.tensors["w"], Tensor::from_slice(&[15.0f32]));
        assert_eq!(checkpoints.steps().unwrap(), [10, 15]);
    }

    #[test]
    fn a_checkpoint_that_replaces_one_of_its_step_leaves_one_of_them_wherever_it_is_killed() {
        let work = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(work.path(), 1);
        let save = |state: i64| checkpoints.save(5, &state, BTreeMap::new(), Device::Cpu).unwrap();
        let newest = || checkpoints.newest::<i64>().unwrap().map(|found| found.state);
        let folder = work.path().join("checkpoints");
        let (target, replaced) = (folder.join("step-000000005"), folder.join("replaced-step-000000005"));
        save(1);
        // Killed between the two renames.
        fs::rename(&target, &replaced).unwrap();
        assert_eq!(newest(), Some(1));
        save(2);
        assert_eq!((newest(), replaced.exists()), (Some(2), false));
        // Killed before, or while, the old one is removed.
        fs::create_dir(&replaced).unwrap();
        fs::write(replaced.join(STATE), "1").unwrap();
        assert_eq!(newest(), Some(2));
        save(3);
        assert_eq!((newest(), replaced.exists()), (Some(3), false));
    }

    /// Bounded: each byte of each file of a small checkpoint changed in two ways, and cuts.
    #[test]
    fn no_changed_checkpoint_is_continued_from_and_none_is_a_panic() {
        let work = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(work.path(), 1);
        let state: BTreeMap<String, f64> = [("loss".to_owned(), 0.5), ("seen".to_owned(), 12.0)].into();
        let tensors = [("w".to_owned(), Tensor::from_slice(&[1.0f32, 2.0]))].into();
        checkpoints.save(5, &state, tensors, Device::Cpu).unwrap();
        let newest = || checkpoints.newest::<BTreeMap<String, f64>>();
        let is_whole_or_refused = |what: &str| match newest() {
            Ok(found) => {
                let found = found.unwrap();
                assert_eq!((found.state, found.tensors["w"].double_value(&[1])), (state.clone(), 2.0), "{what}");
            }
            Err(error) => assert!(matches!(error, Error::Data(_)), "{what}: {error}"),
        };
        let folder = work.path().join("checkpoints/step-000000005");
        for file in [STATE, TENSORS, SUMS] {
            let path = folder.join(file);
            let whole = fs::read(&path).unwrap();
            for at in (0..whole.len()).step_by(whole.len().div_ceil(300)) {
                for changed in [whole[at] ^ 1, b'7'] {
                    let mut bytes = whole.clone();
                    bytes[at] = changed;
                    fs::write(&path, &bytes).unwrap();
                    is_whole_or_refused(&format!("{file}: byte {at}"));
                }
                fs::write(&path, &whole[..at]).unwrap();
                is_whole_or_refused(&format!("{file} cut at {at}"));
            }
            fs::remove_file(&path).unwrap();
            assert!(newest().is_err());
            fs::write(&path, &whole).unwrap();
        }
        newest().unwrap().unwrap();
    }
}
