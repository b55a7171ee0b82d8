//! Reads Parquet files (IO): rows become the same JSON as records of JSON Lines.
//!
//! Only known columns are read, so that others such as embeddings and images cost nothing.

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::jsonl::{Next, Wrong};

/// Passes each row to `take`, with those columns of `known` that the file has. The location in an error is the number
/// of the row, starting from 1.
pub(super) fn rows(
    file: File,
    known: &[&str],
    take: &mut dyn FnMut(Value) -> Result<Next, String>,
) -> Result<(), Wrong> {
    let mut row = 0;
    // The library's decoders panic on some damaged files.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let reader = SerializedFileReader::new(file).map_err(|e| (0, damaged(&e)))?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<&str> = schema.get_fields().iter().map(|f| f.name()).collect();
        if !names.iter().any(|name| known.contains(name)) {
            let known = known[..known.len().min(3)].join(", ");
            return Err((0, format!("expected columns such as {known}, found {}", names.join(", "))));
        }
        let schema = projection(schema, known).map_err(|e| (0, damaged(&e)))?;
        for found in reader.get_row_iter(Some(schema)).map_err(|e| (0, damaged(&e)))? {
            row += 1;
            let found = found.map_err(|e| (row, damaged(&e)))?;
            let fields = found.into_columns().into_iter();
            let record = object(fields).map_err(|e| (row, e))?;
            if let Next::Stop = take(record).map_err(|e| (row, e))? {
                break;
            }
        }
        Ok(())
    }));
    read.unwrap_or_else(|panic| Err((row + 1, damaged(&words(&*panic)))))
}

fn damaged(what: &impl ToString) -> String {
    format!(
        "cannot be read as Parquet: {}; the file is truncated or damaged, or uses an unsupported encoding",
        what.to_string()
    )
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// The schema reduced to the columns of `known`.
fn projection(schema: &Type, known: &[&str]) -> Result<Type, ParquetError> {
    let columns = schema.get_fields().iter().filter(|f| known.contains(&f.name())).cloned().collect();
    Type::group_type_builder(schema.name()).with_fields(columns).build()
}

fn object(fields: impl Iterator<Item = (String, Field)>) -> Result<Value, String> {
    let mut map = Map::new();
    for (name, field) in fields {
        let value = value(field).map_err(|e| format!("`{name}` {e}"))?;
        if map.insert(name.clone(), value).is_some() {
            return Err(format!("duplicate field `{name}`"));
        }
    }
    Ok(Value::Object(map))
}

fn value(field: Field) -> Result<Value, String> {
    // JSON has no NaN and no infinity; as a string such a value is rejected where a number is expected, with its name.
    let number = |n: f64| Number::from_f64(n).map_or_else(|| n.to_string().into(), Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(v) => v.into(),
        Field::Byte(v) => v.into(),
        Field::Short(v) => v.into(),
        Field::Int(v) => v.into(),
        Field::Long(v) => v.into(),
        Field::UByte(v) => v.into(),
        Field::UShort(v) => v.into(),
        Field::UInt(v) => v.into(),
        Field::ULong(v) => v.into(),
        Field::Float16(v) => number(f64::from(f32::from(v))),
        // By the shortest decimal of the 32-bit number: 0.9, not 0.8999999761581421.
        Field::Float(v) => v.to_string().parse().map_or(Value::Null, number),
        Field::Double(v) => number(v),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => return Err("is binary; expected a string".into()),
        },
        Field::Group(row) => object(row.into_columns().into_iter())?,
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|e| value(e.clone())).collect::<Result<_, String>>()?)
        }
        other => return Err(format!("is of an unsupported type ({other})")),
    })
}
