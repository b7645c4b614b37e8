//! Kernels against plain arithmetic, and the SIMD functions against their plain twins.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "all slices are made here, as long as the kernels read"
)]

use super::super::packed::bytes_of;
use super::super::pool::Pool;
use super::float16::{self, Binary16, Brain16, Format};
use super::input::{Input, Order};
use super::layout::{self, Layout, Plain, Raised, Super, SuperRaised, unpack_row};
use super::quants::{GROUPS, Lanes, Quants, pairs, quads};
use super::simd::{self, V, store, zero};
use super::{column, float, rows, simd::plain, tile};
use crate::backend::encoding::{
    Block, Encoding, IQ2_S, IQ4_NL, IQ4_XS, Q1_0, Q2_0, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K,
    Q8_0, TQ1_0,
};
use half::{bf16, f16};

/// xorshift32.
struct Random(u32);
impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
    /// From −1 to 1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 31) as f32 - 1.0
    }
}

/// A row of random blocks, as a file has it, and what they mean. `scales`: where a block has f16 numbers.
fn row<L: Layout, E: Encoding>(columns: usize, scales: &[usize], random: &mut Random) -> (Vec<u8>, Vec<f32>) {
    let mut bytes: Vec<u8> = (0..columns / E::COLUMNS * E::BYTES).map(|_| random.next() as u8).collect();
    let mut values = Vec::new();
    for block in bytes.chunks_exact_mut(E::BYTES) {
        for &at in scales {
            // f16 numbers around 0.01.
            block[at + 1] = 0x20 | (random.next() & 1) as u8;
        }
        let mut decoded = Block::new();
        E::decode(block, &mut decoded);
        let number = |bits: u16| f16::from_bits(bits).to_f32();
        for (column, &value) in decoded.values[..E::COLUMNS].iter().enumerate() {
            let integer = match (E::TABLE, L::Quants::BITS) {
                ([0, 0, ..], 8) => value as i8 as i32,
                ([0, 0, ..], _) => value as i32,
                (table, _) => i32::from(table[usize::from(value)]),
            };
            let integer = integer - L::OFFSET;
            let sub_block = column / L::SUB_BLOCK;
            values.push(match (L::BLOCK, L::MINIMA) {
                (32, false) => number(decoded.scale) * integer as f32,
                (32, true) => number(decoded.scale) * integer as f32 + number(decoded.minimum),
                (_, minima) => {
                    let scaled = number(decoded.scale) * decoded.scales[sub_block] as f32 * integer as f32;
                    match minima {
                        true => scaled - number(decoded.minimum) * decoded.minima[sub_block] as f32,
                        false => scaled * E::FACTOR,
                    }
                }
            });
        }
    }
    (bytes, values)
}

fn lanes(words: V) -> [f32; 4] {
    float::lanes(words)
}

