//! Reads TensorBoard's event files with all possible checks. Pure, and independent of the trainer's writer.
//!
//! The framing is that of TFRecord (tensorflow.org, "TFRecord format details"): length, masked CRC-32C of the length,
//! data, masked CRC-32C of the data. The data is a protobuf message `Event` (tensorflow/core/util/event.proto).

/// A scalar of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// The step that it was logged for.
    pub step: i64,
    /// Its name.
    pub tag: String,
    /// The value.
    pub value: f32,
}

/// The scalars of a file, in order.
///
/// # Errors
/// A description of the fault, and its byte offset.
pub fn read(file: &[u8]) -> Result<Vec<Scalar>, String> {
    let (mut rest, mut scalars, mut first) = (file, Vec::new(), true);
    while !rest.is_empty() {
        let at = file.len() - rest.len();
        let event = record(&mut rest).and_then(message).map_err(|e| format!("byte {at}: {e}"))?;
        let version = event.iter().find_map(|(field, value)| (*field == 3).then_some(value));
        match (first, version) {
            (true, Some(Value::Bytes(b"brain.Event:2"))) => first = false,
            (true, other) => return Err(format!("byte {at}: expected the version of the file, found {other:?}")),
            (false, None) => scalars.extend(summary(&event).map_err(|e| format!("byte {at}: {e}"))?),
            (false, Some(_)) => return Err(format!("byte {at}: a second version")),
        }
    }
    if first { Err("an empty file".to_owned()) } else { Ok(scalars) }
}

/// The data of the next record.
fn record<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = checked(rest, 8)?;
    let length = u64::from_le_bytes(length.try_into().map_err(|_| "no length")?);
    checked(rest, usize::try_from(length).map_err(|e| e.to_string())?)
}

/// The next `length` bytes, after verifying the checksum that follows them.
fn checked<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let data = take(rest, length)?;
    let masked = u32::from_le_bytes(take(rest, 4)?.try_into().map_err(|_| "no checksum")?);
    let (found, computed) = (masked.wrapping_sub(0xa282_ead8).rotate_left(15), crc32c(data));
    if found == computed { Ok(data) } else { Err(format!("checksum {found:08x} of data with {computed:08x}")) }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (data, after) = rest.split_at_checked(length).ok_or(format!("{length} bytes in {}", rest.len()))?;
    *rest = after;
    Ok(data)
}

/// CRC-32C by its definition: polynomial 0x1edc6f41, reflected, bit by bit.
fn crc32c(data: &[u8]) -> u32 {
    let shift = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc));
    !data.iter().fold(u32::MAX, byte)
}

/// The value of a field of a message.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

type Message<'a> = Vec<(u64, Value<'a>)>;

/// The fields of a message (protobuf.dev, "Encoding").
fn message(mut data: &[u8]) -> Result<Message<'_>, String> {
    let mut fields = Vec::new();
    while !data.is_empty() {
        let key = number(&mut data)?;
        let value = match key & 7 {
            0 => Value::Number(number(&mut data)?),
            1 => Value::Bytes(take(&mut data, 8)?),
            2 => {
                let length = number(&mut data)? as usize;
                Value::Bytes(take(&mut data, length)?)
            }
            5 => Value::Bytes(take(&mut data, 4)?),
            other => return Err(format!("wire type {other}")),
        };
        fields.push((key >> 3, value));
    }
    Ok(fields)
}

fn number(data: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(data, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits".to_owned())
}

/// The scalars of an event: `step` is field 2, `summary` 5; in the summary `value` is 1, which has `tag` 1 and
/// `simple_value` 2.
fn summary(event: &Message<'_>) -> Result<Vec<Scalar>, String> {
    let step = event.iter().find_map(|field| if let (2, Value::Number(n)) = field { Some(*n as i64) } else { None });
    let mut scalars = Vec::new();
    for values in embedded(event, 5)? {
        for value in embedded(&values, 1)? {
            let bytes = |wanted: u64| {
                let found = value.iter().find_map(|(field, v)| (*field == wanted).then_some(v));
                if let Some(Value::Bytes(bytes)) = found {
                    Ok(*bytes)
                } else {
                    Err(format!("field {wanted}: {found:?}"))
                }
            };
            let tag = String::from_utf8(bytes(1)?.to_vec()).map_err(|e| e.to_string())?;
            let number = f32::from_le_bytes(bytes(2)?.try_into().map_err(|_| format!("{tag}: no float"))?);
            scalars.push(Scalar { step: step.ok_or(format!("{tag}: no step"))?, tag, value: number });
        }
    }
    Ok(scalars)
}

/// The embedded messages in a field of a message.
fn embedded<'a>(message_: &Message<'a>, field: u64) -> Result<Vec<Message<'a>>, String> {
    let of_field = message_.iter().filter(|(found, _)| *found == field);
    of_field.map(|(_, v)| if let Value::Bytes(bytes) = v { message(bytes) } else { Err(format!("{v:?}")) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two records, worked out by hand: the version, and `loss` = 0.5 at step 300.
    fn file() -> Vec<u8> {
        let framed = |data: &[u8]| {
            let masked = |bytes: &[u8]| crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
            let length = (data.len() as u64).to_le_bytes();
            [&length[..], &masked(&length), data, &masked(data)].concat()
        };
        let event = [&b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15"[..], &0.5_f32.to_le_bytes()].concat();
        [framed(b"\x1a\x0dbrain.Event:2"), framed(&event)].concat()
    }

    #[test]
    fn the_checksum_matches_the_standard() {
        // RFC 3720, B.4, and the check value of the catalogue of CRC algorithms.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        let file = file();
        assert_eq!(read(&file), Ok(vec![Scalar { step: 300, tag: "loss".to_owned(), value: 0.5 }]));
        for bit in 0..file.len() * 8 {
            let mut broken = file.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&broken).is_err(), "bit {bit}");
        }
        let second = 12 + 15 + 4;
        for length in (0..file.len()).filter(|length| *length != second) {
            assert!(read(&file[..length]).is_err(), "{length} bytes");
        }
    }
}
