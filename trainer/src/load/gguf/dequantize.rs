//! Dequantisation of GGUF's encodings. Pure: blocks in, 32-bit floats out.
//!
//! A quantised tensor is a sequence of blocks, each with its own scale `d` (and minimum `m`) as a 16-bit float.
//! Layouts: `ggml-common.h` of the ggml project. In the formulas `q` is the stored integer.

use half::{bf16, f16};

/// How a tensor's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 32-bit floats.
    F32,
    /// 16-bit floats (IEEE half).
    F16,
    /// 16-bit floats with the exponent range of 32-bit ones (bfloat16).
    Bf16,
    /// 4 bits, `d (q - 8)`, blocks of 32.
    Q4_0,
    /// 4 bits, `d q + m`, blocks of 32.
    Q4_1,
    /// 5 bits, `d (q - 16)`, blocks of 32.
    Q5_0,
    /// 5 bits, `d q + m`, blocks of 32.
    Q5_1,
    /// 8 bits, `d q`, blocks of 32.
    Q8_0,
    /// 4 bits, `d s q - dmin m`, blocks of 256 in 8 groups with 6-bit `s` and `m`.
    Q4K,
    /// 5 bits, as [`Encoding::Q4K`].
    Q5K,
    /// 6 bits, `d s (q - 32)`, blocks of 256 in 16 groups with 8-bit `s`.
    Q6K,
    /// A known encoding that is not supported.
    Unsupported(&'static str),
}

/// Why a tensor cannot be dequantised.
#[derive(Debug, thiserror::Error)]
pub enum DequantizeError {
    /// The encoding is not supported.
    #[error("the encoding {0} is not supported; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are")]
    Unsupported(&'static str),
    /// The bytes are not a whole number of blocks.
    #[error("{bytes} bytes are not a whole number of {encoding} blocks of {block} bytes")]
    Ragged {
        /// The encoding.
        encoding: Encoding,
        /// Length of the data, in bytes.
        bytes: usize,
        /// Size of a block, in bytes.
        block: usize,
    },
}

impl Encoding {
    /// The encoding with a given `ggml_type` number; `None` if it is unknown.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            10 => Self::Unsupported("Q2_K"),
            11 => Self::Unsupported("Q3_K"),
            16 => Self::Unsupported("IQ2_XXS"),
            17 => Self::Unsupported("IQ2_XS"),
            18 => Self::Unsupported("IQ3_XXS"),
            19 => Self::Unsupported("IQ1_S"),
            20 => Self::Unsupported("IQ4_NL"),
            21 => Self::Unsupported("IQ3_S"),
            22 => Self::Unsupported("IQ2_S"),
            23 => Self::Unsupported("IQ4_XS"),
            29 => Self::Unsupported("IQ1_M"),
            34 => Self::Unsupported("TQ1_0"),
            35 => Self::Unsupported("TQ2_0"),
            39 => Self::Unsupported("MXFP4"),
            _ => return None,
        })
    }

    /// Number of values per block.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Unsupported(_) => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes per block; 0 if the encoding is not supported, as its block size is unknown.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Unsupported(_) => 0,
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Unsupported(name) => name,
        })
    }
}

/// Dequantises a sequence of blocks.
pub fn dequantize(encoding: Encoding, bytes: &[u8]) -> Result<Vec<f32>, DequantizeError> {
    let block = encoding.block_bytes();
    if let Encoding::Unsupported(name) = encoding {
        return Err(DequantizeError::Unsupported(name));
    }
    if !bytes.len().is_multiple_of(block) {
        return Err(DequantizeError::Ragged { encoding, bytes: bytes.len(), block });
    }
    let mut values = Vec::with_capacity(bytes.len() / block * encoding.block_values());
    let decode = match encoding {
        Encoding::F32 => |b: &[u8], out: &mut Vec<f32>| out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Encoding::F16 => |b: &[u8], out: &mut Vec<f32>| out.push(half(b, 0)),
        Encoding::Bf16 => |b: &[u8], out: &mut Vec<f32>| out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        Encoding::Q4_0 => q4_0,
        Encoding::Q4_1 => q4_1,
        Encoding::Q5_0 => q5_0,
        Encoding::Q5_1 => q5_1,
        Encoding::Q8_0 => q8_0,
        Encoding::Q4K => q4_k,
        Encoding::Q5K => q5_k,
        Encoding::Q6K => q6_k,
        Encoding::Unsupported(name) => return Err(DequantizeError::Unsupported(name)),
    };
    for block in bytes.chunks_exact(block) {
        decode(block, &mut values);
    }
    Ok(values)
}

