//! TensorBoard event files, as bytes (computes).
//!
//! A file is a sequence of TFRecords: length (u64), masked CRC-32C of the length, data, masked CRC-32C of the data,
//! all little-endian (tensorflow/core/lib/io/record_writer.h). The data is an `Event` message
//! (tensorflow/core/util/event.proto), of which scalars need five fields, so the few bytes of protobuf are written here.

/// Name of the file. TensorBoard reads every file whose name contains `tfevents`.
pub const EVENT_FILE: &str = "events.out.tfevents.0.plumbline";

/// The first record of a file, which states its version.
pub fn header() -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, 0.0);
    bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// A record with the scalars of a step. Its wall time is `step` seconds after the epoch, so that the file depends only
/// on the logged values: an interrupted and resumed run writes the same bytes as an uninterrupted one, and artifacts
/// are reproducible. TensorBoard's default axis is the step; its relative axis then counts steps.
pub fn scalars<'a>(step: i64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut scalar = Vec::new();
        bytes(&mut scalar, 1, tag.as_bytes());
        key(&mut scalar, 2, 5);
        scalar.extend((value as f32).to_le_bytes());
        bytes(&mut summary, 1, &scalar);
    }
    let mut event = Vec::new();
    double(&mut event, 1, step as f64);
    key(&mut event, 2, 0);
    varint(&mut event, step as u64);
    bytes(&mut event, 5, &summary);
    record(&event)
}

/// Frames a record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// CRC-32C, rotated and shifted, so that the checksum of data that contains checksums stays useful.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A field's number and wire type: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// CRC-32C bit by bit, from its definition (reflected polynomial 0x82f63b78), to check the faster implementation.
    fn crc_by_bits(data: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    fn check(data: &[u8], masked: &[u8]) {
        let masked = u32::from_le_bytes(masked.try_into().unwrap());
        assert_eq!(masked.wrapping_sub(0xa282_ead8).rotate_left(15), crc_by_bits(data));
    }

    /// One decoded protobuf field: number, and payload.
    type Field = (u64, Vec<u8>);

    fn fields(mut data: &[u8]) -> Vec<Field> {
        fn number(data: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..64).step_by(7) {
                let byte = data[0];
                *data = &data[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        fn number_if(delimited: bool, data: &mut &[u8]) -> usize {
            if delimited { number(data) as usize } else { 0 }
        }
        let mut found = Vec::new();
        while !data.is_empty() {
            let key = number(&mut data);
            let payload = match key & 7 {
                0 => number(&mut data).to_le_bytes().to_vec(),
                wire => {
                    let length = [0, 8, number_if(wire == 2, &mut data), 0, 0, 4][wire as usize];
                    let (payload, rest) = data.split_at(length);
                    data = rest;
                    payload.to_vec()
                }
            };
            found.push((key >> 3, payload));
        }
        found
    }

    fn only(fields: &[Field], field: u64) -> Vec<u8> {
        let found: Vec<_> = fields.iter().filter(|(f, _)| *f == field).collect();
        assert_eq!(found.len(), 1, "field {field} once in {fields:?}");
        found[0].1.clone()
    }

    /// Decodes an event file: (step, wall time, tag, value) of each scalar, checksums verified.
    pub(in crate::report) fn decode(mut file: &[u8]) -> Vec<(i64, f64, String, f32)> {
        let mut scalars = Vec::new();
        let mut first = true;
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            check(&file[..8], &file[8..12]);
            let data = &file[12..12 + length];
            check(data, &file[12 + length..16 + length]);
            file = &file[16 + length..];
            let event = fields(data);
            let wall = f64::from_le_bytes(only(&event, 1).try_into().unwrap());
            if std::mem::take(&mut first) {
                assert_eq!(only(&event, 3), b"brain.Event:2");
                continue;
            }
            let step = i64::from_le_bytes(only(&event, 2).try_into().unwrap());
            for (field, value) in fields(&only(&event, 5)) {
                assert_eq!(field, 1);
                let value = fields(&value);
                let tag = String::from_utf8(only(&value, 1)).unwrap();
                scalars.push((step, wall, tag, f32::from_le_bytes(only(&value, 2).try_into().unwrap())));
            }
        }
        scalars
    }

    #[test]
    fn a_file_decodes_to_what_was_written_with_right_checksums() {
        let mut file = header();
        file.extend(scalars(1, [("loss", 0.5), ("rewards/margins", -1.25)]));
        file.extend(scalars(300, [("loss", f64::NAN)]));
        let found = decode(&file);
        assert_eq!(found[0], (1, 1.0, "loss".into(), 0.5));
        assert_eq!(found[1], (1, 1.0, "rewards/margins".into(), -1.25));
        assert_eq!((found[2].0, found[2].1, found[2].3.is_nan()), (300, 300.0, true));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        // The check value of CRC-32C (Castagnoli) for "123456789".
        assert_eq!(crc_by_bits(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }
}
