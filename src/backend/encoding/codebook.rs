//! Weights that are one of sixteen numbers of a table, times a scale: four bits a weight, whatever the file takes for it.
//! Types whose magnitudes come from grids have no more than eight of them, and a sign.

use super::grids;
use super::{Block, Encoding, Table, f16_at, first_32, nibbles};
use half::f16;

/// Of IQ4_NL and IQ4_XS.
const NONLINEAR: Table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the numbers of E2M1.
const E2M1: Table = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// Eighths: −1, 0 and 1, raised by ⅛, then lowered by it.
const IQ1: Table = [-7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7, 0, 0, 0, 0, 0];

/// Eight magnitudes, then the same with a minus.
const fn signed(magnitudes: [i8; 8]) -> Table {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 8 {
        table[index] = magnitudes[index];
        table[index + 8] = -magnitudes[index];
        index += 1;
    }
    table
}

/// ggml's `block_iq4_nl`.
pub struct IQ4_NL;
impl Encoding for IQ4_NL {
    const COLUMNS: usize = 32;
    const BYTES: usize = 18;
    const TABLE: Table = NONLINEAR;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        nibbles(&bytes[2..18], first_32(block));
    }
}

/// ggml's `block_mxfp4`; <https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf>.
pub struct MXFP4;
impl Encoding for MXFP4 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 17;
    const TABLE: Table = E2M1;
    /// A scale below 2⁻²⁴ becomes 0, and one of 2¹⁶ or more 2¹⁵: no model has such weights.
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        // The table's numbers are doubled. 2⁻²⁴ to 2⁻¹⁵ are subnormal as f16.
        block.scale = match i32::from(bytes[0]) - 128 {
            exponent @ -24..-14 => 1 << (exponent + 24),
            exponent @ -14.. => ((exponent.min(15) + 15) as u16) << 10,
            _ => 0,
        };
        nibbles(&bytes[1..17], first_32(block));
    }
}

/// ggml's `block_iq4_xs`.
pub struct IQ4_XS;
impl Encoding for IQ4_XS {
    const COLUMNS: usize = 256;
    const BYTES: usize = 136;
    const TABLE: Table = NONLINEAR;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        let high = u16::from_le_bytes([bytes[2], bytes[3]]);
        for index in 0..8 {
            let low = bytes[4 + index / 2] >> (4 * (index % 2)) & 15;
            let high = (high >> (2 * index)) as u8 & 3;
            block.scales[index] = (low | high << 4) as i8 - 32;
        }
        for (bytes, values) in bytes[8..136].chunks_exact(16).zip(block.values.chunks_exact_mut(32)) {
            nibbles(bytes, values);
        }
    }
}

/// Eight signs of seven bits: an even number of them is negative.
fn even_signs(bits: u32) -> u8 {
    let bits = bits as u8 & 127;
    bits | (bits.count_ones() as u8 & 1) << 7
}

/// Puts the entry `grid` of a grid of `BITS` bits a number, with the signs from bit 0 on.
#[inline(always)]
fn put<const BITS: usize>(values: &mut [u8], grid: u16, signs: u8) {
    for (index, value) in values.iter_mut().enumerate() {
        *value = (grid >> (BITS * index)) as u8 & ((1 << BITS) - 1) | (signs >> index & 1) << 3;
    }
}

/// Half a scale more than the four bits say, in halves.
fn odd(bits: u8) -> i8 {
    2 * (bits & 15) as i8 + 1
}

/// ggml's `block_iq3_xxs`.
pub struct IQ3_XXS;
impl Encoding for IQ3_XXS {
    const COLUMNS: usize = 256;
    const BYTES: usize = 98;
    const TABLE: Table = signed([4, 12, 20, 28, 36, 44, 52, 62]);
    const FACTOR: f32 = 0.25;
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        let (places, more) = bytes[2..98].split_at(64);
        for (part, more) in more.as_chunks::<4>().0.iter().enumerate() {
            let more = u32::from_le_bytes(*more);
            block.scales[part] = odd((more >> 28) as u8);
            for eight in 0..4 {
                let at = 8 * part + 2 * eight;
                let signs = even_signs(more >> (7 * eight));
                let (first, second) = block.values[4 * at..][..8].split_at_mut(4);
                put::<3>(first, grids::IQ3_XXS[usize::from(places[at])], signs);
                put::<3>(second, grids::IQ3_XXS[usize::from(places[at + 1])], signs >> 4);
            }
        }
    }
}

/// ggml's `block_iq3_s`.
pub struct IQ3_S;
impl Encoding for IQ3_S {
    const COLUMNS: usize = 256;
    const BYTES: usize = 110;
    const TABLE: Table = signed([1, 3, 5, 7, 9, 11, 13, 15]);
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        let (places, high, signs, scales) =
            (&bytes[2..66], &bytes[66..74], &bytes[74..106], &bytes[106..110]);
        for part in 0..8 {
            block.scales[part] = odd(scales[part / 2] >> (4 * (part % 2)));
        }
        for (at, (&place, values)) in places.iter().zip(block.values.as_chunks_mut::<4>().0).enumerate() {
            let high = usize::from(high[at / 8] >> (at % 8) & 1);
            put::<3>(values, grids::IQ3_S[usize::from(place) | high << 8], signs[at / 2] >> (4 * (at % 2)));
        }
    }
}

/// Of all types of two bits.
const IQ2: Table = signed([8, 25, 43, 0, 0, 0, 0, 0]);

