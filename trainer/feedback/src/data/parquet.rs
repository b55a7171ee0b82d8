//! Writes preference records as Parquet (IO): the columns of `preference`, for tools that do not read JSONL.
//!
//! Texts are strings; conversations are lists of structs (`role`, `content`), as Hugging Face datasets write them.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::Content;
use super::preference::Preference;
use super::provenance::{JudgeLabel, Provenance};
use crate::{Error, Result};

/// Number of records per row group.
const ROW_GROUP: usize = 10_000;

/// Writes records to a Parquet file. The prompts must all be texts, or all conversations.
pub fn write_file(path: &Path, records: &[Preference]) -> Result<()> {
    write_packed(path, records, Compression::SNAPPY)
}

fn write_packed(path: &Path, records: &[Preference], packed: Compression) -> Result<()> {
    let other = |e: &dyn Display| Error::Failed(format!("{}: {e}", path.display()));
    let failed = |e: ParquetError| match e {
        ParquetError::External(inner) => {
            inner.downcast::<io::Error>().map_or_else(|e| other(&e), |e| Error::disk(path, *e))
        }
        e => other(&e),
    };
    let file = File::create(path).map_err(|e| Error::disk(path, e))?;
    let sync = file.try_clone().map_err(|e| Error::disk(path, e))?;
    let conversational = records.first().is_some_and(|r| matches!(r.prompt, Content::Messages(_)));
    let margins = records.iter().any(|r| r.margin.is_some());
    let schema = Arc::new(parse_message_type(&schema(conversational, margins)).map_err(failed)?);
    let properties = Arc::new(WriterProperties::builder().set_compression(packed).build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).map_err(failed)?;
    for rows in records.chunks(ROW_GROUP) {
        let mut group = writer.next_row_group().map_err(failed)?;
        for column in columns(rows, conversational, margins) {
            let Some(mut writer) = group.next_column().map_err(failed)? else { break };
            column.write(writer.untyped()).map_err(failed)?;
            writer.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    sync.sync_all().map_err(|e| Error::disk(path, e))
}

fn schema(conversational: bool, margins: bool) -> String {
    let content = |name: &str| {
        if conversational {
            format!(
                "required group {name} (LIST) {{ repeated group list {{ required group element {{ required binary \
                 role (UTF8); required binary content (UTF8); }} }} }}"
            )
        } else {
            format!("required binary {name} (UTF8);")
        }
    };
    format!(
        "message preference {{ {} {} {} required double p; {} required binary prompt_id (UTF8);
         optional group provenance {{ required int32 version; required group judges (LIST) {{ repeated group list {{
         required group element {{ required binary judge (UTF8); required binary model (UTF8); required binary template (UTF8);
         required double weight; required double p; required int32 orders; optional boolean conflict; optional double label_mass;
         }} }} }}
         required binary pair_id (UTF8); required binary chosen_id (UTF8); required binary rejected_id (UTF8); }} }}",
        content("prompt"),
        content("chosen"),
        content("rejected"),
        if margins { "optional double margin;" } else { "" },
    )
}

/// The leaf columns in the order of the schema.
fn columns(rows: &[Preference], conversational: bool, margins: bool) -> Vec<Column> {
    let mut columns = Vec::new();
    let sides: [fn(&Preference) -> &Content; 3] = [|r| &r.prompt, |r| &r.chosen, |r| &r.rejected];
    for side in sides {
        if conversational {
            columns.push(Column::Text(turns(rows, side, |m| &m.role)));
            columns.push(Column::Text(turns(rows, side, |m| &m.content)));
        } else {
            columns.push(Column::Text(leaf(rows, |r| (0, Some(ByteArray::from(side(r).to_text().as_str()))))));
        }
    }
    columns.push(Column::Double(leaf(rows, |r| (0, Some(r.p)))));
    if margins {
        columns.push(Column::Double(leaf(rows, |r| (r.margin.is_some().into(), r.margin))));
    }
    columns.push(Column::Text(leaf(rows, |r| (0, Some(ByteArray::from(r.prompt_id.as_str()))))));
    let text = |field: fn(&Provenance) -> &String| {
        Column::Text(provenance(rows, |p| (1, Some(ByteArray::from(field(p).as_str())))))
    };
    columns.push(Column::Int(provenance(rows, |p| (1, Some(p.version as i32)))));
    let judge = |field: fn(&JudgeLabel) -> &String| {
        Column::Text(judges(rows, |j| (2, Some(ByteArray::from(field(j).as_str())))))
    };
    columns.extend([judge(|j| &j.judge), judge(|j| &j.model), judge(|j| &j.template)]);
    columns.push(Column::Double(judges(rows, |j| (2, Some(j.weight)))));
    columns.push(Column::Double(judges(rows, |j| (2, Some(j.p)))));
    columns.push(Column::Int(judges(rows, |j| (2, Some(j.orders)))));
    columns.push(Column::Bool(judges(rows, |j| (2 + i16::from(j.conflict.is_some()), j.conflict))));
    columns.push(Column::Double(judges(rows, |j| (2 + i16::from(j.label_mass.is_some()), j.label_mass))));
    columns.extend([text(|p| &p.pair_id), text(|p| &p.chosen_id), text(|p| &p.rejected_id)]);
    columns
}

