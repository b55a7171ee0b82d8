//! The GGUF container, versions 2 and 3: metadata and the list of tensors. Pure: bytes in, values out.
//!
//! Layout (the GGUF specification of the ggml project): `GGUF`, version u32, tensor count u64, metadata count u64; the
//! metadata as key, type u32, value; the tensors as name, number of dimensions u32, dimensions u64 (fastest first),
//! encoding u32, offset u64 from the start of the data; padding; the data. Everything is little-endian.

use std::collections::BTreeMap;
use std::io::Read;

use super::dequantize::Encoding;
use super::metadata::{Integers, Metadata, Value};

/// A parsed header.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Metadata by key (`general.architecture`, `llama.block_count`, `tokenizer.ggml.tokens`).
    pub metadata: Metadata,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// Location and encoding of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name (`blk.0.attn_q.weight`).
    pub name: String,
    /// Shape in the usual order, slowest dimension first: `[rows, columns]`.
    pub shape: Vec<usize>,
    /// Encoding of the values.
    pub encoding: Encoding,
    /// Byte offset in the file.
    pub offset: u64,
    /// Size in the file, in bytes.
    pub bytes: u64,
}

/// Why a header cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Not a GGUF file.
    #[error("not a GGUF file: it starts with {0:?} where `GGUF` is expected")]
    NotGguf(String),
    /// A version with a different layout.
    #[error(
        "GGUF version {0} is not supported; versions 2 and 3 are (convert the model again with a current converter)"
    )]
    Version(u32),
    /// The file ends too early.
    #[error(
        "the file is truncated: {what} needs {needed} bytes at byte {position} and the file has {length}; download or \
         copy it again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Byte offset at which it starts.
        position: u64,
        /// Bytes that it needs.
        needed: u64,
        /// Size of the file, in bytes.
        length: u64,
    },
    /// The file contradicts itself or the specification.
    #[error("malformed header at byte {position}: {what}")]
    Broken {
        /// Byte offset of the fault.
        position: u64,
        /// Description of the fault.
        what: String,
    },
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Header {
    /// Parses the header of a file of `length` bytes.
    pub fn parse(reader: &mut impl Read, length: u64) -> Result<Self, HeaderError> {
        let mut cursor = Cursor { reader, position: 0, length };
        let magic = cursor.bytes(4, "the magic number")?;
        if magic != b"GGUF" {
            return Err(HeaderError::NotGguf(String::from_utf8_lossy(&magic).into_owned()));
        }
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let tensor_count = cursor.u64("the number of tensors")?;
        let metadata_count = cursor.u64("the number of metadata entries")?;

        let mut metadata = Metadata::default();
        for _ in 0..metadata_count {
            let key = cursor.text("a metadata key")?;
            let kind = cursor.u32(&key)?;
            let value = cursor.value(kind, &key)?;
            if metadata.0.insert(key.clone(), value).is_some() {
                return Err(cursor.broken(format!("the key {key} appears twice")));
            }
        }

        let mut tensors = BTreeMap::new();
        let mut next = Some(0);
        let alignment = alignment(&metadata).map_err(|what| cursor.broken(what))?;
        for _ in 0..tensor_count {
            let tensor = cursor.tensor()?;
            // GGUF writers put tensors one after the other; any other offset is corrupt.
            if next.is_some_and(|next| next != tensor.offset) {
                return Err(cursor.broken(format!(
                    "tensor {} begins at byte {} of the data where {} is expected",
                    tensor.name,
                    tensor.offset,
                    next.unwrap_or_default()
                )));
            }
            // The size of a tensor with an unsupported encoding is unknown.
            next = next.filter(|_| !matches!(tensor.encoding, Encoding::Unsupported(_))).map(|next: u64| {
                next.saturating_add(tensor.bytes).checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
            });
            if let Some(double) = tensors.insert(tensor.name.clone(), tensor) {
                return Err(cursor.broken(format!("the tensor {} appears twice", double.name)));
            }
        }

        let data = cursor.position.next_multiple_of(alignment);
        for tensor in tensors.values_mut() {
            tensor.offset = tensor.offset.saturating_add(data);
            if tensor.offset.saturating_add(tensor.bytes) > length {
                return Err(HeaderError::Truncated {
                    what: format!("tensor {}", tensor.name),
                    position: tensor.offset,
                    needed: tensor.bytes,
                    length,
                });
            }
        }
        Ok(Self { metadata, tensors })
    }
}