/// ggml's `block_iq2_xxs`.
pub struct IQ2_XXS;
impl Encoding for IQ2_XXS {
    const COLUMNS: usize = 256;
    const BYTES: usize = 66;
    const TABLE: Table = IQ2;
    const FACTOR: f32 = 0.125;
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        for (part, bytes) in bytes[2..66].as_chunks::<8>().0.iter().enumerate() {
            let [a, b, c, d, more @ ..] = *bytes;
            let more = u32::from_le_bytes(more);
            block.scales[part] = odd((more >> 28) as u8);
            for (eight, place) in [a, b, c, d].into_iter().enumerate() {
                let values = &mut block.values[32 * part + 8 * eight..][..8];
                put::<2>(values, grids::IQ2_XXS[usize::from(place)], even_signs(more >> (7 * eight)));
            }
        }
    }
}

/// Scales of 16 columns each, two to a byte.
fn halves(bytes: &[u8], scales: &mut [i8; 16]) {
    for (pair, byte) in scales.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [odd(*byte), odd(byte >> 4)];
    }
}

/// ggml's `block_iq2_xs`.
pub struct IQ2_XS;
impl Encoding for IQ2_XS {
    const COLUMNS: usize = 256;
    const BYTES: usize = 74;
    const TABLE: Table = IQ2;
    const FACTOR: f32 = 0.125;
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        halves(&bytes[66..74], &mut block.scales);
        let places = bytes[2..66].as_chunks::<2>().0;
        for (place, values) in places.iter().zip(block.values.as_chunks_mut::<8>().0) {
            let place = u16::from_le_bytes(*place);
            put::<2>(values, grids::IQ2_XS[usize::from(place & 511)], even_signs(u32::from(place >> 9)));
        }
    }
}

/// ggml's `block_iq2_s`.
pub struct IQ2_S;
impl Encoding for IQ2_S {
    const COLUMNS: usize = 256;
    const BYTES: usize = 82;
    const TABLE: Table = IQ2;
    const FACTOR: f32 = 0.125;
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        halves(&bytes[74..82], &mut block.scales);
        let (places, signs, high) = (&bytes[2..34], &bytes[34..66], &bytes[66..74]);
        for (at, values) in block.values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = usize::from(high[at / 4] >> (2 * (at % 4)) & 3);
            put::<2>(values, grids::IQ2_S[usize::from(places[at]) | high << 8], signs[at]);
        }
    }
}

/// ggml's `block_iq1_s`.
pub struct IQ1_S;
impl Encoding for IQ1_S {
    const COLUMNS: usize = 256;
    const BYTES: usize = 50;
    const TABLE: Table = IQ1;
    const FACTOR: f32 = 0.125;
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        let (places, more) = bytes[2..50].split_at(32);
        for (part, more) in more.as_chunks::<2>().0.iter().enumerate() {
            let more = u16::from_le_bytes(*more);
            block.scales[part] = odd((more >> 12) as u8 & 7);
            let lowered = if more >> 15 == 1 { 0xff } else { 0 };
            for eight in 0..4 {
                let place = usize::from(places[4 * part + eight]) | usize::from(more >> (3 * eight) & 7) << 8;
                put::<2>(&mut block.values[32 * part + 8 * eight..][..8], grids::IQ1[place], lowered);
            }
        }
    }
}

/// ggml's `block_iq1_m`.
pub struct IQ1_M;
impl Encoding for IQ1_M {
    const COLUMNS: usize = 256;
    const BYTES: usize = 56;
    const TABLE: Table = IQ1;
    const FACTOR: f32 = 0.125;
    fn decode(bytes: &[u8], block: &mut Block) {
        let (places, more, scales) = (&bytes[..32], &bytes[32..48], &bytes[48..56]);
        let words: [u16; 4] = std::array::from_fn(|index| f16_at(scales, 2 * index));
        // The block's own scale is in the four upper bits of each.
        block.scale = (0..4).fold(0, |scale, index| scale | words[index] >> 12 << (4 * index));
        for (index, scale) in block.scales.iter_mut().enumerate() {
            *scale = odd((words[index / 4] >> (3 * (index % 4))) as u8 & 7);
        }
        for (at, values) in block.values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let more = more[at / 2] >> (4 * (at % 2));
            let place = usize::from(places[at]) | usize::from(more & 7) << 8;
            put::<2>(values, grids::IQ1[place], if more >> 3 & 1 == 1 { 0xff } else { 0 });
        }
    }
}

/// Turns ggml's `block_nvfp4` into f16 numbers, which hold them as they are: an unsigned E4M3 scale for every 16 columns
/// times E2M1.
pub fn nvfp4_to_f16(bytes: &[u8], out: &mut Vec<u8>) {
    for block in bytes.chunks_exact(36) {
        let (scales, places) = block.split_at(4);
        for (scale, places) in scales.iter().zip(places.chunks_exact(8)) {
            let (exponent, mantissa) = (i32::from(scale >> 3 & 15), f32::from(scale & 7));
            // The table's numbers are doubled.
            let scale = match (exponent, scale) {
                // E4M3 without a sign has one code that is no number.
                (_, 127) => 0.0,
                (0, _) => mantissa * 2f32.powi(-10),
                _ => (8.0 + mantissa) * 2f32.powi(exponent - 11),
            };
            let mut values = [0; 16];
            nibbles(places, &mut values);
            for place in values {
                let number = f16::from_f32(scale * f32::from(E2M1[usize::from(place)]));
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
    }
}