/// Values with their definition and repetition levels (Dremel; Melnik et al., 2010).
struct Leaf<T> {
    values: Vec<T>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

enum Column {
    Text(Leaf<ByteArray>),
    Double(Leaf<f64>),
    Int(Leaf<i32>),
    Bool(Leaf<bool>),
}

/// One value per row, or none: `field` returns the definition level and the value.
fn leaf<T>(rows: &[Preference], field: impl Fn(&Preference) -> (i16, Option<T>)) -> Leaf<T> {
    let (definition, values): (Vec<i16>, Vec<Option<T>>) = rows.iter().map(field).unzip();
    Leaf { values: values.into_iter().flatten().collect(), repetition: vec![0; definition.len()], definition }
}

fn provenance<T>(rows: &[Preference], field: impl Fn(&Provenance) -> (i16, Option<T>)) -> Leaf<T> {
    leaf(rows, |r| r.provenance.as_ref().map_or((0, None), &field))
}

/// A field of every judge's label of a row.
fn judges<T>(rows: &[Preference], field: impl Fn(&JudgeLabel) -> (i16, Option<T>)) -> Leaf<T> {
    let mut leaf = Leaf { values: Vec::new(), definition: Vec::new(), repetition: Vec::new() };
    for row in rows {
        let found = row.provenance.as_ref().map(|p| p.judges.as_slice());
        if found.is_none_or(<[_]>::is_empty) {
            leaf.definition.push(i16::from(found.is_some()));
            leaf.repetition.push(0);
        }
        for (i, judge) in found.into_iter().flatten().enumerate() {
            let (definition, value) = field(judge);
            leaf.values.extend(value);
            leaf.definition.push(definition);
            leaf.repetition.push(i16::from(i > 0));
        }
    }
    leaf
}

/// A field of every turn of a conversation.
fn turns(
    rows: &[Preference],
    side: impl Fn(&Preference) -> &Content,
    field: impl Fn(&super::Message) -> &String,
) -> Leaf<ByteArray> {
    let mut leaf = Leaf { values: Vec::new(), definition: Vec::new(), repetition: Vec::new() };
    for row in rows {
        let Content::Messages(messages) = side(row) else { continue };
        for (i, message) in messages.iter().enumerate() {
            leaf.values.push(ByteArray::from(field(message).as_str()));
            leaf.definition.push(1);
            leaf.repetition.push(i16::from(i > 0));
        }
    }
    leaf
}

impl Column {
    fn write(&self, writer: &mut ColumnWriter<'_>) -> Result<(), ParquetError> {
        match (self, writer) {
            (Self::Text(l), ColumnWriter::ByteArrayColumnWriter(w)) => {
                w.write_batch(&l.values, Some(&l.definition), Some(&l.repetition))
            }
            (Self::Double(l), ColumnWriter::DoubleColumnWriter(w)) => {
                w.write_batch(&l.values, Some(&l.definition), Some(&l.repetition))
            }
            (Self::Int(l), ColumnWriter::Int32ColumnWriter(w)) => {
                w.write_batch(&l.values, Some(&l.definition), Some(&l.repetition))
            }
            (Self::Bool(l), ColumnWriter::BoolColumnWriter(w)) => {
                w.write_batch(&l.values, Some(&l.definition), Some(&l.repetition))
            }
            _ => Err(ParquetError::General("a column does not have the type of the schema".into())),
        }
        .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    fn record(prompt: Content, margin: Option<f64>, provenance: Option<Provenance>) -> Preference {
        let (chosen, rejected) = (prompt.answered_by("yes"), prompt.answered_by("no"));
        Preference { prompt_id: prompt.id(), prompt, chosen, rejected, p: 0.75, margin, provenance }
    }

    fn provenance(conflict: Option<bool>) -> Provenance {
        let judge = |name: &str, conflict, label_mass| JudgeLabel {
            judge: name.into(),
            model: "m".into(),
            template: "t".into(),
            weight: 2.5,
            p: 0.75,
            orders: 2,
            conflict,
            label_mass,
        };
        // A single judge, or two, of which the second has fewer fields.
        let second = conflict.map(|conflict| judge("k", Some(!conflict), Some(0.5)));
        Provenance {
            version: super::super::provenance::VERSION,
            judges: std::iter::once(judge("j", conflict, None)).chain(second).collect(),
            pair_id: "p".into(),
            chosen_id: "c".into(),
            rejected_id: "r".into(),
        }
    }

    /// The rows of the file as JSON, read by the library.
    fn written(records: &[Preference]) -> Vec<serde_json::Value> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.parquet");
        write_file(&path, records).unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        reader.get_row_iter(None).unwrap().map(|row| json(&parquet::record::Field::Group(row.unwrap()))).collect()
    }

