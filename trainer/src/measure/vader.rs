//! VADER.

use std::path::Path;

use crate::Result;

/// A word list with the rules of VADER.
#[derive(Clone, Debug)]
pub struct Vader {}

impl Vader {
    /// Reads a lexicon: `token<TAB>mean<TAB>...` a line.
    pub fn load(path: &Path) -> Result<Self> {
        let _ = path;
        todo!()
    }

    /// The compound score of a text, -1 (worst) to 1 (best).
    pub fn compound(&self, text: &str) -> f64 {
        let _ = text;
        todo!()
    }
}
