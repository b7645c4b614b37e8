//! What only a try tells of a device.

use super::Gpu;
use super::shader::Kernel;
use crate::Result;
use half::f16;

/// Halves from the smallest subnormal to normal ones, by their bits.
const HALVES: [u16; 8] = [0x0001, 0x03ff, 0x8001, 0x0155, 0x82aa, 0x0400, 0x3c00, 0xc248];

impl Gpu {
    /// Whether the device's own decoding of f16 is exact. Some hardware reads subnormal halves as 0, and
    /// the scales of small weights are often subnormal.
    pub(super) async fn reads_halves(&mut self) -> Result<bool> {
        let words = self.recorder.add(self.device.storage("halves", 4 * HALVES.len() as u64)?);
        let numbers = self.recorder.add(self.device.storage("halves, read", 8 * HALVES.len() as u64)?);
        // Once in the lower half of a word, once in the upper.
        let packed = HALVES.map(|bits| u32::from(bits) | u32::from(bits) << 16);
        self.device.queue.write_buffer(self.recorder.buffer(words), 0, bytemuck::cast_slice(&packed));
        let params = [HALVES.len() as u32, 0, 0, 0];
        let kernel = Kernel::new("probe_half").flag("EXACT_HALF", self.exact_half);
        self.dispatch(kernel, &params, &[words, numbers], [1, 1, 1])?;
        let mut found = Vec::new();
        self.recorder.read(&self.device, numbers, 8 * HALVES.len() as u64, &mut found).await?;
        let expected = HALVES.iter().flat_map(|&bits| [f16::from_bits(bits).to_f32().to_le_bytes(); 2]);
        Ok(found.as_chunks().0.iter().copied().eq(expected))
    }
}