/// The products of a few matrices, as bits.
fn kernels_agree<L: Layout, E: Encoding>(scales: &[usize]) -> Vec<u32> {
    let mut results = Vec::new();
    let mut random = Random(0x5eed);
    for blocks in [1, 2, 3, 9] {
        let columns = blocks * E::COLUMNS;
        let bytes = L::strip_bytes(columns / 32);
        let [mut integers, mut block_scales] = bytes.map(|bytes| vec![0u128; bytes / 16]);
        let mut weights = Vec::new();
        for index in 0..layout::ROWS {
            let (file, values) = row::<L, E>(columns, scales, &mut random);
            L::pack::<E>(&file, index, bytes_of(&mut integers), bytes_of(&mut block_scales));
            let mut unpacked = vec![0.0; columns];
            let strip = L::strip(&integers, &block_scales, &E::TABLE, 0, columns / 32);
            unsafe { unpack_row::<L>(strip, index, &mut unpacked) };
            for (a, b) in unpacked.iter().zip(&values) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-2), "row {index} unpacks to {a}, not {b}");
            }
            weights.push(values);
        }
        let strip = L::strip(&integers, &block_scales, &E::TABLE, 0, columns / 32);

        let rows = 11;
        let input: Vec<f32> = (0..rows * columns).map(|_| random.float()).collect();
        // What the kernels see of it: 8 bits a number, a scale for each block.
        let rounded: Vec<f64> = input
            .chunks(L::BLOCK)
            .flat_map(|block| {
                let scale = block.iter().fold(0f32, |a, b| a.max(b.abs())) / 127.0;
                block.iter().map(move |&x| (x * (1.0 / scale)).round_ties_even() as f64 * scale as f64)
            })
            .collect();
        let check = |row: usize, index: usize, result: f32, kernel: &str| {
            let products =
                || weights[index].iter().zip(&rounded[row * columns..]).map(|(w, x)| *w as f64 * x);
            let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let difference = (result as f64 - expected).abs();
            assert!(
                difference <= 1e-5 * size,
                "{kernel}, {columns} columns, row {index}: {result}, not {expected}"
            );
        };

        let (mut order, pool) = (Input::default(), Pool::default());
        let mut by_column = Vec::new();
        for row in 0..rows {
            order.fill(&pool, &Order::one::<L>(), columns, &input[row * columns..][..columns]).unwrap();
            let first = by_column.len();
            by_column.extend(unsafe { column::multiply::<L>(strip, &order) }.map(lanes));
            for (index, result) in by_column[first..].as_flattened().iter().enumerate() {
                check(row, index, *result, "one column");
            }
        }
        order.fill(&pool, &Order::several::<L>(), columns, &input).unwrap();
        let mut totals = [[[zero(); GROUPS]; rows::ROWS]; 3];
        match L::Quants::LANES {
            Lanes::Pairs | Lanes::BytePairs => unsafe { tile::multiply::<L>(strip, &order, &mut totals) },
            _ => unsafe { rows::multiply::<L>(strip, &order, &mut totals) },
        }
        let together: Vec<_> = totals.as_flattened()[..rows].iter().map(|totals| totals.map(lanes)).collect();
        assert_eq!(together.as_flattened(), by_column, "{columns} columns together and one by one");
        results.extend(by_column.as_flattened().iter().map(|result| result.to_bits()));
    }
    results
}

macro_rules! layouts {
    ($($test:ident $encoding:ident $layout:ident<$bits:ident $(, $number:literal)*> $scales:expr;)*) => {
        $(
            #[test]
            fn $test() {
                let pairs = kernels_agree::<$layout<pairs::$bits $(, $number)*>, $encoding>(&$scales);
                let quads = kernels_agree::<$layout<quads::$bits $(, $number)*>, $encoding>(&$scales);
                assert!(pairs == quads, "quads give something else than pairs");
            }
        )*
    };
}
layouts! {
    q1_0 Q1_0 Plain<Bits1, 1> [0];
    q2_0 Q2_0 Plain<Bits2, 1> [0];
    tq1_0 TQ1_0 Plain<Bits2, 1> [52];
    q4_0 Q4_0 Plain<Bits4, 8> [0];
    q4_1 Q4_1 Raised<Bits4> [0, 2];
    q5_0 Q5_0 Plain<Bits5, 16> [0];
    q5_1 Q5_1 Raised<Bits5> [0, 2];
    q8_0 Q8_0 Plain<Bits8, 0> [0];
    q2_k Q2K SuperRaised<Bits2, 16> [80, 82];
    q3_k Q3K Super<Bits3, 4, 16> [108];
    q4_k Q4K SuperRaised<Bits4, 32> [0, 2];
    q5_k Q5K SuperRaised<Bits5, 32> [0, 2];
    q6_k Q6K Super<Bits6, 32, 16> [208];
    iq4_nl IQ4_NL Plain<Places, 0> [0];
    iq4_xs IQ4_XS Super<Places, 0, 32> [0];
    iq2_s IQ2_S Super<Places, 0, 16> [0];
    // As where bytes cannot be looked up.
    iq4_nl_as_numbers IQ4_NL Plain<Bits8, 0> [0];
    iq4_xs_as_numbers IQ4_XS Super<Bits8, 0, 32> [0];
    iq2_s_as_numbers IQ2_S Super<Bits8, 0, 16> [0];
}

