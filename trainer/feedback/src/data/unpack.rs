//! Data files (IO): opened, recognised and decompressed, in bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::file_kind::{self, FileKind, HEAD};
use crate::{Error, Result, files};

/// Content that decompresses to more than this many bytes, and to more than [`MOST_TIMES`] its size, is rejected as an
/// attack.
const FREE: u64 = 1 << 30;
/// Maximum compression ratio beyond [`FREE`]: text has a ratio of 3 to 10, a repeated record about 1000.
const MOST_TIMES: u64 = 200;

/// An open data file.
pub(super) enum Opened {
    /// Records as JSON.
    Json(Box<dyn BufRead>),
    /// Lines of text.
    Lines(Box<dyn BufRead>),
    /// A Parquet file.
    Parquet(File),
}

/// Opens a file, and decompresses it while it is read if necessary.
///
/// # Errors
/// [`Error::Data`] with the file's path if it cannot be read or is of an unsupported type.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let wrong = |what: String| Error::Data(format!("{}: {what}", path.display()));
    let unreadable = |e: io::Error| wrong(format!("cannot be read: {e}"));
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut file = files::open_regular(path)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let head = head(&mut file).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    let kind = file_kind::of(&head, name).map_err(wrong)?;
    let packed: Box<dyn Read> = match kind {
        FileKind::Json => return Ok(Opened::Json(buffered(file))),
        FileKind::Lines => return Ok(Opened::Lines(buffered(file))),
        FileKind::Parquet => return Ok(Opened::Parquet(file)),
        FileKind::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        FileKind::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(unreadable)?),
    };
    let mut unpacked = Unpacked { inner: packed, size, read: 0 };
    let head = self::head(&mut unpacked).map_err(|e| {
        wrong(format!(
            "cannot be decompressed: {e}; the file is truncated or \
                                                             damaged"
        ))
    })?;
    let inner = file_kind::of(&head, name).map_err(|e| wrong(format!("in the compressed file: {e}")))?;
    let reader = Cursor::new(head).chain(unpacked);
    match inner {
        FileKind::Json => Ok(Opened::Json(buffered(reader))),
        FileKind::Lines => Ok(Opened::Lines(buffered(reader))),
        FileKind::Parquet => Err(wrong(
            "is Parquet in a compressed file; decompress it (Parquet has its own \
                                        compression)"
                .into(),
        )),
        FileKind::Gzip | FileKind::Zstd => Err(wrong("is compressed twice; decompress it once".into())),
    }
}

fn buffered(reader: impl Read + 'static) -> Box<dyn BufRead> {
    Box::new(BufReader::with_capacity(1 << 20, reader))
}

/// The first bytes of a file, fewer than [`HEAD`] if it is shorter.
fn head(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    reader.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The decompressed content of a file, up to a limit that no legitimate file exceeds.
struct Unpacked {
    inner: Box<dyn Read>,
    /// Size of the compressed file in bytes.
    size: u64,
    read: u64,
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if self.read > FREE && self.read / MOST_TIMES > self.size {
            let what = format!("it decompresses to more than {MOST_TIMES} times its {} bytes", self.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decompression_bomb_is_rejected() {
        let of = |size| Unpacked { inner: Box::new(io::repeat(b'\n').take(2 * FREE)), size, read: 0 };
        let error = io::copy(&mut of(1 << 20), &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("more than 200 times its 1048576 bytes"), "{error}");
        assert_eq!(io::copy(&mut of(FREE / 10), &mut io::sink()).unwrap(), 2 * FREE);
    }
}
