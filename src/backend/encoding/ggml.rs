//! Integers of 2 to 8 bits with scales, as ggml has had them from the beginning.

use super::{Block, Encoding, f16_at, first_32, nibbles};

/// Adds bit `i` of `bits` as bit 4 of value `i`.
#[inline(always)]
fn fifth_bits(bits: &[u8], values: &mut [u8; 32]) {
    for (&bits, values) in bits.iter().zip(values.as_chunks_mut::<8>().0) {
        // Byte `i` is bit `i` where it is, then a carry into bit 7 where that is set.
        let each = (u64::from(bits) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let set = ((each + 0x7f7f_7f7f_7f7f_7f7f) >> 3) & 0x1010_1010_1010_1010;
        *values = (u64::from_le_bytes(*values) | set).to_le_bytes();
    }
}

/// ggml's `block_q4_0`.
pub struct Q4_0;
impl Encoding for Q4_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 18;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        nibbles(&bytes[2..18], first_32(block));
    }
}

/// ggml's `block_q4_1`.
pub struct Q4_1;
impl Encoding for Q4_1 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 20;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        (block.scale, block.minimum) = (f16_at(bytes, 0), f16_at(bytes, 2));
        nibbles(&bytes[4..20], first_32(block));
    }
}

/// ggml's `block_q5_0`.
pub struct Q5_0;
impl Encoding for Q5_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 22;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        nibbles(&bytes[6..22], first_32(block));
        fifth_bits(&bytes[2..6], first_32(block));
    }
}

/// ggml's `block_q5_1`.
pub struct Q5_1;
impl Encoding for Q5_1 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 24;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        (block.scale, block.minimum) = (f16_at(bytes, 0), f16_at(bytes, 2));
        nibbles(&bytes[8..24], first_32(block));
        fifth_bits(&bytes[4..8], first_32(block));
    }
}

/// ggml's `block_q8_0`.
pub struct Q8_0;
impl Encoding for Q8_0 {
    const COLUMNS: usize = 32;
    const BYTES: usize = 34;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        first_32(block).copy_from_slice(&bytes[2..34]);
    }
}

/// The 6-bit scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn scales_and_minima(bytes: &[u8], block: &mut Block) {
    for index in 0..4 {
        let (scale, minimum, mixed) = (bytes[index], bytes[index + 4], bytes[index + 8]);
        block.scales[index] = (scale & 63) as i8;
        block.minima[index] = minimum & 63;
        block.scales[index + 4] = (mixed & 15 | scale >> 6 << 4) as i8;
        block.minima[index + 4] = mixed >> 4 | minimum >> 6 << 4;
    }
}

/// ggml's `block_q4_K`.
pub struct Q4K;
impl Encoding for Q4K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 144;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        (block.scale, block.minimum) = (f16_at(bytes, 0), f16_at(bytes, 2));
        scales_and_minima(&bytes[4..16], block);
        for (part, bytes) in bytes[16..144].chunks_exact(32).enumerate() {
            nibbles(bytes, &mut block.values[64 * part..][..64]);
        }
    }
}

/// ggml's `block_q5_K`.
pub struct Q5K;
impl Encoding for Q5K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 176;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        (block.scale, block.minimum) = (f16_at(bytes, 0), f16_at(bytes, 2));
        scales_and_minima(&bytes[4..16], block);
        for (part, bytes) in bytes[48..176].chunks_exact(32).enumerate() {
            nibbles(bytes, &mut block.values[64 * part..][..64]);
        }
        high_bits::<4>(&bytes[16..48], &mut block.values);
    }
}

/// ggml's `block_q6_K`.
pub struct Q6K;
impl Encoding for Q6K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 210;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 208);
        for half in 0..2 {
            let (low, high) = (&bytes[64 * half..][..64], &bytes[128 + 32 * half..][..32]);
            let (values, _) = block.values[128 * half..][..128].as_chunks_mut::<32>();
            for column in 0..32 {
                let (first, second, high) = (low[column], low[column + 32], high[column]);
                values[0][column] = first & 15 | (high & 3) << 4;
                values[1][column] = second & 15 | (high >> 2 & 3) << 4;
                values[2][column] = first >> 4 | (high >> 4 & 3) << 4;
                values[3][column] = second >> 4 | high >> 6 << 4;
            }
        }
        for (scale, &byte) in block.scales.iter_mut().zip(&bytes[192..208]) {
            *scale = byte as i8;
        }
    }
}

/// Two bits of each value: four runs of 32 columns in 32 bytes.
#[inline(always)]
pub(super) fn bit_pairs(bytes: &[u8], values: &mut [u8; 256]) {
    for (bytes, values) in bytes.chunks_exact(32).zip(values.chunks_exact_mut(128)) {
        for (run, values) in values.chunks_exact_mut(32).enumerate() {
            values.iter_mut().zip(bytes).for_each(|(value, byte)| *value = byte >> (2 * run) & 3);
        }
    }
}

/// Adds bit `run` of 32 bytes as bit `BIT` of the values of run `run`, of 32 columns.
#[inline(always)]
fn high_bits<const BIT: usize>(bytes: &[u8], values: &mut [u8; 256]) {
    for (run, values) in values.chunks_exact_mut(32).enumerate() {
        values.iter_mut().zip(bytes).for_each(|(value, byte)| *value |= (byte >> run & 1) << BIT);
    }
}

/// ggml's `block_q2_K`.
pub struct Q2K;
impl Encoding for Q2K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 84;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        (block.scale, block.minimum) = (f16_at(bytes, 80), f16_at(bytes, 82));
        for (index, byte) in bytes[..16].iter().enumerate() {
            block.scales[index] = (byte & 15) as i8;
            block.minima[index] = byte >> 4;
        }
        bit_pairs(&bytes[16..80], &mut block.values);
    }
}

/// ggml's `block_q3_K`.
pub struct Q3K;
impl Encoding for Q3K {
    const COLUMNS: usize = 256;
    const BYTES: usize = 110;
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 108);
        bit_pairs(&bytes[32..96], &mut block.values);
        high_bits::<2>(&bytes[..32], &mut block.values);
        let scales = &bytes[96..108];
        for index in 0..16 {
            let low = if index < 8 { scales[index] & 15 } else { scales[index - 8] >> 4 };
            let high = scales[8 + index % 4] >> (index / 4 * 2) & 3;
            block.scales[index] = (low | high << 4) as i8 - 32;
        }
    }
}