/// The 16-bit float at a byte offset of a block.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 values of 4 bits: the low nibbles of 16 bytes, then the high nibbles.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|b| b & 0xf).chain(bytes.iter().map(|b| b >> 4))
}

/// d: 2 bytes, 16 bytes of nibbles.
fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half(block, 0);
    out.extend(nibbles(&block[2..]).map(|q| d * (f32::from(q) - 8.0)));
}

/// d, m: 2 bytes each, 16 bytes of nibbles.
fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half(block, 0), half(block, 2));
    out.extend(nibbles(&block[4..]).map(|q| d * f32::from(q) + m));
}

/// 32 values of 5 bits: nibbles, with all fifth bits in one 32-bit integer.
fn fives(high: &[u8], low: &[u8]) -> impl Iterator<Item = u8> {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    nibbles(low).enumerate().map(move |(i, q)| q | ((high >> i & 1) as u8) << 4)
}

/// d: 2 bytes, fifth bits: 4 bytes, 16 bytes of nibbles.
fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half(block, 0);
    out.extend(fives(&block[2..6], &block[6..]).map(|q| d * (f32::from(q) - 16.0)));
}

/// d, m: 2 bytes each, fifth bits: 4 bytes, 16 bytes of nibbles.
fn q5_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half(block, 0), half(block, 2));
    out.extend(fives(&block[4..8], &block[8..]).map(|q| d * f32::from(q) + m));
}

/// d: 2 bytes, 32 signed bytes.
fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half(block, 0);
    out.extend(block[2..].iter().map(|q| d * f32::from(*q as i8)));
}

/// The 6-bit scale and minimum of group `g` (0 to 7), packed in 12 bytes: the first four of each in the low 6 bits of
/// bytes 0..4 and 4..8, the last four as nibbles of bytes 8..12 with their upper two bits on top of bytes 0..8.
fn scale_and_minimum(packed: &[u8], g: usize) -> (f32, f32) {
    let (scale, minimum) = if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        ((packed[g + 4] & 0xf) | (packed[g - 4] >> 6) << 4, (packed[g + 4] >> 4) | (packed[g] >> 6) << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// d, dmin: 2 bytes each, scales and minima: 12 bytes, nibbles: 128 bytes. Every 32 bytes contain two groups: low, then
/// high.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for (pair, bytes) in block[16..].chunks_exact(32).enumerate() {
        for (g, shift) in [(2 * pair, 0), (2 * pair + 1, 4)] {
            let (scale, minimum) = scale_and_minimum(&block[4..16], g);
            out.extend(bytes.iter().map(|b| d * scale * f32::from(b >> shift & 0xf) - dmin * minimum));
        }
    }
}

/// Like Q4_K, with 32 bytes of fifth bits before the nibbles: bit `g` of byte `i` belongs to value `i` of group `g`.
fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let high = &block[16..48];
    for (pair, bytes) in block[48..].chunks_exact(32).enumerate() {
        for (g, shift) in [(2 * pair, 0), (2 * pair + 1, 4)] {
            let (scale, minimum) = scale_and_minimum(&block[4..16], g);
            out.extend(bytes.iter().zip(high).map(|(b, h)| {
                let q = (b >> shift & 0xf) | (h >> g & 1) << 4;
                d * scale * f32::from(q) - dmin * minimum
            }));
        }
    }
}

