//! The parent process of a server. Reads `/proc`.

use std::time::Duration;

/// A process, identified by its id and its start time, as ids are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pid: u32,
    started: u64,
}

impl Parent {
    /// The process with this id; none if there is none.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        start_time(&stat).map(|started| Self { pid, started })
    }

    /// Waits until the process has exited, polling once a second.
    pub async fn gone(self) {
        while Self::find(self.pid) == Some(self) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The start time in a `/proc/PID/stat`, in ticks since boot (field 22 of proc(5)); none for a zombie.
fn start_time(stat: &str) -> Option<u64> {
    // The name in brackets may itself contain spaces and brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_after_any_name() {
        let rest = "1 1 1 0 -1 4194560 9 0 0 0 0 0 0 0 20 0 1 0 4711 2 3";
        assert_eq!(start_time(&format!("7 (a) b ( c) S {rest}")), Some(4711));
        assert_eq!(start_time(&format!("7 (a) Z {rest}")), None, "ended, not reaped");
        assert_eq!(start_time("7 (a) S 1"), None);
    }

    #[test]
    fn a_zombie_counts_as_exited() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = Parent::find(child.id()).expect("it runs");
        assert_eq!(Parent::find(child.id()), Some(found));
        child.kill().unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while Parent::find(child.id()).is_some() {
            assert!(std::time::Instant::now() < until, "still there");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
    }
}
