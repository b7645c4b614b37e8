//! Weights that are one of two, three or four numbers.

use super::ggml::bit_pairs;
use super::{Block, Encoding, f16_at};

/// ggml's `block_q1_0`: a set bit is the scale, the others minus the scale.
pub struct Q1_0;
impl Encoding for Q1_0 {
    const COLUMNS: usize = 128;
    const BYTES: usize = 18;
    /// As 0 and 2, around 1.
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        for (byte, values) in bytes[2..18].iter().zip(block.values.as_chunks_mut::<8>().0) {
            *values = std::array::from_fn(|bit| (byte >> bit & 1) << 1);
        }
    }
}

/// ggml's `block_q2_0`: −1, 0, 1 and 2.
pub struct Q2_0;
impl Encoding for Q2_0 {
    const COLUMNS: usize = 64;
    const BYTES: usize = 18;
    /// Around 1.
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 0);
        for (byte, values) in bytes[2..18].iter().zip(block.values.as_chunks_mut::<4>().0) {
            *values = std::array::from_fn(|pair| byte >> (2 * pair) & 3);
        }
    }
}

/// ggml's `block_tq2_0`: −1, 0 and 1, by two bits.
pub struct TQ2_0;
impl Encoding for TQ2_0 {
    const COLUMNS: usize = 256;
    const BYTES: usize = 66;
    /// Around 1.
    #[inline(always)]
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 64);
        bit_pairs(&bytes[..64], &mut block.values);
    }
}

/// ggml's `block_tq1_0`: −1, 0 and 1, five to a byte as digits of a fraction to the base of three.
pub struct TQ1_0;
impl Encoding for TQ1_0 {
    const COLUMNS: usize = 256;
    const BYTES: usize = 54;
    /// Around 1.
    fn decode(bytes: &[u8], block: &mut Block) {
        block.scale = f16_at(bytes, 52);
        let mut values = block.values.iter_mut();
        // (bytes, digits of each that count)
        for (bytes, digits) in [(&bytes[..32], 5), (&bytes[32..48], 5), (&bytes[48..52], 4)] {
            for digit in 0..digits {
                for (byte, value) in bytes.iter().zip(&mut values) {
                    let rest = byte.wrapping_mul([1, 3, 9, 27, 81][digit]);
                    *value = ((u16::from(rest) * 3) >> 8) as u8;
                }
            }
        }
    }
}
