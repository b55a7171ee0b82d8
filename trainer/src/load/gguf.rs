//! GGUF files on disk: reads the header once, then one tensor at a time.
//!
//! This file does the IO; its modules interpret the bytes: [`header`] and [`metadata`] (the container), [`dequantize`]
//! (the encodings), [`model`] (names and layout of tensors) and [`vocabulary`] (the tokenizer).
//!
//! Tensors are read by position, not through a memory map: if the file is truncated while it is read, the result is an
//! error that names the tensor, where a map would kill the process with SIGBUS.

pub mod dequantize;
pub mod header;
pub mod metadata;
pub mod model;
pub mod vocabulary;

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use self::header::{Header, TensorInfo};
use crate::{Error, Result};

/// An open GGUF file.
pub struct GgufFile {
    /// Metadata and the list of tensors.
    pub header: Header,
    path: PathBuf,
    file: File,
}

impl GgufFile {
    /// Opens a file and reads its header. Verifies that every tensor of the header is inside the file.
    ///
    /// # Errors
    /// [`Error::Data`] when the file cannot be read, is not GGUF version 2 or 3, or ends too early.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = |e: std::io::Error| Error::Data(format!("{}: {e}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let header = Header::parse(&mut BufReader::new(&file), length)
            .map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;
        Ok(Self { header, path: path.to_owned(), file })
    }

    /// The values of a tensor, row-major, in file order.
    ///
    /// # Errors
    /// [`Error::Data`] when the encoding is not supported, the file cannot be read, or a value is not finite.
    pub fn tensor(&self, info: &TensorInfo) -> Result<Vec<f32>> {
        let named =
            |e: &dyn std::fmt::Display| Error::Data(format!("{}: tensor {}: {e}", self.path.display(), info.name));
        let mut bytes = vec![0; info.bytes as usize];
        self.file.read_exact_at(&mut bytes, info.offset).map_err(|e| named(&e))?;
        let values = dequantize::dequantize(info.encoding, &bytes).map_err(|e| named(&e))?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(first) => Err(named(&format!("the number at {first} is not finite; the file is damaged"))),
            None => Ok(values),
        }
    }
}
