//! Weight matrices, filled piece by piece, and the one place that picks a kernel for them.

use super::kernels::float16::{Binary16, Brain16, Format};
use super::kernels::input::{Input, Order};
use super::kernels::layout;
use super::kernels::quants::{Form, Usual};
use super::packed::{Output, Packed};
use super::packed16::{Nvfp4, Packed16};
use super::pool::{Parts, Pool};
use crate::backend::encoding as file;
use crate::format::gguf::TensorType;
use crate::{Error, Result};
use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use half::{bf16, f16};
use std::cell::Cell;

/// How a product with one column is done in parts.
pub(super) struct Column {
    /// Of the input.
    pub order: Order,
    pub parts: usize,
    /// Multiplications of a part.
    pub cost: usize,
}

/// A matrix in some block type.
pub(super) trait Blocks: Sync {
    /// Puts whole rows in the file's encoding at row `first` and after.
    fn write_rows(&mut self, pool: &Pool, first: usize, bytes: &[u8]) -> Result<()>;

    /// `out = input · Wᵀ`, where `input` is `rows × columns` and W is `out columns × columns`. `rounded` is room for
    /// the input in the form that a kernel wants.
    fn multiply(
        &self,
        pool: &Pool,
        rows: usize,
        input: &[f32],
        rounded: &mut Input,
        out: &mut [f32],
    ) -> Result<()>;

    /// How its product with one column can be done beside those of other matrices, where it can.
    fn column(&self) -> Option<Column> {
        None
    }

    /// One of these parts.
    ///
    /// # Safety
    /// `input` is of as many columns and in the order that [`Blocks::column`] says, `out` a row as long as the matrix has
    /// rows, and no other thread does the same part.
    unsafe fn part(&self, _index: usize, _input: &Input, _out: &Output) {}

    /// Dequantizes row `index`, which has `out.len()` columns.
    fn row(&self, index: usize, out: &mut [f32]);
}

/// A type that may be made of any bytes.
///
/// # Safety
/// No padding, and every bit pattern is valid.
pub(super) unsafe trait PlainOldData: GgmlType {}

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
    fn write_rows(&mut self, _: &Pool, first: usize, bytes: &[u8]) -> Result<()> {
        let start = first * (self.columns / T::BLCK_SIZE) * std::mem::size_of::<T>();
        let target = self.bytes_mut().get_mut(start..start + bytes.len());
        target.ok_or_else(|| Error::internal("a matrix is written past its end"))?.copy_from_slice(bytes);
        Ok(())
    }

    /// candle's kernels, four rows of the matrix at a time, as its own `matmul` calls them.
    fn multiply(&self, pool: &Pool, m: usize, input: &[f32], _: &mut Input, out: &mut [f32]) -> Result<()> {
        let (k, n) = (self.columns, out.len() / m);
        let blocks = k / T::BLCK_SIZE;
        if (input.len(), self.blocks.len(), out.len()) != (m * k, n * blocks, m * n) {
            return Err(Error::internal("a matrix product of the wrong size"));
        }
        let weights = |row: usize| &self.blocks[row * blocks..][..blocks];
        let out = Parts::new(out);
        with_rounded::<T::VecDotType, _>(pool, k, input, |rounded| {
            let quads = n.div_ceil(4);
            // Tiles of the input outside: one stays in the first-level cache while the weights pass.
            pool.each(m.div_ceil(TILE) * quads, 4 * k * m.min(TILE), |item| {
                let (tile, first) = (item / quads, item % quads * 4);
                for row in tile * TILE..m.min((tile + 1) * TILE) {
                    let input = &rounded[row * blocks..][..blocks];
                    // SAFETY: every quad of every row is written once.
                    match unsafe { out.part(row * n + first, 4.min(n - first)) } {
                        [a, b, c, d] => {
                            let [w0, w1, w2, w3] = [0, 1, 2, 3].map(|more| weights(first + more));
                            (*a, *b, *c, *d) = T::vec_dot_4(k, w0, w1, w2, w3, input);
                        }
                        rest => {
                            for (more, out) in rest.iter_mut().enumerate() {
                                *out = T::vec_dot(k, weights(first + more), input);
                            }
                        }
                    }
                }
            })
        })
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        let blocks = self.columns / T::BLCK_SIZE;
        T::to_float(&self.blocks[index * blocks..][..blocks], out);
    }
}

