//! Weight matrices packed for our own kernels.

use super::blocks::{Blocks, Column};
use super::kernels::float::lanes;
use super::kernels::input::{Input, Order};
use super::kernels::layout::{self, Layout, Strip};
use super::kernels::quants::{GROUPS, Lanes, Quants, WORD};
use super::kernels::simd::{V, store, zero};
use super::kernels::{column, rows, tile};
use super::pool::{Parts, Pool};
use crate::backend::encoding::{Encoding, Table};
use crate::{Error, Result};
use std::marker::PhantomData;

/// Most rows of the input that a pass over the weights serves: those of a step through a prompt.
const MOST_ROWS: usize = rows::MOST_ROWS;

/// A matrix in the layout `L`, which the file has in the encoding `E`.
pub(super) struct Packed<L, E> {
    matrix: Strips<L>,
    encoding: PhantomData<fn(E)>,
}

impl<L: Layout, E: Encoding> Packed<L, E> {
    /// Zeroed room; `columns` must be whole blocks.
    pub(super) fn new(rows: usize, columns: usize) -> Result<Self> {
        Ok(Packed { matrix: Strips::new(rows, columns, E::TABLE)?, encoding: PhantomData })
    }
}

/// A matrix in the layout `L`: strips of groups of four rows; rows that are not there are zeros. Apart from the encoding,
/// so that its kernels exist once for several.
struct Strips<L> {
    rows: usize,
    columns: usize,
    /// In 16-byte words, for their alignment.
    integers: Vec<u128>,
    scales: Vec<u128>,
    table: Table,
    layout: PhantomData<fn(L)>,
}

impl<L: Layout> Strips<L> {
    fn new(rows: usize, columns: usize, table: Table) -> Result<Self> {
        let strips = rows.div_ceil(layout::ROWS);
        let [integers, scales] =
            L::strip_bytes(columns / 32).map(|bytes| words(strips.saturating_mul(bytes) / WORD));
        Ok(Strips { rows, columns, integers: integers?, scales: scales?, table, layout: PhantomData })
    }

    fn strips(&self) -> usize {
        self.rows.div_ceil(layout::ROWS)
    }

