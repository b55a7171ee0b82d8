//! The metadata of a GGUF file: keys and typed values. Pure.

use std::collections::BTreeMap;

/// Metadata by key (`general.architecture`, `llama.block_count`, `tokenizer.ggml.tokens`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub BTreeMap<String, Value>);

/// A metadata value. Integer and float widths are not preserved.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer, or a signed one that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// A floating-point number. A 32-bit one is converted by its shortest decimal: 1e-5, not 9.99999974e-6.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list of integers or booleans, in the encoding of the file.
    Integers(Integers),
    /// The length of a list of floating-point numbers; their values are not used by any reader.
    Floats(u64),
    /// A list of strings.
    Texts(Vec<String>),
}

/// A list of integers, little-endian, `width` bytes each, so that a list of a million bytes takes a million bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// Bytes per integer: 1, 2, 4 or 8.
    pub width: usize,
    /// Whether the integers are signed.
    pub signed: bool,
    /// The integers, concatenated.
    pub bytes: Vec<u8>,
}

impl Integers {
    /// The integers; `None` if one is negative.
    fn unsigned(&self) -> Option<Vec<u64>> {
        let number = |bytes: &[u8]| {
            let negative = self.signed && bytes.last().is_some_and(|high| high & 0x80 != 0);
            let mut wide = [0; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            (!negative).then(|| u64::from_le_bytes(wide))
        };
        self.bytes.chunks_exact(self.width).map(number).collect()
    }
}

/// A metadata entry that does not have the expected type.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The entry is missing.
    #[error("the metadata lacks {0}; the file does not contain a complete model")]
    Missing(String),
    /// The entry has the wrong type.
    #[error("the metadata entry {key} should be {expected}")]
    Type {
        /// Key.
        key: String,
        /// Expected type.
        expected: &'static str,
    },
}

impl Metadata {
    /// An unsigned integer; `None` if the key is absent.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        self.typed(key, "a non-negative integer", |v| if let Value::Unsigned(n) = v { Some(*n) } else { None })
    }

    /// A number; `None` if the key is absent.
    pub fn float(&self, key: &str) -> Result<Option<f64>, MetadataError> {
        self.typed(key, "a number", |v| if let Value::Float(x) = v { Some(*x) } else { None })
    }

    /// A string; `None` if the key is absent.
    pub fn text(&self, key: &str) -> Result<Option<&str>, MetadataError> {
        self.typed(key, "text", |v| if let Value::Text(s) = v { Some(s.as_str()) } else { None })
    }

    /// A boolean; `None` if the key is absent.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.typed(key, "true or false", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A list of strings; `None` if the key is absent.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, MetadataError> {
        self.typed(key, "a list of texts", |v| {
            if let Value::Texts(texts) = v { Some(texts.iter().map(String::as_str).collect()) } else { None }
        })
    }

    /// A list of unsigned integers; `None` if the key is absent.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<u64>>, MetadataError> {
        self.typed(key, "a list of non-negative integers", |v| {
            if let Value::Integers(list) = v { list.unsigned() } else { None }
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let wrong = || MetadataError::Type { key: key.to_owned(), expected };
        self.0.get(key).map(|v| read(v).ok_or_else(wrong)).transpose()
    }

    /// A required value.
    pub fn required<T>(value: Option<T>, key: &str) -> Result<T, MetadataError> {
        value.ok_or_else(|| MetadataError::Missing(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_wrong_type_is_an_error_and_a_missing_one_is_none() {
        let list = |signed| Value::Integers(Integers { width: 2, signed, bytes: vec![1, 0, 0xff, 0xff] });
        let metadata = Metadata(BTreeMap::from([
            ("n".into(), Value::Negative(-1)),
            ("list".into(), list(true)),
            ("unsigned".into(), list(false)),
        ]));
        assert_eq!(metadata.integers("unsigned").unwrap().unwrap(), [1, 65_535]);
        assert_eq!(metadata.integer("other").unwrap(), None);
        assert!(metadata.integer("n").unwrap_err().to_string().contains("n should be a non-negative integer"));
        assert!(metadata.integers("list").is_err() && metadata.texts("list").is_err());
        assert!(Metadata::required(None::<u64>, "k").unwrap_err().to_string().contains("lacks k"));
    }
}