/// Rows of the input that go over the weights together.
const TILE: usize = 16;

/// Rounds rows of `k` numbers to the blocks that candle's kernels want, in room that is kept for the next time.
fn with_rounded<T: GgmlType, R>(
    pool: &Pool,
    k: usize,
    input: &[f32],
    work: impl FnOnce(&[T]) -> Result<R>,
) -> Result<R> {
    thread_local! {
        /// Of words, which are aligned for every type of block.
        static ROOM: Cell<Vec<u64>> = const { Cell::new(Vec::new()) };
    }
    let blocks = k / T::BLCK_SIZE;
    let count = input.len() / T::BLCK_SIZE;
    let mut room = ROOM.take();
    room.resize(room.len().max((count * size_of::<T>()).div_ceil(size_of::<u64>())), 0);
    const { assert!(align_of::<T>() <= align_of::<u64>()) };
    // SAFETY: the room is large enough, aligned, and initialized; blocks are numbers, as `PlainOldData` says.
    let rounded = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<T>(), count) };
    let parts = Parts::new(rounded);
    pool.each(input.len() / k, 4 * k, |row| {
        // SAFETY: each row comes once.
        let out = unsafe { parts.part(row * blocks, blocks) };
        T::from_float(&input[row * k..][..k], out);
    })?;
    let result = work(rounded);
    ROOM.set(room);
    result
}

/// A matrix that is turned into F32 on its way in.
struct Dequantized {
    kind: TensorType,
    stored: Stored<f32>,
}

impl Blocks for Dequantized {
    fn write_rows(&mut self, pool: &Pool, first: usize, bytes: &[u8]) -> Result<()> {
        let columns = self.stored.columns;
        let (block_len, block_size) = self.kind.block();
        let rows = bytes.len() / (columns / block_len as usize * block_size as usize);
        let mut piece = stored_as(self.kind, rows, columns)?;
        piece.write_rows(pool, 0, bytes)?;
        let target = &mut self.stored.blocks[first * columns..(first + rows) * columns];
        target.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| piece.row(row, out));
        Ok(())
    }

    fn multiply(
        &self,
        pool: &Pool,
        rows: usize,
        input: &[f32],
        rounded: &mut Input,
        out: &mut [f32],
    ) -> Result<()> {
        self.stored.multiply(pool, rows, input, rounded, out)
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
    #[cfg(target_feature = "relaxed-simd")]
    if super::form::pairs_are_faster(kind) {
        return packed_as::<super::kernels::quants::Pairs>(kind, rows, columns);
    }
    packed_as::<Usual>(kind, rows, columns)
}