/// Alignment of tensors, in bytes.
fn alignment(metadata: &Metadata) -> Result<u64, String> {
    match metadata.0.get("general.alignment") {
        None => Ok(32),
        Some(Value::Unsigned(n)) if *n > 0 && n.is_multiple_of(8) && *n <= 1 << 20 => Ok(*n),
        Some(other) => Err(format!("general.alignment is {other:?}")),
    }
}

/// Maximum size of a header, in bytes. The vocabularies of models take a few MB.
const LONGEST: u64 = 1 << 27;

/// A reader that tracks its position and what is left, so that no length in the file can cause an allocation larger
/// than the file.
struct Cursor<'a, R> {
    reader: &'a mut R,
    position: u64,
    length: u64,
}

impl<R: Read> Cursor<'_, R> {
    fn broken(&self, what: String) -> HeaderError {
        HeaderError::Broken { position: self.position, what }
    }

    fn need(&self, needed: u64, what: &str) -> Result<(), HeaderError> {
        if self.position.saturating_add(needed) > LONGEST && self.length > LONGEST {
            return Err(self.broken(format!("{what} would make it longer than {LONGEST} bytes, which no model needs")));
        }
        if needed > self.length.saturating_sub(self.position) {
            return Err(HeaderError::Truncated {
                what: what.to_owned(),
                position: self.position,
                needed,
                length: self.length,
            });
        }
        Ok(())
    }

    fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>, HeaderError> {
        self.need(count, what)?;
        let mut bytes = vec![0; count as usize];
        self.reader.read_exact(&mut bytes)?;
        self.position += count;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), HeaderError> {
        std::io::copy(&mut self.reader.by_ref().take(count), &mut std::io::sink())?;
        self.position += count;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], HeaderError> {
        self.need(N as u64, what)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, HeaderError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, HeaderError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn text(&mut self, what: &str) -> Result<String, HeaderError> {
        let count = self.u64(what)?;
        let bytes = self.bytes(count, what)?;
        String::from_utf8(bytes).map_err(|_| self.broken(format!("{what} is not UTF-8")))
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, HeaderError> {
        let signed = |n: i64| u64::try_from(n).map_or(Value::Negative(n), Value::Unsigned);
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(key)?[0].into()),
            1 => signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Unsigned(self.u32(key)?.into()),
            5 => signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(decimal(f32::from_le_bytes(self.array(key)?))),
            7 => match self.array::<1>(key)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.broken(format!("{key}: invalid boolean {other}"))),
            },
            8 => Value::Text(self.text(key)?),
            9 => self.list(key)?,
            10 => Value::Unsigned(self.u64(key)?),
            11 => signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            other => return Err(self.broken(format!("{key} has the unknown type {other}"))),
        })
    }

    fn list(&mut self, key: &str) -> Result<Value, HeaderError> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        let (width, signed) = match kind {
            0 | 7 => (1, false),
            1 => (1, true),
            2 => (2, false),
            3 => (2, true),
            4 | 6 => (4, false),
            5 => (4, true),
            8 | 10 | 12 => (8, false),
            11 => (8, true),
            other => return Err(self.broken(format!("{key} is a list of the type {other}"))),
        };
        let bytes = count.saturating_mul(width as u64);
        self.need(bytes, key)?;
        Ok(match kind {
            8 => Value::Texts((0..count).map(|_| self.text(key)).collect::<Result<_, _>>()?),
            6 | 12 => {
                self.skip(bytes)?;
                Value::Floats(count)
            }
            _ => Value::Integers(Integers { width, signed, bytes: self.bytes(bytes, key)? }),
        })
    }

    fn tensor(&mut self) -> Result<TensorInfo, HeaderError> {
        let name = self.text("a tensor's name")?;
        let dimensions = self.u32(&name)?;
        if !(1..=4).contains(&dimensions) {
            return Err(self.broken(format!("tensor {name} has {dimensions} dimensions")));
        }
        let mut shape = (0..dimensions).map(|_| self.u64(&name)).collect::<Result<Vec<u64>, _>>()?;
        let kind = self.u32(&name)?;
        let encoding = Encoding::from_number(kind)
            .ok_or_else(|| self.broken(format!("tensor {name} has the unknown encoding {kind}")))?;
        let offset = self.u64(&name)?;
        let (values, block) = (encoding.block_values() as u64, encoding.block_bytes() as u64);
        if !shape[0].is_multiple_of(values) {
            return Err(self.broken(format!(
                "tensor {name} has rows of {} values where {encoding} packs {values} at a time",
                shape[0]
            )));
        }
        let bytes = shape
            .iter()
            .try_fold(1u64, |n, d| n.checked_mul(*d))
            .and_then(|n| (n / values).checked_mul(block))
            .ok_or_else(|| self.broken(format!("tensor {name} has the impossible shape {shape:?}")))?;
        shape.reverse();
        Ok(TensorInfo { name, shape: shape.iter().map(|d| *d as usize).collect(), encoding, offset, bytes })
    }
}