/// Words of two bytes times what makes up for the lower one: the largest that there are.
#[test]
fn the_largest_bytes_are_multiplied_exactly() {
    type Signed = Plain<pairs::Bits8, 0>;
    for signs in 0..16u32 {
        let sign = |index: usize, of: u32| if signs >> of & 1 == index as u32 % 2 { 1.0 } else { -1.0 };
        let input: [f32; 32] = std::array::from_fn(|index| 127.0 * sign(index / 8, 0) * sign(index, 1));
        let weights: [i8; 32] =
            std::array::from_fn(|index| (128.0 * sign(index / 8, 2) * sign(index, 3)) as i8);
        let mut file = f16::from_f32(1.0).to_le_bytes().to_vec();
        file.extend(weights.map(|weight| weight as u8));
        let mut integers = vec![0u128; Signed::strip_bytes(1)[0] / 16];
        (0..layout::ROWS).for_each(|row| Signed::pack::<Q8_0>(&file, row, bytes_of(&mut integers), &mut []));
        let mut rounded = Input::default();
        rounded.fill(&Pool::default(), &Order::one::<Signed>(), 32, &input).unwrap();
        let products =
            unsafe { column::multiply::<Signed>(Signed::strip(&integers, &[], &[0; 16], 0, 1), &rounded) };
        let exact: f32 = input.iter().zip(weights).map(|(x, weight)| x * f32::from(weight)).sum();
        assert_eq!(products.map(lanes), [[exact; 4]; GROUPS], "signs {signs:04b}");
    }
}

/// Every product and sum that the input's rounding allows must fit what the instruction keeps it in.
#[test]
fn input_that_is_no_number_stays_within_seven_bits() {
    let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e-45, 1e-45, f32::MAX, f32::MIN, -1e-40];
    let (mut rounded, pool) = (Input::default(), Pool::default());
    for kept in 1..=numbers.len() {
        let input: Vec<f32> = (0..64).map(|index| numbers[index % kept]).collect();
        // Nor does any overflow panic.
        for order in [Order::one::<Plain<pairs::Bits4, 8>>(), Order::one::<Plain<pairs::Bits8, 0>>()] {
            rounded.fill(&pool, &order, 64, &input).unwrap();
            rounded.fill(&pool, &order, 64, &[numbers[kept - 1]; 64]).unwrap();
        }
        let order = Order::one::<Plain<quads::Bits8, 0>>();
        rounded.forget();
        rounded.fill(&pool, &order, 64, &input).unwrap();
        for block in rounded.lanes.as_chunks::<16>().0 {
            let (magnitudes, signs) = block.split_at(8);
            assert!(magnitudes.iter().all(|four| four & 0x8080_8080 == 0), "magnitudes {magnitudes:x?}");
            let mut signs = signs.iter().flat_map(|four| four.to_le_bytes());
            assert!(signs.all(|sign| [0, 0xff].contains(&sign)), "signs {block:x?}");
        }
    }
}

fn halves_agree<F: Format>(to_bits: impl Fn(f32) -> u16, to_f32: impl Fn(u16) -> f32) {
    const WORDS: usize = 7;
    let mut random = Random(3);
    // For each group, word, row and column.
    let bits: [[[[u16; 2]; 4]; WORDS]; 4] = std::array::from_fn(|_| {
        std::array::from_fn(|_| std::array::from_fn(|_| [0, 1].map(|_| to_bits(random.float()))))
    });
    let input: [[f32; 2 * WORDS]; 4] = std::array::from_fn(|_| std::array::from_fn(|_| random.float()));
    let groups = bits.each_ref().map(|group| group.as_ptr().cast::<u8>());
    let rows = input.each_ref().map(|row| row.as_ptr());
    let check = |row: usize, group: usize, result: V| {
        for (lane, result) in lanes(result).into_iter().enumerate() {
            let columns = bits[group].iter().flat_map(|word| word[lane]);
            let expected: f64 = columns.zip(input[row]).map(|(w, x)| to_f32(w) as f64 * x as f64).sum();
            assert!(
                (result as f64 - expected).abs() < 1e-5,
                "row {row}, group {group}: {result}, not {expected}"
            );
        }
    };
    let one = unsafe { float16::multiply::<F, 1, 4>(groups, WORDS, [rows[2]]) };
    (0..4).for_each(|group| check(2, group, one[0][group]));
    let four = unsafe { float16::multiply::<F, 4, 2>([groups[1], groups[3]], WORDS, rows) };
    for (row, products) in four.into_iter().enumerate() {
        (0..2).for_each(|group| check(row, 2 * group + 1, products[group]));
    }
}