/// The same, with integers in the form `I`.
pub(super) fn packed_as<I: Form + 'static>(
    kind: TensorType,
    rows: usize,
    columns: usize,
) -> Option<Result<Box<dyn Blocks>>> {
    type Made = Option<Result<Box<dyn Blocks>>>;
    fn boxed<L: layout::Layout + 'static, E: file::Encoding + 'static>(rows: usize, columns: usize) -> Made {
        Some(Packed::<L, E>::new(rows, columns).map(|packed| Box::new(packed) as Box<dyn Blocks>))
    }
    fn boxed16<F: Format + 'static>(rows: usize, columns: usize) -> Made {
        // A word has two columns.
        let packed = columns.is_multiple_of(2).then(|| Packed16::<F>::new(rows, columns))?;
        Some(packed.map(|packed| Box::new(packed) as Box<dyn Blocks>))
    }
    use layout::{PackedPlaces, PackedPlaces16, PackedPlaces32};
    match kind {
        TensorType::F32 => None,
        TensorType::F16 => boxed16::<Binary16>(rows, columns),
        TensorType::BF16 => boxed16::<Brain16>(rows, columns),
        TensorType::Q4_0 => boxed::<layout::PackedQ4_0<I>, file::Q4_0>(rows, columns),
        TensorType::Q4_1 => boxed::<layout::PackedQ4_1<I>, file::Q4_1>(rows, columns),
        TensorType::Q5_0 => boxed::<layout::PackedQ5_0<I>, file::Q5_0>(rows, columns),
        TensorType::Q5_1 => boxed::<layout::PackedQ5_1<I>, file::Q5_1>(rows, columns),
        TensorType::Q8_0 => boxed::<layout::PackedQ8_0<I>, file::Q8_0>(rows, columns),
        TensorType::Q2_K => boxed::<layout::PackedQ2K<I>, file::Q2K>(rows, columns),
        TensorType::Q3_K => boxed::<layout::PackedQ3K<I>, file::Q3K>(rows, columns),
        TensorType::Q4_K => boxed::<layout::PackedQ4K<I>, file::Q4K>(rows, columns),
        TensorType::Q5_K => boxed::<layout::PackedQ5K<I>, file::Q5K>(rows, columns),
        TensorType::Q6_K => boxed::<layout::PackedQ6K<I>, file::Q6K>(rows, columns),
        TensorType::Q1_0 => boxed::<layout::PackedQ1_0<I>, file::Q1_0>(rows, columns),
        TensorType::Q2_0 => boxed::<layout::PackedQ2_0<I>, file::Q2_0>(rows, columns),
        TensorType::TQ1_0 => boxed::<layout::PackedQ2_0<I>, file::TQ1_0>(rows, columns),
        TensorType::TQ2_0 => boxed::<layout::PackedQ2_0<I>, file::TQ2_0>(rows, columns),
        TensorType::IQ4_NL => boxed::<PackedPlaces<I>, file::IQ4_NL>(rows, columns),
        TensorType::MXFP4 => boxed::<PackedPlaces<I>, file::MXFP4>(rows, columns),
        TensorType::NVFP4 => {
            Some(Nvfp4::new(rows, columns).map(|packed| Box::new(packed) as Box<dyn Blocks>))
        }
        TensorType::IQ4_XS => boxed::<PackedPlaces32<I>, file::IQ4_XS>(rows, columns),
        TensorType::IQ3_XXS => boxed::<PackedPlaces32<I>, file::IQ3_XXS>(rows, columns),
        TensorType::IQ3_S => boxed::<PackedPlaces32<I>, file::IQ3_S>(rows, columns),
        TensorType::IQ2_XXS => boxed::<PackedPlaces32<I>, file::IQ2_XXS>(rows, columns),
        TensorType::IQ2_XS => boxed::<PackedPlaces16<I>, file::IQ2_XS>(rows, columns),
        TensorType::IQ2_S => boxed::<PackedPlaces16<I>, file::IQ2_S>(rows, columns),
        TensorType::IQ1_S => boxed::<PackedPlaces32<I>, file::IQ1_S>(rows, columns),
        TensorType::IQ1_M => boxed::<PackedPlaces16<I>, file::IQ1_M>(rows, columns),
    }
}

