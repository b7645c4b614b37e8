//! Where weights lie: matrices in a few large slabs, vectors in one arena.
//!
//! Few buffers make few bind groups: a layer's query, key and value matrices, in the same slab, are one
//! dispatch. A matrix larger than a slab is split by rows.

use super::device::Device;
use super::record::{BufferId, Recorder};
use super::repack::{Arrays, Format};
use crate::format::gguf::TensorType;
use crate::{Error, Result};

/// Slabs are no larger than this, so that the last one wastes little; a row may be.
const SLAB: u64 = 512 << 20;
/// Arrays begin at multiples of this.
const ALIGNMENT: u64 = 256;

/// Whole rows of a matrix in one slab.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub slab: BufferId,
    /// Of each array, in bytes.
    pub offsets: [u64; 4],
    pub first_row: usize,
    pub rows: usize,
}

pub(super) struct MatrixData {
    pub rows: usize,
    pub columns: usize,
    pub format: Format,
    /// Of 32 columns, a row.
    pub blocks: usize,
    pub parts: Vec<Part>,
}

/// A vector's place in the arena, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct VectorData {
    pub at: usize,
    pub len: usize,
}

struct Slab {
    id: BufferId,
    size: u64,
    used: u64,
}

pub(super) struct Memory {
    slabs: Vec<Slab>,
    /// Bytes still expected, from `expect`.
    expected: u64,
    pub vectors: BufferId,
    vectors_used: usize,
    arrays: Arrays,
}

impl Memory {
    pub(super) fn new(device: &Device, recorder: &mut Recorder) -> Result<Self> {
        let vectors = recorder.add(device.storage("vectors", 1 << 20)?);
        Ok(Memory { slabs: Vec::new(), expected: 0, vectors, vectors_used: 0, arrays: Arrays::default() })
    }

    /// Bytes in slabs.
    pub(super) fn used(&self) -> u64 {
        self.slabs.iter().map(|slab| slab.used).sum()
    }

    /// Says how many bytes of matrices will come, so that slabs are no larger than needed.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.expected = bytes;
    }

    /// What `rows` rows take in a slab, at most.
    pub(super) fn size_of(format: Format, rows: usize, columns: usize) -> u64 {
        let blocks = rows * format.blocks(columns);
        (0..4).map(|index| format.size(index, blocks).next_multiple_of(ALIGNMENT)).sum()
    }

    pub(super) fn matrix(
        &mut self,
        device: &Device,
        recorder: &mut Recorder,
        rows: usize,
        columns: usize,
        kind: TensorType,
    ) -> Result<MatrixData> {
        let (block_len, _) = kind.block();
        if !(columns as u64).is_multiple_of(block_len) {
            let message = format!("rows of {columns} elements cannot be stored as {}", kind.name());
            return Err(Error::corrupt_model(message));
        }
        let format = Format::of(kind);
        let blocks = format.blocks(columns);
        let limit = device.max_binding();
        let whole = Self::size_of(format, rows, columns);
        // Rows that surely fit one binding.
        let row = Self::size_of(format, 1, columns);
        let rows_a_part = match whole <= limit {
            true => rows,
            false => (limit.saturating_sub(4 * ALIGNMENT) * rows as u64 / whole) as usize,
        };
        if rows_a_part == 0 {
            return Err(Error::resource_exhausted(format!(
                "the GPU takes {limit} bytes in one piece, a row of the model's weights needs {row}"
            )));
        }
        let mut parts = Vec::new();
        for first_row in (0..rows).step_by(rows_a_part) {
            let rows = rows_a_part.min(rows - first_row);
            let slab = self.slab(device, recorder, Self::size_of(format, rows, columns))?;
            let mut offsets = [0; 4];
            for (index, offset) in offsets.iter_mut().enumerate() {
                *offset = slab.used;
                slab.used += format.size(index, rows * blocks).next_multiple_of(ALIGNMENT);
            }
            parts.push(Part { slab: slab.id, offsets, first_row, rows });
        }
        self.expected = self.expected.saturating_sub(whole);
        Ok(MatrixData { rows, columns, format, blocks, parts })
    }

    /// A slab with room for `size` bytes.
    fn slab(&mut self, device: &Device, recorder: &mut Recorder, size: u64) -> Result<&mut Slab> {
        let fits = |slab: &Slab| slab.size - slab.used >= size;
        // Only the last one: neighbours in the model stay neighbours here.
        if !self.slabs.last().is_some_and(fits) {
            let expected = if self.expected == 0 { 16 << 20 } else { self.expected };
            let slab_size = expected.min(SLAB).min(device.max_binding()).max(size);
            let buffer = device.storage("weights", slab_size)?;
            let slab = Slab { id: recorder.add(buffer), size: slab_size, used: 0 };
            self.slabs.push(slab);
        }
        self.slabs.last_mut().ok_or_else(|| Error::internal("no slab"))
    }

    /// Repacks and uploads whole rows from row `first` on.
    pub(super) fn write_rows(
        &mut self,
        device: &Device,
        recorder: &Recorder,
        matrix: &MatrixData,
        first: usize,
        bytes: &[u8],
    ) -> Result<()> {
        let (block_len, block_size) = matrix.format.kind.block();
        let row_size = matrix.columns / block_len as usize * block_size as usize;
        let end = first + bytes.len() / row_size;
        if end > matrix.rows || !bytes.len().is_multiple_of(row_size) {
            return Err(Error::internal("a matrix is written past its end"));
        }
        for part in &matrix.parts {
            let start = first.max(part.first_row);
            let stop = end.min(part.first_row + part.rows);
            if start >= stop {
                continue;
            }
            let piece = &bytes[(start - first) * row_size..(stop - first) * row_size];
            self.arrays.fill(matrix.format, matrix.columns, piece);
            let first_block = (start - part.first_row) * matrix.blocks;
            for (index, array) in self.arrays.arrays.iter().enumerate().filter(|(_, a)| !a.is_empty()) {
                let offset = part.offsets[index] + matrix.format.size(index, first_block);
                device.queue.write_buffer(recorder.buffer(part.slab), offset, array);
            }
        }
        // Lets go of the staging memory of earlier writes that have arrived.
        device.queue.submit([]);
        device.check()
    }

    /// Room for a vector, padded by zeros.
    pub(super) fn vector(
        &mut self,
        device: &Device,
        recorder: &mut Recorder,
        len: usize,
    ) -> Result<VectorData> {
        let room = len.next_multiple_of(64);
        let capacity = recorder.buffer(self.vectors).size() as usize / 4;
        if self.vectors_used + room > capacity {
            let needed = (self.vectors_used + room).max(2 * capacity) as u64 * 4;
            let larger = device.storage("vectors", needed)?;
            let mut encoder = device.handle.create_command_encoder(&Default::default());
            let old = recorder.buffer(self.vectors);
            encoder.copy_buffer_to_buffer(old, 0, &larger, 0, old.size());
            device.queue.submit([encoder.finish()]);
            recorder.replace(device, self.vectors, larger)?;
        }
        let at = self.vectors_used;
        self.vectors_used += room;
        Ok(VectorData { at, len })
    }

    /// Uploads all of its numbers.
    pub(super) fn write_vector(
        &self,
        device: &Device,
        recorder: &Recorder,
        vector: &VectorData,
        values: &[f32],
    ) {
        let buffer = recorder.buffer(self.vectors);
        device.queue.write_buffer(buffer, 4 * vector.at as u64, bytemuck::cast_slice(values));
    }
}
