//! Weight matrices packed for our own kernels.

use super::blocks::Blocks;
use super::kernels::decode::Encoding;
use super::kernels::input::{Input, Order, ROWS};
use super::kernels::layout::Layout;
use super::kernels::quants::Quants;
use super::kernels::simd::{V, store, zero};
use super::kernels::{column, tile};
use super::pool::{Parts, Pool};
use crate::{Error, Result};
use std::marker::PhantomData;

/// Tiles of input rows that a pass over the weights serves: those of a step through a prompt.
const TILES: usize = 16;

/// A matrix in the layout `L`: groups of four rows, an even number of them; rows and columns that are not there are
/// zeros.
pub(super) struct Packed<L> {
    rows: usize,
    columns: usize,
    /// In 16-byte words, for their alignment.
    words: Vec<u128>,
    layout: PhantomData<fn(L)>,
}

impl<L: Layout> Packed<L> {
    /// Zeroed room; `columns` must be whole blocks.
    pub fn new(rows: usize, columns: usize) -> Result<Self> {
        let groups = rows.div_ceil(4 * tile::GROUPS).saturating_mul(tile::GROUPS);
        let len = groups.saturating_mul(Self::group_bytes(columns)) / size_of::<u128>();
        Vec::<u128>::new().try_reserve_exact(len).map_err(|_| {
            let megabytes = len.saturating_mul(size_of::<u128>()) / 1_000_000;
            Error::resource_exhausted(format!(
                "no memory for a matrix of {megabytes} MB. Choose a smaller model"
            ))
        })?;
        Ok(Packed { rows, columns, words: vec![0; len], layout: PhantomData })
    }

    const fn group_bytes(columns: usize) -> usize {
        columns.div_ceil(L::COLUMNS) * L::BYTES
    }

    fn groups(&self) -> usize {
        self.rows.div_ceil(4 * tile::GROUPS) * tile::GROUPS
    }

    fn group(&self, index: usize) -> *const u8 {
        let bytes = Self::group_bytes(self.columns);
        self.words[index * bytes / size_of::<u128>()..][..bytes / size_of::<u128>()].as_ptr().cast()
    }

    fn multiply_column(&self, pool: &Pool, input: &Input, out: &mut [f32]) -> Result<()> {
        // A strip is as many groups as the kernel takes; the last one may be half of it, and groups are even in number.
        let (strip, groups) = (L::Quants::GROUPS, self.groups());
        let out = Output::new(out, self.rows);
        pool.each(groups.div_ceil(strip), 4 * strip * self.columns, |index| {
            let first = index * strip;
            // SAFETY: the groups have the matrix's columns, and so has the input; strips are apart.
            unsafe {
                if strip == 4 && first + 4 <= groups {
                    let at = [0, 1, 2, 3].map(|group| self.group(first + group));
                    out.write(0, first, &column::multiply::<L, 4>(at, input));
                } else {
                    let at = [0, 1].map(|group| self.group(first + group));
                    out.write(0, first, &column::multiply::<L, 2>(at, input));
                }
            }
        })
    }

    fn multiply_columns(&self, pool: &Pool, rows: usize, input: &Input, out: &mut [f32]) -> Result<()> {
        let out = Output::new(out, self.rows);
        pool.each(self.groups() / tile::GROUPS, 4 * tile::GROUPS * rows * self.columns, |index| {
            let first = index * tile::GROUPS;
            let mut panel = tile::Panel::new();
            let mut totals = [[[zero(); tile::GROUPS]; ROWS]; TILES];
            let totals = &mut totals[..rows.div_ceil(ROWS)];
            // SAFETY: the groups have the matrix's columns, and so has the input; strips are apart.
            unsafe {
                tile::multiply::<L>([0, 1].map(|group| self.group(first + group)), input, &mut panel, totals);
                for (row, totals) in totals.iter().flatten().take(rows).enumerate() {
                    out.write(row, first, totals);
                }
            }
        })
    }
}

