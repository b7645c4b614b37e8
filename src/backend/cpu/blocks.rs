//! Weight matrices, filled piece by piece, and the one place that picks a kernel for them.

use super::kernels::float16::{Binary16, Brain16, Format};
use super::kernels::input::Input;
use super::kernels::layout;
use super::packed::Packed;
use super::packed16::Packed16;
use crate::model::gguf::TensorType;
use crate::{Error, Result};
use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    self, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0,
};
use half::{bf16, f16};

/// A matrix in some block type.
pub(super) trait Blocks {
    /// Puts whole rows in the file's encoding at row `first` and after.
    fn write_rows(&mut self, first: usize, bytes: &[u8]) -> Result<()>;

    /// `out = input · Wᵀ`, where `input` is `rows × columns` and W is `out columns × columns`. `rounded` is room for
    /// the input in the form that a kernel wants.
    fn multiply(&self, rows: usize, input: &[f32], rounded: &mut Input, out: &mut [f32]) -> Result<()>;

    /// Dequantizes row `index`, which has `out.len()` columns.
    fn row(&self, index: usize, out: &mut [f32]);
}

/// A type that may be made of any bytes.
///
/// # Safety
/// No padding, and every bit pattern is valid.
unsafe trait PlainOldData: GgmlType {}

macro_rules! plain_old_data {
    ($($block:ty)*) => {
        $(
            // SAFETY: numbers, or `repr(C)` structs of f16, u8 and i8 whose size candle asserts.
            unsafe impl PlainOldData for $block {}
        )*
    };
}
plain_old_data!(f32 f16 bf16 BlockQ4_0 BlockQ4_1 BlockQ5_0 BlockQ5_1 BlockQ8_0
    BlockQ2K BlockQ3K BlockQ4K BlockQ5K BlockQ6K);

/// A matrix as the file has it, for candle's kernels.
struct Stored<T> {
    columns: usize,
    blocks: Vec<T>,
}

impl<T: PlainOldData> Stored<T> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = std::mem::size_of_val(self.blocks.as_slice());
        // SAFETY: the bytes are the vector's own; `PlainOldData` allows writing any.
        unsafe { std::slice::from_raw_parts_mut(self.blocks.as_mut_ptr().cast(), len) }
    }
}

impl<T: PlainOldData> Blocks for Stored<T> {
    fn write_rows(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        let start = first * (self.columns / T::BLCK_SIZE) * std::mem::size_of::<T>();
        let target = self.bytes_mut().get_mut(start..start + bytes.len());
        target.ok_or_else(|| Error::internal("a matrix is written past its end"))?.copy_from_slice(bytes);
        Ok(())
    }

    fn multiply(&self, rows: usize, input: &[f32], _: &mut Input, out: &mut [f32]) -> Result<()> {
        Ok(k_quants::matmul((rows, self.columns, out.len() / rows), input, &self.blocks, out)?)
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        let blocks = self.columns / T::BLCK_SIZE;
        T::to_float(&self.blocks[index * blocks..][..blocks], out);
    }
}

/// A matrix that is turned into F32 on its way in.
struct Dequantized {
    kind: TensorType,
    stored: Stored<f32>,
}

impl Blocks for Dequantized {
    fn write_rows(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        let columns = self.stored.columns;
        let (block_len, block_size) = self.kind.block();
        let rows = bytes.len() / (columns / block_len as usize * block_size as usize);
        let mut piece = stored_as(self.kind, rows, columns)?;
        piece.write_rows(0, bytes)?;
        let target = &mut self.stored.blocks[first * columns..(first + rows) * columns];
        target.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| piece.row(row, out));
        Ok(())
    }

    fn multiply(&self, rows: usize, input: &[f32], rounded: &mut Input, out: &mut [f32]) -> Result<()> {
        self.stored.multiply(rows, input, rounded, out)
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.stored.row(index, out);
    }
}

/// Room for `rows × columns` elements of `kind` that are kept as F32.
pub(super) fn dequantized(kind: TensorType, rows: usize, columns: usize) -> Result<Box<dyn Blocks>> {
    let stored = stored(rows, columns)?;
    Ok(Box::new(Dequantized { kind, stored }))
}

