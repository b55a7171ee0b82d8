//! Rank, world size and rendezvous address of this process, read from its environment. Computes only.

use crate::{Error, Result};

/// This process among those that train together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankInfo {
    /// From 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Name or address of rank 0.
    pub host: String,
    /// Port of rank 0.
    pub port: u16,
    /// Name of this attempt at the run, given by the launcher; empty if it has none.
    pub attempt: String,
}

impl RankInfo {
    /// From the environment variables that `torchrun` sets (PyTorch, "torchrun: environment variables"): `RANK`,
    /// `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`, `TORCHELASTIC_RUN_ID`. The pods of an Indexed Job have their rank in
    /// `JOB_COMPLETION_INDEX`. None for a single process.
    ///
    /// # Errors
    /// `Config` for inconsistent values.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| match variable(name) {
            None => Ok(None),
            Some(text) => text.parse::<usize>().map(Some).map_err(|_| wrong(name, "an integer", &text)),
        };
        let size = number("WORLD_SIZE")?.unwrap_or(1);
        if size == 0 {
            return Err(wrong("WORLD_SIZE", "1 or more", "0"));
        }
        if size == 1 {
            return Ok(None);
        }
        let missing = |name: &str| wrong(name, &format!("it to be set because WORLD_SIZE is {size}"), "nothing");
        let rank = match number("RANK")? {
            Some(rank) => rank,
            None => number("JOB_COMPLETION_INDEX")?.ok_or_else(|| missing("RANK"))?,
        };
        if rank >= size {
            return Err(wrong("RANK", &format!("less than WORLD_SIZE ({size})"), &rank.to_string()));
        }
        let host = variable("MASTER_ADDR").filter(|h| !h.is_empty()).ok_or_else(|| missing("MASTER_ADDR"))?;
        let port = number("MASTER_PORT")?.ok_or_else(|| missing("MASTER_PORT"))?;
        let port = u16::try_from(port).map_err(|_| wrong("MASTER_PORT", "a port", &port.to_string()))?;
        let attempt = variable("TORCHELASTIC_RUN_ID").unwrap_or_default();
        Ok(Some(Self { rank, size, host, port, attempt }))
    }

    /// The same, from the environment of this process.
    pub fn of_this_process() -> Result<Option<Self>> {
        Self::read(|name| std::env::var(name).ok())
    }
}

fn wrong(name: &str, expected: &str, found: &str) -> Error {
    Error::Config(format!("environment variable {name}: expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<RankInfo>> {
        RankInfo::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_process_alone_has_no_rank_whatever_else_is_set() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("WORLD_SIZE", "1"), ("RANK", "7"), ("JOB_COMPLETION_INDEX", "3")]).unwrap(), None);
    }

    #[test]
    fn the_rank_is_torchruns_or_the_index_of_the_pod() {
        let all =
            [("WORLD_SIZE", "4"), ("MASTER_ADDR", "r-0.s"), ("MASTER_PORT", "29500"), ("JOB_COMPLETION_INDEX", "3")];
        let info = read(&all).unwrap().unwrap();
        let expected = RankInfo { rank: 3, size: 4, host: "r-0.s".into(), port: 29_500, attempt: String::new() };
        assert_eq!(info, expected);
        assert_eq!(read(&[&all[..], &[("RANK", "1")]].concat()).unwrap().unwrap().rank, 1);
        let named = read(&[&all[..], &[("TORCHELASTIC_RUN_ID", "a")]].concat()).unwrap().unwrap();
        assert_eq!(named, RankInfo { attempt: "a".into(), ..expected });
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let all = [("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "h"), ("MASTER_PORT", "1")];
        let cases = [
            ("WORLD_SIZE", "two"),
            ("WORLD_SIZE", "0"),
            ("RANK", "2"),
            ("RANK", "-1"),
            ("MASTER_ADDR", ""),
            ("MASTER_PORT", "99999"),
        ];
        for (name, value) in cases {
            let changed: Vec<_> = all.iter().map(|(n, v)| (*n, if *n == name { value } else { *v })).collect();
            let error = read(&changed).unwrap_err();
            assert!(matches!(&error, Error::Config(text) if text.contains(name)), "{name}={value}: {error}");
        }
        for (name, _) in &all[1..] {
            let rest: Vec<_> = all.iter().copied().filter(|(n, _)| n != name).collect();
            assert!(read(&rest).unwrap_err().to_string().contains(name));
        }
    }
}