/// The shortest decimal that rounds to a 32-bit float.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a GGUF file: metadata, then tensors of 32-bit floats or raw blocks.
    #[derive(Clone, Default)]
    pub(crate) struct Writer {
        metadata: Vec<u8>,
        metadata_count: u64,
        infos: Vec<u8>,
        tensor_count: u64,
        data: Vec<u8>,
    }

    impl Writer {
        fn text(into: &mut Vec<u8>, text: &str) {
            into.extend((text.len() as u64).to_le_bytes());
            into.extend(text.as_bytes());
        }

        pub(crate) fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
            Self::text(&mut self.metadata, key);
            self.metadata.extend(kind.to_le_bytes());
            self.metadata.extend(value);
            self.metadata_count += 1;
            self
        }

        pub(crate) fn u32(self, key: &str, value: u32) -> Self {
            self.entry(key, 4, &value.to_le_bytes())
        }

        pub(crate) fn f32(self, key: &str, value: f32) -> Self {
            self.entry(key, 6, &value.to_le_bytes())
        }

        pub(crate) fn bool(self, key: &str, value: bool) -> Self {
            self.entry(key, 7, &[u8::from(value)])
        }

        pub(crate) fn u64(self, key: &str, value: u64) -> Self {
            self.entry(key, 10, &value.to_le_bytes())
        }

        pub(crate) fn str(self, key: &str, value: &str) -> Self {
            let mut bytes = Vec::new();
            Self::text(&mut bytes, value);
            self.entry(key, 8, &bytes)
        }

        pub(crate) fn strs(self, key: &str, values: &[&str]) -> Self {
            let mut bytes = 8u32.to_le_bytes().to_vec();
            bytes.extend((values.len() as u64).to_le_bytes());
            for value in values {
                Self::text(&mut bytes, value);
            }
            self.entry(key, 9, &bytes)
        }

        pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
            let mut bytes = 5u32.to_le_bytes().to_vec();
            bytes.extend((values.len() as u64).to_le_bytes());
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            self.entry(key, 9, &bytes)
        }

        /// `shape` in the usual order; `kind` is the `ggml_type` number of the encoding.
        pub(crate) fn tensor(mut self, name: &str, shape: &[u64], kind: u32, blocks: &[u8]) -> Self {
            Self::text(&mut self.infos, name);
            self.infos.extend((shape.len() as u32).to_le_bytes());
            self.infos.extend(shape.iter().rev().flat_map(|d| d.to_le_bytes()));
            self.infos.extend(kind.to_le_bytes());
            self.infos.extend((self.data.len() as u64).to_le_bytes());
            self.data.extend(blocks);
            self.data.resize(self.data.len().next_multiple_of(32), 0);
            self.tensor_count += 1;
            self
        }

        pub(crate) fn f32s(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.tensor(name, shape, 0, &bytes)
        }

        pub(crate) fn finish(self) -> Vec<u8> {
            let mut bytes = b"GGUF\x03\0\0\0".to_vec();
            bytes.extend(self.tensor_count.to_le_bytes());
            bytes.extend(self.metadata_count.to_le_bytes());
            bytes.extend(self.metadata);
            bytes.extend(self.infos);
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(self.data);
            bytes
        }
    }

    fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
        Header::parse(&mut &bytes[..], bytes.len() as u64)
    }

    fn example() -> Vec<u8> {
        Writer::default()
            .str("general.architecture", "llama")
            .u32("llama.block_count", 2)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .strs("tokenizer.ggml.tokens", &["a", "b"])
            .i32s("numbers", &[-1, 3])
            .f32s("x.weight", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
            .tensor("q.weight", &[1, 32], 8, &[0; 34])
            .finish()
    }

    #[test]
    fn metadata_and_tensors_are_read_as_written() {
        let bytes = example();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.metadata.0["general.architecture"], Value::Text("llama".into()));
        assert_eq!(header.metadata.0["llama.block_count"], Value::Unsigned(2));
        assert_eq!(header.metadata.0["llama.attention.layer_norm_rms_epsilon"], Value::Float(1e-5));
        let numbers = [(-1i32).to_le_bytes(), 3i32.to_le_bytes()].concat();
        assert_eq!(header.metadata.0["numbers"], Value::Integers(Integers { width: 4, signed: true, bytes: numbers }));
        let x = &header.tensors["x.weight"];
        assert_eq!((x.shape.as_slice(), x.encoding, x.bytes), ([2, 3].as_slice(), Encoding::F32, 24));
        assert_eq!(&bytes[x.offset as usize..][..4], 1f32.to_le_bytes());
        let q = &header.tensors["q.weight"];
        assert_eq!((q.offset - x.offset, q.bytes), (32, 34));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_an_error_and_never_a_panic() {
        let bytes = example();
        let end = { parse(&bytes).unwrap().tensors["q.weight"].offset as usize + 34 };
        for length in 0..end {
            let error = parse(&bytes[..length]).unwrap_err();
            assert!(matches!(error, HeaderError::Truncated { .. }), "at {length}: {error}");
        }
        assert!(parse(&bytes[..end]).is_ok());
    }

    #[test]
    fn a_header_with_any_byte_damaged_never_panics_and_never_points_outside_the_file() {
        let bytes = example();
        for position in 0..bytes.len() {
            for damage in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[position] ^= damage;
                if let Ok(header) = parse(&damaged) {
                    for tensor in header.tensors.values() {
                        assert!(tensor.offset + tensor.bytes <= damaged.len() as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn an_absurd_length_is_rejected_before_anything_is_allocated() {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(u64::MAX.to_le_bytes());
        let error = parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("truncated: a metadata key needs 18446744073709551615 bytes"), "{error}");
    }

    #[test]
    fn lists_and_headers_have_bounded_memory() {
        let list =
            |kind: u32, count: u64, bytes: &[u8]| [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat();
        let bytes = Writer::default().entry("bytes", 9, &list(0, 1 << 20, &vec![7; 1 << 20])).finish();
        let Value::Integers(held) = &parse(&bytes).unwrap().metadata.0["bytes"] else { panic!("a list of numbers") };
        assert_eq!((held.bytes.len(), held.bytes.capacity()), (1 << 20, 1 << 20));
        let floats = Writer::default().entry("scores", 9, &list(6, 3, &[0; 12])).u32("after", 5).finish();
        let header = parse(&floats).unwrap();
        assert_eq!(
            (&header.metadata.0["scores"], &header.metadata.0["after"]),
            (&Value::Floats(3), &Value::Unsigned(5))
        );
        // An 8 GB file of which nothing is read: the length of the list is enough to reject it.
        let long = Writer::default().entry("bytes", 9, &list(0, 1 << 32, &[])).finish();
        let error = Header::parse(&mut &long[..], 1 << 33).unwrap_err().to_string();
        assert!(error.contains("bytes would make it longer than 134217728 bytes"), "{error}");
    }

    #[test]
    fn other_file_types_and_versions_are_named_in_the_error() {
        assert!(parse(b"PK\x03\x04rest").unwrap_err().to_string().contains("not a GGUF file"));
        assert!(parse(b"GGUF\x01\0\0\0").unwrap_err().to_string().contains("version 1"));
        let twice = Writer::default().u32("k", 1).u32("k", 2).finish();
        assert!(parse(&twice).unwrap_err().to_string().contains("k appears twice"));
        let odd = Writer::default().tensor("q", &[1, 33], 8, &[0; 34]).finish();
        assert!(parse(&odd).unwrap_err().to_string().contains("Q8_0 packs 32"));
        let mut moved = Writer::default().f32s("a", &[2], &[1.0, 2.0]).f32s("b", &[2], &[3.0, 4.0]).finish();
        let offset = moved.iter().position(|byte| *byte == 32).unwrap();
        moved[offset] = 64;
        assert!(parse(&moved).unwrap_err().to_string().contains("tensor b begins at byte 64 of the data where 32"));
        let unknown = Writer::default().tensor("q", &[1, 32], 99, &[0; 34]).finish();
        assert!(parse(&unknown).unwrap_err().to_string().contains("unknown encoding 99"));
    }
}