#[test]
fn f16_matrices() {
    halves_agree::<Binary16>(|x| f16::from_f32(x).to_bits(), |bits| f16::from_bits(bits).to_f32());
}

#[test]
fn bf16_matrices() {
    halves_agree::<Brain16>(|x| bf16::from_f32(x).to_bits(), |bits| bf16::from_bits(bits).to_f32());
}

#[test]
fn simd_agrees_with_its_plain_twin() {
    fn vector(lanes: [i32; 4]) -> V {
        unsafe { simd::load(lanes.as_ptr().cast()) }
    }
    fn array(words: V) -> [i32; 4] {
        let mut lanes = [0; 4];
        unsafe { store(lanes.as_mut_ptr().cast(), words) };
        lanes
    }
    macro_rules! same {
        ($a:expr, $b:expr; $($two:ident)*; $($shift:ident)*) => {
            $(assert_eq!(array(simd::$two(vector($a), vector($b))), plain::$two($a, $b), stringify!($two));)*
            $(assert_eq!(array(simd::$shift::<3>(vector($a))), plain::$shift::<3>($a), stringify!($shift));)*
        };
    }
    let mut random = Random(7);
    for _ in 0..1000 {
        let [a, b] = [0, 1].map(|_| std::array::from_fn(|_| random.next() as i32));
        same!(a, b; and or xor dot_i16 mul_i16 add_i16 sub_i16 less_i16 add_i32 sub_i32 mul_i32 pack_i32 pack_i16; shl_i16 shr_i16 shr_u16 shl_i32 shr_i32);
        assert_eq!(array(simd::to_f32(vector(a))), plain::to_f32(a));
        assert_eq!(array(simd::lane::<2>(vector(a))), plain::lane::<2>(a));
        let small = b.map(|lane| lane & 0x7f7f_7f7f);
        let places = b.map(|lane| lane & 0x0f0f_0f0f);
        assert_eq!(array(simd::swizzle(vector(a), vector(places))), plain::swizzle(a, places));
        let sum = simd::dot_i8(vector(a), vector(small), vector(b));
        assert_eq!(array(sum), plain::dot_i8(a, small, b));
        let [x, y] = [0, 1].map(|_| std::array::from_fn(|_| (100.0 * random.float()).to_bits() as i32));
        same!(x, y; add_f32 sub_f32 mul_f32 div_f32 max_f32 less_f32;);
        unsafe {
            let bytes = a.as_ptr().cast::<u8>();
            assert_eq!(array(simd::load_i16(bytes.cast())), plain::load_i16(bytes.cast()));
            assert_eq!(array(simd::splat(bytes)), plain::splat(bytes));
        }
    }
}

#[test]
fn functions_of_floats() {
    let close = |ours: f32, exact: f64, what: &str, x: f32| {
        let difference = (ours as f64 - exact).abs();
        assert!(difference <= 3e-7 * exact.abs().max(1e-37), "{what} of {x}: {ours}, not {exact}");
    };
    for step in -8600..8800 {
        let x = step as f32 / 100.0;
        close(lanes(float::exp(simd::all_f32(x)))[0], (x as f64).exp(), "exp", x);
        if x > -80.0 {
            close(lanes(float::sigmoid(simd::all_f32(x)))[0], 1.0 / (1.0 + (-x as f64).exp()), "sigmoid", x);
        }
    }
    assert_eq!(lanes(float::exp(simd::all_f32(f32::NEG_INFINITY)))[0], 0.0);
    assert_eq!(lanes(float::sigmoid(simd::all_f32(f32::INFINITY)))[0], 1.0);
}