/// As the file has it, for candle's kernels, where candle has them.
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
        _ => packed_as::<Usual>(kind, rows, columns)
            .unwrap_or_else(|| Err(Error::internal(format!("{} has no kernel", kind.name())))),
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::kernels::quants::{Pairs, Quads};
    use super::*;

    /// A few rows in `T`, as a file has them.
    pub(crate) fn encoded<T: PlainOldData>(rows: usize, columns: usize) -> Vec<u8> {
        let mut stored = stored::<T>(rows, columns).unwrap();
        let mut random = 0x5eed_u32;
        let mut float = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random as f32 / (1u32 << 31) as f32 - 1.0
        };
        let floats: Vec<f32> = (0..rows * columns).map(|_| float()).collect();
        T::from_float(&floats, &mut stored.blocks);
        stored.bytes_mut().to_vec()
    }

    /// Products with one column and with several are those with the rows, in more than one strip, of which the last
    /// is not whole.
    fn multiplies(matrix: &dyn Blocks, pool: &Pool, (rows, columns): (usize, usize)) {
        for count in [1, 6] {
            // Integers of 8 bits, with the largest in each block: kernels round nothing away.
            let integer =
                |index: usize| if index.is_multiple_of(16) { -127 } else { (index * 37 % 255) as i32 - 127 };
            let input: Vec<f32> = (0..count * columns).map(|index| integer(index) as f32).collect();
            let mut out = vec![f32::NAN; count * rows];
            matrix.multiply(pool, count, &input, &mut Input::default(), &mut out).unwrap();
            let mut weights = vec![0.0; columns];
            for row in 0..rows {
                matrix.row(row, &mut weights);
                for (index, input) in input.chunks(columns).enumerate() {
                    let products = || weights.iter().zip(input).map(|(a, b)| f64::from(a * b));
                    let (exact, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                    let ours = f64::from(out[index * rows + row]);
                    assert!(
                        (ours - exact).abs() <= 1e-5 * size,
                        "{index} of {count}, row {row}: {ours}, not {exact}"
                    );
                }
            }
        }
    }

    /// Packed rows are what candle makes of the file's, wherever pieces begin and end.
    fn packs<T: PlainOldData>(kind: TensorType) {
        let (rows, columns) = (37, 3 * T::BLCK_SIZE.max(2));
        let bytes = encoded::<T>(rows, columns);
        let pool = Pool::new(2);
        let mut plain = stored_as(kind, rows, columns).unwrap();
        plain.write_rows(&pool, 0, &bytes).unwrap();
        for pieces in [vec![0, 37], vec![0, 1, 6, 21, 37], vec![0, 18, 37]] {
            let mut packed = packed(kind, rows, columns).unwrap().unwrap();
            let size = bytes.len() / rows;
            for piece in pieces.windows(2) {
                packed.write_rows(&pool, piece[0], &bytes[piece[0] * size..piece[1] * size]).unwrap();
            }
            assert!(packed.write_rows(&pool, rows, &bytes[..size]).is_err(), "a row too many");
            for row in 0..rows {
                let (mut ours, mut candles) = (vec![0.0; columns], vec![0.0; columns]);
                packed.row(row, &mut ours);
                plain.row(row, &mut candles);
                for (column, (a, b)) in ours.iter().zip(&candles).enumerate() {
                    assert!((a - b).abs() <= 1e-6, "{}, {row}.{column}: {a}, not {b}", kind.name());
                }
            }
            multiplies(&*packed, &pool, (rows, columns));
        }
    }

    /// What candle does not have, as llama.cpp takes it apart.
    #[test]
    fn other_types_are_packed_as_llama_cpp_reads_them() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/goldens/blocks.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let pool = Pool::new(2);
        let kinds: Vec<TensorType> =
            TensorType::ALL.iter().copied().filter(|kind| golden.get(kind.name()).is_some()).collect();
        assert_eq!(kinds.len(), golden.as_object().unwrap().len());
        for kind in kinds {
            let hex = golden[kind.name()]["bytes"].as_str().unwrap();
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            let values: Vec<f32> = serde_json::from_value(golden[kind.name()]["values"].clone()).unwrap();
            let columns = values.len();
            // More than one strip, of which the last is not whole; rows differ in the order of their blocks.
            let rows = 21;
            let (first, second) = bytes.split_at(bytes.len() / 2);
            let swapped: Vec<u8> = [second, first].concat();
            let file: Vec<u8> =
                (0..rows).flat_map(|row| if row % 3 == 0 { &bytes } else { &swapped }.clone()).collect();
            for form in [packed_as::<Pairs>, packed_as::<Quads>] {
                let mut matrix = form(kind, rows, columns).unwrap().unwrap();
                matrix.write_rows(&pool, 0, &file).unwrap();
                for row in 0..rows {
                    let mut ours = vec![0.0; columns];
                    matrix.row(row, &mut ours);
                    for (column, ours) in ours.iter().enumerate() {
                        let of_block = if row % 3 == 0 { column } else { (column + columns / 2) % columns };
                        let theirs = values[of_block];
                        let near = (ours - theirs).abs() <= 1e-6 * theirs.abs();
                        assert!(near, "{}, {row}.{column}: {ours}, not {theirs}", kind.name());
                    }
                }
                multiplies(&*matrix, &pool, (rows, columns));
            }
        }
    }

    #[test]
    fn every_type_is_packed_as_it_is() {
        packs::<f16>(TensorType::F16);
        packs::<bf16>(TensorType::BF16);
        packs::<BlockQ4_0>(TensorType::Q4_0);
        packs::<BlockQ4_1>(TensorType::Q4_1);
        packs::<BlockQ5_0>(TensorType::Q5_0);
        packs::<BlockQ5_1>(TensorType::Q5_1);
        packs::<BlockQ8_0>(TensorType::Q8_0);
        packs::<BlockQ2K>(TensorType::Q2_K);
        packs::<BlockQ3K>(TensorType::Q3_K);
        packs::<BlockQ4K>(TensorType::Q4_K);
        packs::<BlockQ5K>(TensorType::Q5_K);
        packs::<BlockQ6K>(TensorType::Q6_K);
    }
}