/// Zeroed room for `rows × columns` elements of `kind`; `columns` must be whole blocks.
pub(super) fn allocate(kind: TensorType, rows: usize, columns: usize) -> Result<Box<dyn Blocks>> {
    let (block_len, _) = kind.block();
    if !(columns as u64).is_multiple_of(block_len) {
        return Err(Error::corrupt_model(format!(
            "rows of {columns} elements cannot be stored as {}",
            kind.name()
        )));
    }
    // Elsewhere our kernels are plain Rust, and candle's have SIMD.
    if cfg!(any(target_arch = "wasm32", target_arch = "x86_64"))
        && let Some(packed) = packed(kind, rows, columns)
    {
        return packed;
    }
    stored_as(kind, rows, columns)
}

/// In the layout of our own kernels, for the types that have one.
fn packed(kind: TensorType, rows: usize, columns: usize) -> Option<Result<Box<dyn Blocks>>> {
    fn boxed<L: layout::Layout + 'static>(rows: usize, columns: usize) -> Option<Result<Box<dyn Blocks>>> {
        Some(Packed::<L>::new(rows, columns).map(|packed| Box::new(packed) as Box<dyn Blocks>))
    }
    fn boxed16<F: Format + 'static>(rows: usize, columns: usize) -> Option<Result<Box<dyn Blocks>>> {
        // A word has two columns.
        let packed = columns.is_multiple_of(2).then(|| Packed16::<F>::new(rows, columns))?;
        Some(packed.map(|packed| Box::new(packed) as Box<dyn Blocks>))
    }
    match kind {
        TensorType::F32 => None,
        TensorType::F16 => boxed16::<Binary16>(rows, columns),
        TensorType::BF16 => boxed16::<Brain16>(rows, columns),
        TensorType::Q4_0 => boxed::<layout::PackedQ4_0>(rows, columns),
        TensorType::Q4_1 => boxed::<layout::PackedQ4_1>(rows, columns),
        TensorType::Q5_0 => boxed::<layout::PackedQ5_0>(rows, columns),
        TensorType::Q5_1 => boxed::<layout::PackedQ5_1>(rows, columns),
        TensorType::Q8_0 => boxed::<layout::PackedQ8_0>(rows, columns),
        TensorType::Q2_K => boxed::<layout::PackedQ2K>(rows, columns),
        TensorType::Q3_K => boxed::<layout::PackedQ3K>(rows, columns),
        TensorType::Q4_K => boxed::<layout::PackedQ4K>(rows, columns),
        TensorType::Q5_K => boxed::<layout::PackedQ5K>(rows, columns),
        TensorType::Q6_K => boxed::<layout::PackedQ6K>(rows, columns),
    }
}

/// As the file has it, for candle's kernels.
fn stored_as(kind: TensorType, rows: usize, columns: usize) -> Result<Box<dyn Blocks>> {
    match kind {
        TensorType::F32 => boxed::<f32>(rows, columns),
        TensorType::F16 => boxed::<f16>(rows, columns),
        TensorType::BF16 => boxed::<bf16>(rows, columns),
        TensorType::Q4_0 => boxed::<BlockQ4_0>(rows, columns),
        TensorType::Q4_1 => boxed::<BlockQ4_1>(rows, columns),
        TensorType::Q5_0 => boxed::<BlockQ5_0>(rows, columns),
        TensorType::Q5_1 => boxed::<BlockQ5_1>(rows, columns),
        TensorType::Q8_0 => boxed::<BlockQ8_0>(rows, columns),
        TensorType::Q2_K => boxed::<BlockQ2K>(rows, columns),
        TensorType::Q3_K => boxed::<BlockQ3K>(rows, columns),
        TensorType::Q4_K => boxed::<BlockQ4K>(rows, columns),
        TensorType::Q5_K => boxed::<BlockQ5K>(rows, columns),
        TensorType::Q6_K => boxed::<BlockQ6K>(rows, columns),
    }
}

fn boxed<T: PlainOldData + 'static>(rows: usize, columns: usize) -> Result<Box<dyn Blocks>> {
    Ok(Box::new(stored::<T>(rows, columns)?))
}

fn stored<T: PlainOldData>(rows: usize, columns: usize) -> Result<Stored<T>> {
    let count = rows.saturating_mul(columns) / T::BLCK_SIZE;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).map_err(|_| {
        let megabytes = count.saturating_mul(std::mem::size_of::<T>()) / 1_000_000;
        Error::resource_exhausted(format!("no memory for a matrix of {megabytes} MB. Choose a smaller model"))
    })?;
    blocks.resize(count, T::zeros());
    Ok(Stored { columns, blocks })
}
