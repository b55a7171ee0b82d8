//! What a machine has that a node could leave behind. Talks to the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to clean up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Settings that a kubelet or a proxy would change.
const SETTINGS: [&str; 5] =
    ["net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];
/// Where programs of a node keep what outlives them.
const FOLDERS: [&str; 8] = [
    "/run/containerd",
    "/run/netns",
    "/run/mount",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/pods",
    "/var/log/containers",
    "/opt/containerd",
];

/// One look at it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    interfaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    routes: BTreeSet<String>,
    settings: Vec<String>,
    folders: Vec<bool>,
}

impl Machine {
    /// What there is now.
    pub(crate) fn look() -> Self {
        let lines = |file: &str| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
        let interfaces = fs::read_dir("/sys/class/net").unwrap();
        Self {
            interfaces: interfaces.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
            mounts: lines("/proc/self/mounts"),
            routes: lines("/proc/net/route"),
            settings: SETTINGS.map(|s| fs::read_to_string(Path::new("/proc/sys").join(s)).unwrap()).into(),
            folders: FOLDERS.map(|folder| Path::new(folder).exists()).into(),
        }
    }

    /// Waits until there is nothing more and nothing less, and no process or control group of the cluster in `folder`.
    pub(crate) fn until_the_same(&self, folder: &Path) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = left_of(folder);
            let now = Self::look();
            if left.is_empty() && now == *self {
                return;
            }
            assert!(Instant::now() < deadline, "this is left: {left:?}\nbefore: {self:?}\nafter: {now:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Processes, control groups and files that name a cluster's folder.
fn left_of(folder: &Path) -> Vec<String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mut left = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(name) || command.contains("/var/lib/node/") || command.starts_with("/srv/kube") {
            left.push(command);
        }
    }
    for mount in fs::read_to_string("/proc/self/mounts").unwrap().lines() {
        let [_, place, kind, ..] = mount.split(' ').collect::<Vec<_>>()[..] else { continue };
        let group = Path::new(place).join(name);
        if kind.starts_with("cgroup") && group.exists() {
            left.push(group.display().to_string());
        }
    }
    if folder.exists() {
        left.push(folder.display().to_string());
    }
    left
}
