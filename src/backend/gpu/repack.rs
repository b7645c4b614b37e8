//! Weights from a file's blocks into the kernels' arrays.
//!
//! Every type becomes blocks of 32 columns: 4-bit quants fill one `vec4<u32>`, scales lie apart in arrays
//! of their own (see `wgsl/shared/matrix.wgsl` and `wgsl/format/`). Nothing is rounded. Q3_K becomes
//! Q6_K's layout, which can say everything that it can; Q2_K's quants take 4 bits, and so do weights that stand in a table
//! whatever the file takes for them.

use crate::backend::encoding::{self, Block, Encoding};
use crate::format::gguf::TensorType;
use half::f16;

/// Columns of a block.
pub(super) const BLOCK: usize = 32;

/// A kernel's layout of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Format {
    pub kind: TensorType,
    /// Bytes that 8 blocks take in each of the arrays `quants`, `scales`, `extra`, `more`.
    pub sizes: [usize; 4],
}

impl Format {
    pub(super) fn of(kind: TensorType) -> Format {
        let sizes = match kind {
            TensorType::F32 => [1024, 0, 0, 0],
            TensorType::F16 | TensorType::BF16 => [512, 0, 0, 0],
            TensorType::Q8_0 => [256, 16, 0, 0],
            TensorType::Q4_0 => [128, 16, 0, 0],
            TensorType::Q4_1 => [128, 32, 0, 0],
            TensorType::Q5_0 => [128, 16, 32, 0],
            TensorType::Q5_1 => [128, 32, 32, 0],
            TensorType::Q2_K | TensorType::Q4_K => [128, 4, 16, 0],
            TensorType::Q5_K => [128, 4, 16, 32],
            TensorType::Q3_K | TensorType::Q6_K => [128, 4, 16, 64],
            TensorType::Q1_0 => [32, 8, 0, 0],
            TensorType::Q2_0 | TensorType::TQ1_0 | TensorType::TQ2_0 => [64, 16, 0, 0],
            TensorType::IQ4_NL | TensorType::MXFP4 => [128, 16, 0, 0],
            TensorType::NVFP4 => [512, 0, 0, 0],
            TensorType::IQ4_XS
            | TensorType::IQ3_XXS
            | TensorType::IQ3_S
            | TensorType::IQ2_XXS
            | TensorType::IQ2_XS
            | TensorType::IQ2_S
            | TensorType::IQ1_S
            | TensorType::IQ1_M => [128, 4, 16, 0],
        };
        Format { kind, sizes }
    }

    /// The file under `wgsl/format`.
    pub(super) fn file(self) -> &'static str {
        match self.kind {
            TensorType::F32 => "f32",
            TensorType::F16 | TensorType::NVFP4 => "f16",
            TensorType::BF16 => "bf16",
            TensorType::Q8_0 => "q8_0",
            TensorType::Q4_0 => "q4_0",
            TensorType::Q4_1 => "q4_1",
            TensorType::Q5_0 => "q5_0",
            TensorType::Q5_1 => "q5_1",
            TensorType::Q2_K => "q2_k",
            TensorType::Q4_K => "q4_k",
            TensorType::Q5_K => "q5_k",
            TensorType::Q3_K | TensorType::Q6_K => "q6_k",
            TensorType::Q1_0 => "q1_0",
            TensorType::Q2_0 | TensorType::TQ1_0 | TensorType::TQ2_0 => "q2_0",
            TensorType::IQ4_NL => "iq4_nl",
            TensorType::MXFP4 => "mxfp4",
            TensorType::IQ4_XS => "iq4_xs",
            TensorType::IQ3_XXS => "iq3_xxs",
            TensorType::IQ3_S => "iq3_s",
            TensorType::IQ2_XXS | TensorType::IQ2_XS | TensorType::IQ2_S => "iq2",
            TensorType::IQ1_S | TensorType::IQ1_M => "iq1",
        }
    }

    /// Where a type's weights take more room than in the file.
    pub(super) fn wider(self) -> Option<&'static str> {
        match self.kind {
            TensorType::Q3_K => Some("Q3_K as Q6_K"),
            TensorType::Q2_K => Some("Q2_K with quants of 4 bits"),
            TensorType::NVFP4 => Some("NVFP4 as F16"),
            TensorType::TQ1_0 => Some("TQ1_0 as Q2_0"),
            TensorType::IQ3_XXS => Some("IQ3_XXS with quants of 4 bits"),
            TensorType::IQ3_S => Some("IQ3_S with quants of 4 bits"),
            TensorType::IQ2_XXS => Some("IQ2_XXS with quants of 4 bits"),
            TensorType::IQ2_XS => Some("IQ2_XS with quants of 4 bits"),
            TensorType::IQ2_S => Some("IQ2_S with quants of 4 bits"),
            TensorType::IQ1_S => Some("IQ1_S with quants of 4 bits"),
            TensorType::IQ1_M => Some("IQ1_M with quants of 4 bits"),
            _ => None,
        }
    }

    /// Whether quants are integers that fit a signed byte.
    pub(super) fn is_integer(self) -> bool {
        !matches!(self.kind, TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::NVFP4)
    }

    /// Blocks of a row: an even number, so that two f16 scales always share a word.
    pub(super) fn blocks(self, columns: usize) -> usize {
        columns.div_ceil(BLOCK).next_multiple_of(2)
    }

    /// Bytes of array `index` for `blocks` blocks. Embedding tables have more than 32-bit machines can count.
    pub(super) fn size(self, index: usize, blocks: usize) -> u64 {
        (blocks as u64 * self.sizes[index] as u64).div_ceil(8)
    }
}

