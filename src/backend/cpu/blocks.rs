//! Weight matrices in candle's block types, filled piece by piece.

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
    /// The file's own encoding.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// `out = input · Wᵀ`, where `input` is `m × k` and W is `n × k`.
    fn multiply(&self, mkn: (usize, usize, usize), input: &[f32], out: &mut [f32]) -> Result<()>;

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

impl<T: PlainOldData> Blocks for Vec<T> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = std::mem::size_of_val(self.as_slice());
        // SAFETY: the bytes are the vector's own; `PlainOldData` allows writing any.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), len) }
    }

    fn multiply(&self, mkn: (usize, usize, usize), input: &[f32], out: &mut [f32]) -> Result<()> {
        Ok(k_quants::matmul(mkn, input, self, out)?)
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        let blocks = out.len() / T::BLCK_SIZE;
        T::to_float(&self[index * blocks..][..blocks], out);
    }
}

/// Zeroed room for `rows × columns` elements of `kind`; `columns` must be whole blocks.
pub(super) fn allocate(kind: TensorType, rows: usize, columns: usize) -> Result<Box<dyn Blocks>> {
    let (block_len, _) = kind.block();
    if columns as u64 % block_len != 0 {
        return Err(Error::corrupt_model(format!(
            "rows of {columns} elements cannot be stored as {}",
            kind.name()
        )));
    }
    let blocks = rows
        .checked_mul(columns)
        .ok_or_else(|| Error::corrupt_model("a matrix is larger than the address space"))?
        / block_len as usize;
    match kind {
        TensorType::F32 => zeroed::<f32>(blocks),
        TensorType::F16 => zeroed::<f16>(blocks),
        TensorType::BF16 => zeroed::<bf16>(blocks),
        TensorType::Q4_0 => zeroed::<BlockQ4_0>(blocks),
        TensorType::Q4_1 => zeroed::<BlockQ4_1>(blocks),
        TensorType::Q5_0 => zeroed::<BlockQ5_0>(blocks),
        TensorType::Q5_1 => zeroed::<BlockQ5_1>(blocks),
        TensorType::Q8_0 => zeroed::<BlockQ8_0>(blocks),
        TensorType::Q2_K => zeroed::<BlockQ2K>(blocks),
        TensorType::Q3_K => zeroed::<BlockQ3K>(blocks),
        TensorType::Q4_K => zeroed::<BlockQ4K>(blocks),
        TensorType::Q5_K => zeroed::<BlockQ5K>(blocks),
        TensorType::Q6_K => zeroed::<BlockQ6K>(blocks),
    }
}

fn zeroed<T: PlainOldData + 'static>(blocks: usize) -> Result<Box<dyn Blocks>> {
    let mut vector: Vec<T> = Vec::new();
    vector.try_reserve_exact(blocks).map_err(|_| {
        let megabytes = blocks.saturating_mul(std::mem::size_of::<T>()) / 1_000_000;
        Error::resource_exhausted(format!("no memory for a matrix of {megabytes} MB. Choose a smaller model"))
    })?;
    vector.resize(blocks, T::zeros());
    Ok(Box::new(vector))
}