/// Zeroed memory, in units that are aligned for vectors.
pub(super) fn words(len: usize) -> Result<Vec<u128>> {
    Vec::<u128>::new().try_reserve_exact(len).map_err(|_| {
        let megabytes = len.saturating_mul(size_of::<u128>()) / 1_000_000;
        Error::resource_exhausted(format!("no memory for a matrix of {megabytes} MB. Choose a smaller model"))
    })?;
    Ok(vec![0; len])
}

/// Rows of `width` numbers that several threads write.
pub(super) struct Output<'a> {
    numbers: Parts<'a, f32>,
    width: usize,
}

impl<'a> Output<'a> {
    pub fn new(out: &'a mut [f32], width: usize) -> Self {
        Output { numbers: Parts::new(out), width }
    }

    /// Writes four numbers for each group from `first` on, as far as the row goes.
    ///
    /// # Safety
    /// No other thread may write the same at the same time.
    pub unsafe fn write(&self, row: usize, first: usize, groups: &[V]) {
        for (index, &four) in groups.iter().enumerate() {
            let at = 4 * (first + index);
            let len = 4.min(self.width.saturating_sub(at));
            if len == 0 {
                break; // Groups are even in number, rows need not be.
            }
            // SAFETY: the caller's.
            let target = unsafe { self.numbers.part(row * self.width + at, len) };
            let mut lanes = [0.0; 4];
            // SAFETY: the pointer is to 16 bytes.
            unsafe { store(lanes.as_mut_ptr().cast(), four) };
            target.copy_from_slice(&lanes[..len]);
        }
    }
}

impl<L: Layout> Blocks for Packed<L> {
    fn write_rows(&mut self, pool: &Pool, first: usize, bytes: &[u8]) -> Result<()> {
        let row_bytes = self.columns / L::BLOCK * L::Encoding::BYTES;
        let end = first + bytes.len() / row_bytes;
        if end > self.rows || !bytes.len().is_multiple_of(row_bytes) {
            return Err(Error::internal("a matrix is written past its end"));
        }
        let group_bytes = Self::group_bytes(self.columns);
        let len = size_of_val(self.words.as_slice());
        // SAFETY: the bytes are the vector's own.
        let target: &mut [u8] =
            unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), len) };
        let target = Parts::new(target);
        let chunk_bytes = L::COLUMNS / L::BLOCK * L::Encoding::BYTES;
        let first_group = first / 4;
        pool.each(end.div_ceil(4) - first_group, 4 * self.columns, |index| {
            let group = first_group + index;
            // SAFETY: groups do not overlap, and each comes once.
            let target = unsafe { target.part(group * group_bytes, group_bytes) };
            for row in first.max(4 * group)..end.min(4 * group + 4) {
                let bytes = bytes[(row - first) * row_bytes..][..row_bytes].chunks(chunk_bytes);
                for (chunk, bytes) in target.chunks_exact_mut(L::BYTES).zip(bytes) {
                    L::pack(bytes, row % 4, chunk);
                }
            }
        })
    }

    fn multiply(
        &self,
        pool: &Pool,
        rows: usize,
        input: &[f32],
        rounded: &mut Input,
        out: &mut [f32],
    ) -> Result<()> {
        if rows == 1 {
            rounded.fill(pool, &Order::one::<L>(), self.columns, input)?;
            return self.multiply_column(pool, rounded, out);
        }
        let together = TILES * ROWS;
        for (input, out) in input.chunks(together * self.columns).zip(out.chunks_mut(together * self.rows)) {
            rounded.fill(pool, &Order::several::<L>(), self.columns, input)?;
            self.multiply_columns(pool, input.len() / self.columns, rounded, out)?;
        }
        Ok(())
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        // SAFETY: the group has the matrix's columns.
        unsafe { tile::unpack_row::<L>(self.group(index / 4), index % 4, &mut tile::Panel::new(), out) };
    }
}
