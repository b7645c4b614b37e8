//! Matrices of 16-bit floats, packed for our own kernel.

use super::blocks::Blocks;
use super::kernels::float16::{self, Binary16, Format};
use super::kernels::input::Input;
use super::kernels::simd::{V, load, store};
use super::packed::{Output, bytes_of, words};
use super::pool::{Parts, Pool};
use crate::backend::encoding::nvfp4_to_f16;
use crate::{Error, Result};
use std::marker::PhantomData;

/// Groups of four rows that go together where the input has several rows.
const GROUPS: usize = 2;
/// And where it has one.
const GROUPS_OF_ONE: usize = 4;
/// Rows of the input that go together.
const ROWS: usize = 4;

/// A matrix of 16-bit floats: groups of four rows; those that are not there are zeros.
pub(super) struct Packed16<F> {
    rows: usize,
    columns: usize,
    words: Vec<u128>,
    format: PhantomData<fn(F)>,
}

impl<F: Format> Packed16<F> {
    /// Zeroed room. The number of columns must be even.
    pub(super) fn new(rows: usize, columns: usize) -> Result<Self> {
        let groups = rows.div_ceil(4 * GROUPS_OF_ONE).saturating_mul(GROUPS_OF_ONE);
        let words = words(groups.saturating_mul(columns / 2))?;
        Ok(Packed16 { rows, columns, words, format: PhantomData })
    }

    fn group(&self, index: usize) -> *const u8 {
        self.words[index * self.columns / 2..][..self.columns / 2].as_ptr().cast()
    }

    /// `N` rows of the input from `first` on.
    fn multiply_rows<const N: usize>(
        &self,
        pool: &Pool,
        first: usize,
        input: &[f32],
        out: &Output,
    ) -> Result<()> {
        let rows: [&[f32]; N] =
            std::array::from_fn(|row| &input[(first + row) * self.columns..][..self.columns]);
        let words = self.columns / 2;
        let groups = if N == 1 { GROUPS_OF_ONE } else { GROUPS };
        pool.each(self.rows.div_ceil(4 * groups), 4 * groups * N * self.columns, |index| {
            let group = index * groups;
            let rows = rows.map(<[f32]>::as_ptr);
            let write = |products: &[V], row: usize| {
                // SAFETY: each index comes once.
                unsafe { out.write(first + row, group, products) };
            };
            // SAFETY: groups have so many words, rows twice as many numbers.
            unsafe {
                if N == 1 {
                    let at = [0, 1, 2, 3].map(|more| self.group(group + more));
                    let products = float16::multiply::<F, N, GROUPS_OF_ONE>(at, words, rows);
                    products.iter().enumerate().for_each(|(row, products)| write(products, row));
                } else {
                    let at = [0, 1].map(|more| self.group(group + more));
                    let products = float16::multiply::<F, N, GROUPS>(at, words, rows);
                    products.iter().enumerate().for_each(|(row, products)| write(products, row));
                }
            }
        })
    }
}

impl<F: Format> Blocks for Packed16<F> {
    fn write_rows(&mut self, pool: &Pool, first: usize, bytes: &[u8]) -> Result<()> {
        let (columns, row_bytes) = (self.columns, 2 * self.columns);
        let end = first + bytes.len() / row_bytes;
        if end > self.rows || !bytes.len().is_multiple_of(row_bytes) {
            return Err(Error::internal("a matrix is written past its end"));
        }
        let target = Parts::new(bytes_of(&mut self.words));
        let group_bytes = 8 * columns;
        let first_group = first / 4;
        pool.each(end.div_ceil(4) - first_group, 4 * columns, |index| {
            let group = first_group + index;
            // SAFETY: groups do not overlap, and each comes once.
            let words = unsafe { target.part(group * group_bytes, group_bytes) }.as_chunks_mut::<16>().0;
            for row in first.max(4 * group)..end.min(4 * group + 4) {
                let pairs = bytes[(row - first) * row_bytes..][..row_bytes].as_chunks::<4>().0;
                for (word, pair) in words.iter_mut().zip(pairs) {
                    word.as_chunks_mut::<4>().0[row % 4] = *pair;
                }
            }
        })
    }

    fn multiply(
        &self,
        pool: &Pool,
        rows: usize,
        input: &[f32],
        _: &mut Input,
        out: &mut [f32],
    ) -> Result<()> {
        let out = Output::new(out, self.rows);
        for first in (0..rows).step_by(ROWS) {
            match rows - first {
                1 => self.multiply_rows::<1>(pool, first, input, &out)?,
                2 => self.multiply_rows::<2>(pool, first, input, &out)?,
                3 => self.multiply_rows::<3>(pool, first, input, &out)?,
                _ => self.multiply_rows::<ROWS>(pool, first, input, &out)?,
            }
        }
        Ok(())
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        let unpack = F::unpack();
        for (word, pair) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut lanes = [[0.0f32; 4]; 2];
            // SAFETY: the group has so many words, and the arrays 16 bytes.
            unsafe {
                let columns = F::columns(load(self.group(index / 4).add(16 * word)), unpack);
                for (lanes, column) in lanes.iter_mut().zip(columns) {
                    store(lanes.as_mut_ptr().cast(), column);
                }
            }
            *pair = lanes.map(|lanes| lanes[index % 4]);
        }
    }
}

/// A matrix of NVFP4, whose weights are kept as the f16 numbers that they are.
pub(super) struct Nvfp4 {
    numbers: Packed16<Binary16>,
}

impl Nvfp4 {
    /// Zeroed room. The number of columns must be whole blocks.
    pub(super) fn new(rows: usize, columns: usize) -> Result<Self> {
        Ok(Nvfp4 { numbers: Packed16::new(rows, columns)? })
    }
}

impl Blocks for Nvfp4 {
    fn write_rows(&mut self, pool: &Pool, first: usize, bytes: &[u8]) -> Result<()> {
        let mut numbers = Vec::with_capacity(bytes.len() / 36 * 128);
        nvfp4_to_f16(bytes, &mut numbers);
        self.numbers.write_rows(pool, first, &numbers)
    }

    fn multiply(
        &self,
        pool: &Pool,
        rows: usize,
        input: &[f32],
        rounded: &mut Input,
        out: &mut [f32],
    ) -> Result<()> {
        self.numbers.multiply(pool, rows, input, rounded, out)
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.numbers.row(index, out);
    }
}