/// The four arrays of some rows.
#[derive(Default)]
pub(super) struct Arrays {
    pub arrays: [Vec<u8>; 4],
}

impl Arrays {
    /// Repacks whole rows of `columns` columns.
    pub(super) fn fill(&mut self, format: Format, columns: usize, bytes: &[u8]) {
        let (block_len, block_size) = format.kind.block();
        let row_size = columns / block_len as usize * block_size as usize;
        let blocks = format.blocks(columns);
        let rows = bytes.len() / row_size;
        for (index, array) in self.arrays.iter_mut().enumerate() {
            array.clear();
            array.resize(format.size(index, rows * blocks) as usize, 0);
        }
        for (row, bytes) in bytes.chunks_exact(row_size).enumerate() {
            self.row(format.kind, row * blocks, bytes);
        }
    }

    /// A row whose first block is block `first` of the arrays.
    fn row(&mut self, kind: TensorType, first: usize, row: &[u8]) {
        match kind {
            TensorType::NVFP4 => {
                let mut numbers = Vec::new();
                encoding::nvfp4_to_f16(row, &mut numbers);
                return put(&mut self.arrays[0], 64 * first, &numbers);
            }
            TensorType::Q1_0 => return self.bits(first, row),
            TensorType::Q2_0 => return self.pairs::<encoding::Q2_0>(first, row),
            TensorType::TQ1_0 => return self.pairs::<encoding::TQ1_0>(first, row),
            TensorType::TQ2_0 => return self.pairs::<encoding::TQ2_0>(first, row),
            TensorType::IQ4_NL => return self.places::<encoding::IQ4_NL>(0, first, row),
            TensorType::MXFP4 => return self.places::<encoding::MXFP4>(0, first, row),
            TensorType::IQ4_XS => return self.places::<encoding::IQ4_XS>(32, first, row),
            TensorType::IQ3_XXS => return self.places::<encoding::IQ3_XXS>(32, first, row),
            TensorType::IQ3_S => return self.places::<encoding::IQ3_S>(32, first, row),
            TensorType::IQ2_XXS => return self.places::<encoding::IQ2_XXS>(32, first, row),
            TensorType::IQ2_XS => return self.places::<encoding::IQ2_XS>(16, first, row),
            TensorType::IQ2_S => return self.places::<encoding::IQ2_S>(16, first, row),
            TensorType::IQ1_S => return self.places::<encoding::IQ1_S>(32, first, row),
            TensorType::IQ1_M => return self.places::<encoding::IQ1_M>(16, first, row),
            _ => {}
        }
        let [quants, scales, extra, more] = &mut self.arrays;
        let (_, block_size) = kind.block();
        let blocks = row.chunks_exact(block_size as usize).enumerate();
        match kind {
            TensorType::F32 => quants[first * 128..][..row.len()].copy_from_slice(row),
            TensorType::F16 | TensorType::BF16 => quants[first * 64..][..row.len()].copy_from_slice(row),
            TensorType::Q8_0 => blocks.for_each(|(b, block)| {
                put(scales, 2 * (first + b), &block[..2]);
                put(quants, 32 * (first + b), &block[2..]);
            }),
            TensorType::Q4_0 => blocks.for_each(|(b, block)| {
                put(scales, 2 * (first + b), &block[..2]);
                put(quants, 16 * (first + b), &block[2..]);
            }),
            TensorType::Q4_1 => blocks.for_each(|(b, block)| {
                put(scales, 4 * (first + b), &block[..4]);
                put(quants, 16 * (first + b), &block[4..]);
            }),
            TensorType::Q5_0 => blocks.for_each(|(b, block)| {
                put(scales, 2 * (first + b), &block[..2]);
                put(extra, 4 * (first + b), &spread_bits(word(&block[2..])));
                put(quants, 16 * (first + b), &block[6..]);
            }),
            TensorType::Q5_1 => blocks.for_each(|(b, block)| {
                put(scales, 4 * (first + b), &block[..4]);
                put(extra, 4 * (first + b), &spread_bits(word(&block[4..])));
                put(quants, 16 * (first + b), &block[8..]);
            }),
            TensorType::Q2_K => blocks.for_each(|(b, block)| {
                let first = first + 8 * b;
                put(scales, first / 2, &block[80..84]);
                put(extra, 2 * first, &block[..16]);
                for sub in 0..8 {
                    let q = |i: usize| (block[16 + 32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3;
                    put(quants, 16 * (first + sub), &join_nibbles(q));
                }
            }),
            TensorType::Q3_K => blocks.for_each(|(b, block)| {
                let first = first + 8 * b;
                put(scales, first / 2, &half_to_f32(&block[108..]));
                put(extra, 2 * first, &q3_k_scales(&block[96..108]));
                for sub in 0..8 {
                    let q = |i: usize| {
                        let low = (block[32 + 32 * (sub / 4) + i] >> (2 * (sub % 4))) & 3;
                        let high = (block[i] >> sub) & 1;
                        // −4 … 3, in Q6_K's way around 32.
                        28 + low + 4 * high
                    };
                    put(quants, 16 * (first + sub), &join_nibbles(|i| q(i) & 15));
                    put(more, 8 * (first + sub), &spread_pairs(|i| q(i) >> 4));
                }
            }),
            TensorType::Q4_K => blocks.for_each(|(b, block)| {
                let first = first + 8 * b;
                put(scales, first / 2, &block[..4]);
                put(extra, 2 * first, &k_scales(&block[4..16]));
                for sub in 0..8 {
                    let q = &block[16 + 32 * (sub / 2)..][..32];
                    put(quants, 16 * (first + sub), &join_nibbles(|i| (q[i] >> (4 * (sub % 2))) & 15));
                }
            }),
            TensorType::Q5_K => blocks.for_each(|(b, block)| {
                let first = first + 8 * b;
                put(scales, first / 2, &block[..4]);
                put(extra, 2 * first, &k_scales(&block[4..16]));
                let high = &block[16..48];
                for sub in 0..8 {
                    let q = &block[48 + 32 * (sub / 2)..][..32];
                    put(quants, 16 * (first + sub), &join_nibbles(|i| (q[i] >> (4 * (sub % 2))) & 15));
                    let bits = (0..32).fold(0, |bits, i| bits | u32::from((high[i] >> sub) & 1) << i);
                    put(more, 4 * (first + sub), &spread_bits(bits));
                }
            }),
            TensorType::Q6_K => blocks.for_each(|(b, block)| {
                let first = first + 8 * b;
                put(scales, first / 2, &half_to_f32(&block[208..]));
                put(extra, 2 * first, &block[192..208]);
                for sub in 0..8 {
                    let (half, part) = (sub / 4, sub % 4);
                    let low = &block[64 * half + 32 * (part % 2)..][..32];
                    let high = &block[128 + 32 * half..][..32];
                    put(quants, 16 * (first + sub), &join_nibbles(|i| (low[i] >> (4 * (part / 2))) & 15));
                    put(more, 8 * (first + sub), &spread_pairs(|i| (high[i] >> (2 * part)) & 3));
                }
            }),
            _ => unreachable!("a type that is packed above"),
        }
    }

    /// One bit a weight.
    fn bits(&mut self, first: usize, row: &[u8]) {
        let [quants, scales, ..] = &mut self.arrays;
        each_block::<encoding::Q1_0>(first, row, |first, block| {
            put(scales, first, &f16::from_bits(block.scale).to_f32().to_le_bytes());
            for (index, values) in block.values[..128].chunks_exact(32).enumerate() {
                let bits = (0..32).fold(0, |bits, i| bits | u32::from(values[i] >> 1) << i);
                put(quants, 4 * (first + index), &spread_bits(bits));
            }
        });
    }

    /// Two bits a weight.
    fn pairs<E: Encoding>(&mut self, first: usize, row: &[u8]) {
        let [quants, scales, ..] = &mut self.arrays;
        each_block::<E>(first, row, |first, block| {
            for (index, values) in block.values[..E::COLUMNS].chunks_exact(32).enumerate() {
                put(scales, 2 * (first + index), &block.scale.to_le_bytes());
                put(quants, 8 * (first + index), &spread_pairs(|i| values[i]));
            }
        });
    }

    /// Four bits that are places in a table. Each `sub_block` columns have a scale; 0: there are no sub-blocks.
    fn places<E: Encoding>(&mut self, sub_block: usize, first: usize, row: &[u8]) {
        let [quants, scales, extra, _] = &mut self.arrays;
        each_block::<E>(first, row, |first, block| {
            for (index, values) in block.values[..E::COLUMNS].chunks_exact(32).enumerate() {
                put(quants, 16 * (first + index), &join_nibbles(|i| values[i]));
            }
            if sub_block == 0 {
                return put(scales, 2 * first, &block.scale.to_le_bytes());
            }
            let scale = f16::from_bits(block.scale).to_f32() * E::FACTOR;
            put(scales, first / 2, &scale.to_le_bytes());
            let each: [u8; 16] = std::array::from_fn(|part| block.scales[16 * part / sub_block] as u8);
            put(extra, 2 * first, &each);
        });
    }
}

/// Calls `pack` with each block of a row, and the number of its first block of 32.
fn each_block<E: Encoding>(first: usize, row: &[u8], mut pack: impl FnMut(usize, &Block)) {
    let mut block = Block::new();
    for (index, bytes) in row.chunks_exact(E::BYTES).enumerate() {
        E::decode(bytes, &mut block);
        pack(first + index * (E::COLUMNS / BLOCK), &block);
    }
}

fn put(array: &mut [u8], at: usize, bytes: &[u8]) {
    array[at..at + bytes.len()].copy_from_slice(bytes);
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn half_to_f32(bytes: &[u8]) -> [u8; 4] {
    half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32().to_le_bytes()
}

/// 32 quants of four bits: byte i holds quant i below quant i + 16.
fn join_nibbles(q: impl Fn(usize) -> u8) -> [u8; 16] {
    std::array::from_fn(|i| q(i) | q(i + 16) << 4)
}

/// Bit 4·j + b goes to bit 8·b + j.
fn spread_bits(bits: u32) -> [u8; 4] {
    std::array::from_fn(|b| (0..8).fold(0, |byte, j| byte | (((bits >> (4 * j + b)) & 1) as u8) << j))
}

/// Two bits of quant 4·j + b go to bits 8·b + 2·(j mod 4) of word j / 4.
fn spread_pairs(q: impl Fn(usize) -> u8) -> [u8; 8] {
    std::array::from_fn(|byte| {
        let (word, b) = (byte / 4, byte % 4);
        (0..4).fold(0, |bits, j| bits | q(4 * (4 * word + j) + b) << (2 * j))
    })
}

/// Q4_K's and Q5_K's eight 6-bit scales and minima as (scale, minimum) bytes.
fn k_scales(packed: &[u8]) -> [u8; 16] {
    std::array::from_fn(|index| {
        let (j, is_minimum) = (index / 2, index % 2 == 1);
        match (j < 4, is_minimum) {
            (true, false) => packed[j] & 63,
            (true, true) => packed[j + 4] & 63,
            (false, false) => (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4,
            (false, true) => (packed[j + 4] >> 4) | (packed[j] >> 6) << 4,
        }
    })
}

/// Q3_K's sixteen 6-bit scales, around 32, as signed bytes.
fn q3_k_scales(packed: &[u8]) -> [u8; 16] {
    std::array::from_fn(|i| {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        (low | high << 4).wrapping_sub(32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_embedding_tables() {
        // Gemma 2's, 256000 × 2304, in Q8_0: eight times its bytes are more than 32 bits can count.
        let format = Format::of(TensorType::Q8_0);
        assert_eq!(format.size(0, 256_000 * format.blocks(2304)), 589_824_000);
    }
}