    fn strip(&self, index: usize) -> Strip<'_> {
        L::strip(&self.integers, &self.scales, &self.table, index, self.columns / 32)
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
        let parts = input.chunks(MOST_ROWS * self.columns).zip(out.chunks_mut(MOST_ROWS * self.rows));
        for (input, out) in parts {
            rounded.fill(pool, &Order::several::<L>(), self.columns, input)?;
            self.multiply_columns(pool, input.len() / self.columns, rounded, out)?;
        }
        Ok(())
    }

    /// See [`Blocks::part`].
    unsafe fn part(&self, index: usize, input: &Input, out: &Output) {
        // SAFETY: the strip has the matrix's columns, and so has the input; the rest is the caller's.
        unsafe { out.write(0, index * GROUPS, &column::multiply::<L>(self.strip(index), input)) };
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        let strip_rows = layout::ROWS;
        // SAFETY: the strip has the matrix's columns.
        unsafe { layout::unpack_row::<L>(self.strip(index / strip_rows), index % strip_rows, out) };
    }

    fn multiply_column(&self, pool: &Pool, input: &Input, out: &mut [f32]) -> Result<()> {
        let out = Output::new(out, self.rows);
        // SAFETY: the input was made for this matrix; strips are apart.
        pool.each(self.strips(), self.strip_cost(), |index| unsafe { self.part(index, input, &out) })
    }

    /// Multiplications with one column.
    fn strip_cost(&self) -> usize {
        layout::ROWS * self.columns
    }

    fn multiply_columns(&self, pool: &Pool, rows: usize, input: &Input, out: &mut [f32]) -> Result<()> {
        let out = Output::new(out, self.rows);
        pool.each(self.strips(), rows * self.strip_cost(), |index| {
            let mut totals = [[[zero(); GROUPS]; rows::ROWS]; MOST_ROWS / rows::ROWS];
            let totals = &mut totals[..rows.div_ceil(rows::ROWS)];
            // SAFETY: the strip has the matrix's columns, and so has the input; strips are apart.
            unsafe {
                match L::Quants::LANES {
                    Lanes::Pairs | Lanes::BytePairs => tile::multiply::<L>(self.strip(index), input, totals),
                    Lanes::Quads | Lanes::SignedQuads => {
                        rows::multiply::<L>(self.strip(index), input, totals)
                    }
                }
                for (row, totals) in totals.as_flattened()[..rows].iter().enumerate() {
                    out.write(row, index * GROUPS, totals);
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

/// The same, as bytes.
pub(super) fn bytes_of(words: &mut [u128]) -> &mut [u8] {
    // SAFETY: the bytes are the words' own, and any make a number.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

/// Rows of `width` numbers that several threads write.
pub(super) struct Output<'a> {
    numbers: Parts<'a, f32>,
    width: usize,
}

impl<'a> Output<'a> {
    pub(super) fn new(out: &'a mut [f32], width: usize) -> Self {
        Output { numbers: Parts::new(out), width }
    }

    /// Writes four numbers for each group from `first` on, as far as the row goes.
    ///
    /// # Safety
    /// No other thread may write the same at the same time.
    #[inline(always)]
    pub(super) unsafe fn write(&self, row: usize, first: usize, groups: &[V]) {
        // Strips are whole, rows need not be.
        let at = self.width.min(4 * first);
        let len = (self.width - at).min(4 * groups.len());
        // SAFETY: the caller's.
        let target = unsafe { self.numbers.part(row * self.width + at, len) };
        let (fours, rest) = target.as_chunks_mut::<4>();
        for (four, &group) in fours.iter_mut().zip(groups) {
            // SAFETY: four numbers are 16 bytes.
            unsafe { store(four.as_mut_ptr().cast(), group) };
        }
        if let Some(&group) = groups.get(fours.len()) {
            // A copy of any length would be a call, which V8 takes long for.
            rest.iter_mut().zip(lanes(group)).for_each(|(target, value)| *target = value);
        }
    }
}

impl<L: Layout, E: Encoding> Blocks for Packed<L, E> {
    fn write_rows(&mut self, pool: &Pool, first: usize, bytes: &[u8]) -> Result<()> {
        let Strips { rows, columns, ref mut integers, ref mut scales, .. } = self.matrix;
        let row_bytes = columns / E::COLUMNS * E::BYTES;
        let end = first + bytes.len() / row_bytes;
        if end > rows || !bytes.len().is_multiple_of(row_bytes) {
            return Err(Error::internal("a matrix is written past its end"));
        }
        let [integer_bytes, scale_bytes] = L::strip_bytes(columns / 32);
        let integers = Parts::new(bytes_of(integers));
        let scales = Parts::new(bytes_of(scales));
        let strip_rows = layout::ROWS;
        let first_strip = first / strip_rows;
        pool.each(end.div_ceil(strip_rows) - first_strip, strip_rows * columns, |index| {
            let strip = first_strip + index;
            // SAFETY: strips do not overlap, and each comes once.
            let integers = unsafe { integers.part(strip * integer_bytes, integer_bytes) };
            // SAFETY: the same.
            let scales = unsafe { scales.part(strip * scale_bytes, scale_bytes) };
            for row in first.max(strip_rows * strip)..end.min(strip_rows * (strip + 1)) {
                let bytes = &bytes[(row - first) * row_bytes..][..row_bytes];
                L::pack::<E>(bytes, row % strip_rows, integers, scales);
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
        self.matrix.multiply(pool, rows, input, rounded, out)
    }

    fn column(&self) -> Option<Column> {
        Some(Column { order: Order::one::<L>(), parts: self.matrix.strips(), cost: self.matrix.strip_cost() })
    }

    unsafe fn part(&self, index: usize, input: &Input, out: &Output) {
        // SAFETY: the caller's.
        unsafe { self.matrix.part(index, input, out) };
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.matrix.row(index, out);
    }
}