    fn json(field: &parquet::record::Field) -> serde_json::Value {
        use parquet::record::Field as F;
        match field {
            F::Str(s) => s.as_str().into(),
            F::Double(d) => (*d).into(),
            F::Int(i) => (*i).into(),
            F::Bool(b) => (*b).into(),
            F::ListInternal(l) => l.elements().iter().map(json).collect(),
            F::Group(row) => row
                .get_column_iter()
                .filter(|(_, f)| **f != F::Null)
                .map(|(name, f)| (name.clone(), json(f)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            other => panic!("unexpected field {other:?}"),
        }
    }

    #[test]
    fn records_are_read_back_the_same_from_every_format() {
        let turn = |role: &str, text: &str| super::super::Message { role: role.into(), content: text.into() };
        let turns = Content::Messages(vec![turn("system", ""), turn("user", "u\u{2028}")]);
        for records in [
            vec![
                record(Content::Text("a".into()), Some(1.1), Some(provenance(Some(true)))),
                record(Content::Text("\u{0}b\n".into()), None, None),
            ],
            vec![record(turns, None, Some(provenance(None)))],
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("p.parquet");
            for packed in [
                Compression::SNAPPY,
                Compression::UNCOMPRESSED,
                Compression::ZSTD(parquet::basic::ZstdLevel::default()),
                Compression::GZIP(parquet::basic::GzipLevel::default()),
            ] {
                write_packed(&path, &records, packed).unwrap();
                assert_eq!(super::super::preference::read_file(&path).unwrap(), records, "{packed}");
            }
        }
    }

    #[test]
    fn texts_have_the_same_columns_as_the_jsonl() {
        let records = [
            record(Content::Text("a".into()), Some(1.1), Some(provenance(Some(true)))),
            record(Content::Text("b".into()), None, Some(provenance(None))),
            record(Content::Text("c".into()), Some(-0.5), None),
        ];
        let expected: Vec<_> = records.iter().map(|r| serde_json::to_value(r).unwrap()).collect();
        assert_eq!(written(&records), expected);
    }

    #[test]
    fn conversations_of_several_turns_have_the_same_columns_as_the_jsonl() {
        let turn = |role: &str, text: &str| super::super::Message { role: role.into(), content: text.into() };
        let long =
            Content::Messages(vec![turn("system", "s"), turn("user", "u"), turn("assistant", "a"), turn("user", "v")]);
        let short = Content::Messages(vec![turn("user", "u")]);
        let records = [record(long, None, Some(provenance(Some(false)))), record(short, None, Some(provenance(None)))];
        let expected: Vec<_> = records.iter().map(|r| serde_json::to_value(r).unwrap()).collect();
        assert_eq!(written(&records), expected);
    }
}
