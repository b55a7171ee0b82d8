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
    /// A list.
    Array(Vec<Value>),
}

/// A metadata entry that is not what a reader of the model expects.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It is not there.
    #[error("the metadata lacks {0}; the file does not hold a whole model")]
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
        self.typed(key, "one whole number, not negative", |v| if let Value::Unsigned(n) = v { Some(*n) } else { None })
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
            let Value::Array(items) = v else { return None };
            items.iter().map(|i| if let Value::Text(s) = i { Some(s.as_str()) } else { None }).collect()
        })
    }

    /// A list of whole numbers, if the key is there.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<u64>>, MetadataError> {
        self.typed(key, "a list of whole numbers, not negative", |v| {
            let Value::Array(items) = v else { return None };
            items.iter().map(|i| if let Value::Unsigned(n) = i { Some(*n) } else { None }).collect()
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
        let list = Value::Array(vec![Value::Unsigned(1), Value::Text("a".into())]);
        let metadata = Metadata(BTreeMap::from([("n".into(), Value::Negative(-1)), ("list".into(), list)]));
        assert_eq!(metadata.integer("other").unwrap(), None);
        assert!(metadata.integer("n").unwrap_err().to_string().contains("n should be one whole number, not negative"));
        assert!(metadata.integers("list").is_err() && metadata.texts("list").is_err());
        assert!(Metadata::required(None::<u64>, "k").unwrap_err().to_string().contains("lacks k"));
    }
}
