//! Made-up weights: for what is tried on a device before a model is, and for tests.

use crate::format::gguf::TensorType;
use half::{bf16, f16};

/// xorshift64* of Sebastiano Vigna, <https://doi.org/10.1145/2845077>. The seed is anything but 0.
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn any(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// From −1 to 1.
    pub fn number(&mut self) -> f32 {
        self.any() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }

    /// `count` of them.
    pub fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// `count` weights of about ±0.1 · `size`, in a file's encoding. `size` is asked for each block: 0.001 makes
    /// scales that are subnormal as f16.
    pub fn weights(
        &mut self,
        kind: TensorType,
        count: usize,
        mut size: impl FnMut(&mut Random) -> f32,
    ) -> Vec<u8> {
        let (block_len, block_size) = kind.block();
        let len = count / block_len as usize * block_size as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| self.any() as u8).collect();
        for block in bytes.chunks_exact_mut(block_size as usize) {
            let size = size(self);
            // (where an f16 scale stands, its size)
            let scales: &[(usize, f32)] = match kind {
                TensorType::F32 => {
                    block.copy_from_slice(&(0.1 * size * self.number()).to_le_bytes());
                    &[]
                }
                TensorType::BF16 => {
                    block.copy_from_slice(&bf16::from_f32(0.1 * size * self.number()).to_le_bytes());
                    &[]
                }
                // Not below the smallest half there is.
                TensorType::F16 => &[(0, 0.05)],
                TensorType::Q4_0 => &[(0, 0.012)],
                TensorType::Q4_1 => &[(0, 0.012), (2, 0.1)],
                TensorType::Q5_0 => &[(0, 0.006)],
                TensorType::Q5_1 => &[(0, 0.006), (2, 0.1)],
                TensorType::Q8_0 => &[(0, 0.0008)],
                TensorType::Q2_K => &[(80, 0.002), (82, 0.005)],
                TensorType::Q3_K => &[(108, 0.0008)],
                TensorType::Q4_K => &[(0, 0.0001), (2, 0.0015)],
                TensorType::Q5_K => &[(0, 0.00005), (2, 0.0015)],
                TensorType::Q6_K => &[(208, 0.00003)],
                TensorType::Q1_0 => &[(0, 0.05)],
                TensorType::Q2_0 => &[(0, 0.05)],
                TensorType::TQ1_0 => &[(52, 0.1)],
                TensorType::TQ2_0 => &[(64, 0.1)],
                TensorType::IQ4_NL => &[(0, 0.001)],
                TensorType::IQ4_XS => &[(0, 0.00003)],
                TensorType::IQ3_XXS => &[(0, 0.0003)],
                TensorType::IQ3_S => &[(0, 0.0004)],
                TensorType::IQ2_XXS | TensorType::IQ2_XS | TensorType::IQ2_S => &[(0, 0.0008)],
                TensorType::IQ1_S => &[(0, 0.01)],
                TensorType::IQ1_M => {
                    // Four bits in each of four words.
                    let scale = f16::from_f32(size * 0.01 * self.number()).to_bits();
                    for (index, byte) in block[48..].iter_mut().skip(1).step_by(2).enumerate() {
                        *byte = *byte & 15 | ((scale >> (4 * index)) as u8 & 15) << 4;
                    }
                    &[]
                }
                TensorType::MXFP4 => {
                    // A power of two.
                    block[0] = (128.0 + (0.01 * size).log2()) as u8;
                    &[]
                }
                TensorType::NVFP4 => {
                    // Exponents of about the same.
                    let exponent = (8.0 + (0.03 * size).log2()).clamp(0.0, 14.0) as u8;
                    block[..4].iter_mut().for_each(|scale| *scale = *scale & 7 | exponent << 3);
                    &[]
                }
            };
            for &(at, scale) in scales {
                let scale = f16::from_f32(size * scale * self.number());
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }
}
