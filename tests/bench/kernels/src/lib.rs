//! Products of matrices of every quantized type, in the kernels' own source, for measuring them without a model.
#![allow(dead_code, unused_imports)]

mod backend {
    #[path = "../../../../../src/backend/encoding/mod.rs"]
    pub mod encoding;

    pub mod cpu {
        #[path = "../../../../../../src/backend/cpu/kernels/mod.rs"]
        pub mod kernels;
        pub mod pool;
    }
}

use backend::cpu::kernels::input::{Input, Order};
use backend::cpu::kernels::layout::{self, *};
use backend::cpu::kernels::quants::{GROUPS, Lanes, Quants};
use backend::cpu::kernels::simd::zero;
use backend::cpu::kernels::{column, rows, tile};
use backend::cpu::pool::Pool;
use backend::encoding::{self as file, Encoding};
use std::cell::RefCell;
use std::hint::black_box;
use std::marker::PhantomData;

pub type Result<T> = std::result::Result<T, ()>;

/// Rows of a prompt's step.
const ROWS: usize = 64;

/// A matrix with its input.
trait Case {
    /// With one column.
    fn one(&mut self);
    /// With [`ROWS`].
    fn many(&mut self);
}

struct Matrix<L, E> {
    columns: usize,
    integers: Vec<u128>,
    scales: Vec<u128>,
    numbers: Vec<f32>,
    input: Input,
    layout: PhantomData<(L, E)>,
}

impl<L: Layout, E: Encoding> Matrix<L, E> {
    /// Random; the bytes of f16 scales are at `scales` in each block.
    fn random(rows: usize, columns: usize, scales: &[usize]) -> Self {
        let mut seed = 7u32;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed
        };
        let strip_rows = layout::ROWS;
        assert!(rows.is_multiple_of(strip_rows) && columns.is_multiple_of(E::COLUMNS));
        let strip = L::strip_bytes(columns / 32);
        let [mut integers, mut block_scales] = strip.map(|bytes| vec![0u128; rows / strip_rows * bytes / 16]);
        let mut file = vec![0; columns / E::COLUMNS * E::BYTES];
        for row in 0..rows {
            file.fill_with(|| next() as u8);
            for block in file.chunks_exact_mut(E::BYTES) {
                scales.iter().for_each(|&at| block[at + 1] = 0x20); // about 0.01
            }
            let [integers, block_scales] = [(&mut integers, strip[0]), (&mut block_scales, strip[1])]
                .map(|(words, bytes)| &mut bytes_of(words)[row / strip_rows * bytes..][..bytes]);
            L::pack::<E>(&file, row % strip_rows, integers, block_scales);
        }
        let numbers = (0..ROWS * columns).map(|_| next() as i32 as f32 / i32::MAX as f32).collect();
        Matrix {
            columns,
            integers,
            scales: block_scales,
            numbers,
            input: Input::default(),
            layout: PhantomData,
        }
    }

    fn strips(&self) -> impl Iterator<Item = Strip<'_>> {
        let blocks = self.columns / 32;
        let count = 16 * self.integers.len() / L::strip_bytes(blocks)[0];
        (0..count).map(move |index| L::strip(&self.integers, &self.scales, &E::TABLE, index, blocks))
    }
}

fn bytes_of(words: &mut [u128]) -> &mut [u8] {
    // SAFETY: the bytes are the words' own.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 16 * words.len()) }
}

impl<L: Layout, E: Encoding> Case for Matrix<L, E> {
    fn one(&mut self) {
        self.input.forget();
        _ = self.input.fill(&Pool, &Order::one::<L>(), self.columns, &self.numbers[..self.columns]);
        for strip in self.strips() {
            // SAFETY: the strip has the matrix's columns, and so has the input.
            _ = black_box(unsafe { column::multiply::<L>(strip, &self.input) });
        }
    }

    fn many(&mut self) {
        self.input.forget();
        _ = self.input.fill(&Pool, &Order::several::<L>(), self.columns, &self.numbers);
        let mut totals = [[[zero(); GROUPS]; rows::ROWS]; ROWS / rows::ROWS];
        for strip in self.strips() {
            // SAFETY: the strip has the matrix's columns, and so has the input.
            unsafe {
                match L::Quants::LANES {
                    Lanes::Pairs | Lanes::BytePairs => tile::multiply::<L>(strip, &self.input, &mut totals),
                    _ => rows::multiply::<L>(strip, &self.input, &mut totals),
                }
            }
            black_box(&totals);
        }
    }
}

thread_local! {
    static CASE: RefCell<Option<Box<dyn Case>>> = const { RefCell::new(None) };
}

/// Takes the place of the case before. `kind` is a place in kernels.js's list of types.
#[unsafe(no_mangle)]
pub extern "C" fn make(kind: usize, rows: usize, columns: usize) {
    CASE.set(None);
    let case: Box<dyn Case> = match kind {
        0 => Box::new(Matrix::<PackedQ4_0, file::Q4_0>::random(rows, columns, &[0])),
        1 => Box::new(Matrix::<PackedQ4_1, file::Q4_1>::random(rows, columns, &[0, 2])),
        2 => Box::new(Matrix::<PackedQ5_0, file::Q5_0>::random(rows, columns, &[0])),
        3 => Box::new(Matrix::<PackedQ5_1, file::Q5_1>::random(rows, columns, &[0, 2])),
        4 => Box::new(Matrix::<PackedQ8_0, file::Q8_0>::random(rows, columns, &[0])),
        5 => Box::new(Matrix::<PackedQ2K, file::Q2K>::random(rows, columns, &[80, 82])),
        6 => Box::new(Matrix::<PackedQ3K, file::Q3K>::random(rows, columns, &[108])),
        7 => Box::new(Matrix::<PackedQ4K, file::Q4K>::random(rows, columns, &[0, 2])),
        8 => Box::new(Matrix::<PackedQ5K, file::Q5K>::random(rows, columns, &[0, 2])),
        9 => Box::new(Matrix::<PackedQ6K, file::Q6K>::random(rows, columns, &[208])),
        10 => Box::new(Matrix::<PackedQ1_0, file::Q1_0>::random(rows, columns, &[0])),
        11 => Box::new(Matrix::<PackedQ2_0, file::Q2_0>::random(rows, columns, &[0])),
        12 => Box::new(Matrix::<PackedPlaces, file::IQ4_NL>::random(rows, columns, &[0])),
        _ => Box::new(Matrix::<PackedPlaces32, file::IQ4_XS>::random(rows, columns, &[0])),
    };
    CASE.set(Some(case));
}

#[unsafe(no_mangle)]
pub extern "C" fn one(times: usize) {
    CASE.with_borrow_mut(|case| case.iter_mut().for_each(|case| (0..times).for_each(|_| case.one())));
}

#[unsafe(no_mangle)]
pub extern "C" fn many(times: usize) {
    CASE.with_borrow_mut(|case| case.iter_mut().for_each(|case| (0..times).for_each(|_| case.many())));
}
