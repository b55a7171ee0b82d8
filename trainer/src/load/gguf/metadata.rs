//! The metadata of a GGUF file: keys and typed values. Pure.

use std::collections::BTreeMap;

/// Metadata by key (`general.architecture`, `llama.block_count`, `tokenizer.ggml.tokens`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub BTreeMap<String, Value>);

/// A metadata value. The widths of numbers are not kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer, also from a signed one that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// A floating-point number. One of 32 bits is the decimal that it was written as: 1e-5, not 9.99999974e-6.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list of whole numbers or truth values, as the file has it.
    Integers(Integers),
    /// A list of floating-point numbers: how many. No reader of a model needs them.
    Floats(u64),
    /// A list of texts.
    Texts(Vec<String>),
}

/// A list of whole numbers, little-endian, `width` bytes each: a list of a million bytes takes a million bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// Bytes of a number: 1, 2, 4 or 8.
    pub width: usize,
    /// Whether numbers may be negative.
    pub signed: bool,
    /// The numbers, one after the other.
    pub bytes: Vec<u8>,
}

impl Integers {
    /// The numbers; none where one is negative.
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

/// A metadata entry that is not what a reader of the model expects.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It is not there.
    #[error("the metadata lacks {0}; the file does not contain a complete model")]
    Missing(String),
    /// It has another type.
    #[error("the metadata entry {key} should be {expected}")]
    Type {
        /// Key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Metadata {
    /// A whole number that is not negative, if the key is there.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        self.typed(key, "a non-negative integer", |v| if let Value::Unsigned(n) = v { Some(*n) } else { None })
    }

    /// A number, if the key is there.
    pub fn float(&self, key: &str) -> Result<Option<f64>, MetadataError> {
        self.typed(key, "a number", |v| if let Value::Float(x) = v { Some(*x) } else { None })
    }

    /// Text, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, MetadataError> {
        self.typed(key, "text", |v| if let Value::Text(s) = v { Some(s.as_str()) } else { None })
    }

    /// A truth value, if the key is there.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.typed(key, "true or false", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A list of texts, if the key is there.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, MetadataError> {
        self.typed(key, "a list of texts", |v| {
            if let Value::Texts(texts) = v { Some(texts.iter().map(String::as_str).collect()) } else { None }
        })
    }

    /// A list of whole numbers, if the key is there.
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

    /// A value that must be there.
    pub fn required<T>(value: Option<T>, key: &str) -> Result<T, MetadataError> {
        value.ok_or_else(|| MetadataError::Missing(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_type_is_an_error_and_a_missing_one_is_none() {
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