/// Low 4 bits: 128 bytes, upper 2 bits: 64 bytes, scales: 16 signed bytes, d: 2 bytes. Each half of the block has 128
/// values in four runs of 32: the low nibbles of two runs of bytes, then their high nibbles; byte `i` of the upper bits
/// contains two bits for value `i` of each run. A scale applies to 16 values.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let d = half(block, 208);
    for part in 0..2 {
        let (low, high) = (&block[64 * part..][..64], &block[128 + 32 * part..][..32]);
        let scales = &block[192 + 8 * part..][..8];
        for run in 0..4 {
            for i in 0..32 {
                let nibble = low[32 * (run % 2) + i] >> (4 * (run / 2)) & 0xf;
                let q = nibble | (high[i] >> (2 * run) & 3) << 4;
                let scale = f32::from(scales[2 * run + i / 16] as i8);
                out.push(d * scale * (f32::from(q) - 32.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(x: f32) -> [u8; 2] {
        f16::from_f32(x).to_le_bytes()
    }

    fn values(number: u32, parts: &[&[u8]]) -> Vec<f32> {
        dequantize(Encoding::from_number(number).unwrap(), &parts.concat()).unwrap()
    }

    #[test]
    fn plain_numbers() {
        assert_eq!(values(0, &[&1.5f32.to_le_bytes(), &(-2f32).to_le_bytes()]), [1.5, -2.0]);
        assert_eq!(values(1, &[&h(0.5), &h(-3.0)]), [0.5, -3.0]);
        assert_eq!(values(30, &[&bf16::from_f32(-0.25).to_le_bytes()]), [-0.25]);
    }

    // Byte i contains i in its low nibble and 15 - i in its high one, so value i is i and value 16 + i is 15 - i.
    fn ramp() -> Vec<u8> {
        (0..16).map(|i| i | (15 - i) << 4).collect()
    }

    #[test]
    fn four_bits_are_centred_on_8_or_shifted_by_the_minimum() {
        let x = values(2, &[&h(0.5), &ramp()]);
        assert_eq!((x.len(), x[0], x[15], x[16], x[31]), (32, -4.0, 3.5, 3.5, -4.0));
        let x = values(3, &[&h(0.5), &h(-1.0), &ramp()]);
        assert_eq!((x.len(), x[0], x[15], x[16], x[31]), (32, -1.0, 6.5, 6.5, -1.0));
    }

    #[test]
    fn the_fifth_bit_of_value_i_is_bit_i() {
        let high = (1u32 << 0 | 1 << 17).to_le_bytes();
        let x = values(6, &[&h(1.0), &high, &ramp()]);
        // Value 0 is 0 + 16 and value 17 is 14 + 16; value 1 is 1 as its fifth bit is not set.
        assert_eq!((x[0], x[1], x[16], x[17]), (0.0, -15.0, -1.0, 14.0));
        let x = values(7, &[&h(2.0), &h(0.5), &high, &ramp()]);
        assert_eq!((x[0], x[1], x[16], x[17]), (32.5, 2.5, 30.5, 60.5));
    }

    #[test]
    fn eight_bits_are_signed() {
        let q: Vec<u8> = (0..32u8).map(|i| i.wrapping_sub(16)).collect();
        let x = values(8, &[&h(0.25), &q]);
        assert_eq!((x[0], x[16], x[31]), (-4.0, 0.0, 3.75));
    }

    // Scales of groups 0..8: 1, 2, 3, 4, 17, 34, 51, 4; minima: 5, 6, 7, 8, 1, 18, 35, 52. The last four of each have their
    // upper two bits in the first eight bytes: 17 = 1 + 1*16, 34 = 2 + 2*16, 51 = 3 + 3*16, 4 = 4 + 0*16.
    fn packed_scales() -> [u8; 12] {
        [
            1 | 1 << 6,
            2 | 2 << 6,
            3 | 3 << 6,
            4,
            5,
            6 | 1 << 6,
            7 | 2 << 6,
            8 | 3 << 6,
            1 | 1 << 4,
            2 | 2 << 4,
            3 | 3 << 4,
            4 | 4 << 4,
        ]
    }

    #[test]
    fn six_bit_scales_and_minima_unpack() {
        let all: Vec<(f32, f32)> = (0..8).map(|g| scale_and_minimum(&packed_scales(), g)).collect();
        let scales: Vec<f32> = all.iter().map(|s| s.0).collect();
        let minima: Vec<f32> = all.iter().map(|s| s.1).collect();
        assert_eq!(scales, [1.0, 2.0, 3.0, 4.0, 17.0, 34.0, 51.0, 4.0]);
        assert_eq!(minima, [5.0, 6.0, 7.0, 8.0, 1.0, 18.0, 35.0, 52.0]);
    }

    #[test]
    fn k_blocks_of_four_bits_scale_each_group_and_subtract_its_minimum() {
        let nibbles = vec![3 | 5 << 4; 128];
        let x = values(12, &[&h(0.5), &h(2.0), &packed_scales(), &nibbles]);
        assert_eq!(x.len(), 256);
        // Group 0: 0.5*1*3 - 2*5; group 1: 0.5*2*5 - 2*6; group 6: 0.5*51*3 - 2*35; group 7: 0.5*4*5 - 2*52.
        assert_eq!((x[0], x[31], x[32]), (-8.5, -8.5, -7.0));
        assert_eq!((x[192], x[224], x[255]), (6.5, -94.0, -94.0));
    }

    #[test]
    fn k_blocks_of_five_bits_use_bit_g_for_group_g() {
        let mut high = [0u8; 32];
        high[1] = 1 << 0 | 1 << 7;
        let nibbles = vec![3 | 5 << 4; 128];
        let x = values(13, &[&h(0.5), &h(2.0), &packed_scales(), &high, &nibbles]);
        // Group 0, value 1: 0.5*1*19 - 10; group 7, value 1: 0.5*4*21 - 104; the fifth bit of their neighbours is not
        // set.
        assert_eq!((x.len(), x[0], x[1], x[224], x[225]), (256, -8.5, -0.5, -94.0, -62.0));
    }

    #[test]
    fn k_blocks_of_six_bits_combine_nibbles_upper_bits_and_scales() {
        let mut low = [0u8; 128];
        let mut high = [0u8; 64];
        low[5] = 0x7 | 0x9 << 4; // first half: run 0, value 5, and run 2, value 5
        low[64 + 32 + 20] = 0x1 | 0x2 << 4; // second half: run 1, value 20, and run 3, value 20
        high[5] = 0b0010_0011; // first half, value 5: run 0 has 3, run 2 has 2
        high[32 + 20] = 0b0100_1000; // second half, value 20: run 1 has 2, run 3 has 1
        let scales: Vec<u8> = (1..=16).map(|s: i8| (if s == 11 { -s } else { s }) as u8).collect();
        let x = values(14, &[&low, &high, &scales, &h(0.5)]);
        let (first, second) = (0.5 * 1.0 * (7.0 + 48.0 - 32.0), 0.5 * 5.0 * (9.0 + 32.0 - 32.0));
        assert_eq!((x[5], x[64 + 5]), (first, second));
        let (first, second) = (0.5 * 12.0 * (1.0 + 32.0 - 32.0), 0.5 * 16.0 * (2.0 + 16.0 - 32.0));
        assert_eq!((x[128 + 32 + 20], x[128 + 96 + 20]), (first, second));
        assert_eq!((x[128 + 32], x.len()), (0.5 * -11.0 * -32.0, 256), "scales are signed");
    }

    #[test]
    fn ragged_and_unsupported_bytes_are_errors() {
        assert!(dequantize(Encoding::Q8_0, &[0; 35]).unwrap_err().to_string().contains("35 bytes"));
        let q2 = Encoding::from_number(10).unwrap();
        assert!(dequantize(q2, &[]).unwrap_err().to_string().contains("Q2_K is not supported"));
        assert_eq!(Encoding::from_number(1000), None);
    }
}
