//! Functions of four floats.

use super::simd::{
    V, add_f32, add_i32, all_f32, and, div_f32, less_f32, load, max_f32, mul_f32, shl_i32, store, sub_f32,
};

/// `eˣ`, off by two units in the last place at most, for x up to 88; 0 below −87.
/// Range reduction and polynomial: `expf` of the Cephes library.
#[inline(always)]
pub fn exp(x: V) -> V {
    let lowest = all_f32(-87.0);
    let kept = max_f32(x, lowest);
    // Adding 1.5·2²³ leaves the nearest integer in the low bits; the shift makes it an exponent.
    let magic = all_f32(12_582_912.0);
    let shifted = add_f32(mul_f32(kept, all_f32(std::f32::consts::LOG2_E)), magic);
    let power = sub_f32(shifted, magic);
    let rest = sub_f32(kept, mul_f32(power, all_f32(0.693_359_4)));
    let rest = sub_f32(rest, mul_f32(power, all_f32(-2.121_944_4e-4)));
    let mut sum = all_f32(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = add_f32(mul_f32(sum, rest), all_f32(coefficient));
    }
    let result = add_f32(add_f32(mul_f32(mul_f32(sum, rest), rest), rest), all_f32(1.0));
    and(add_i32(result, shl_i32::<23>(shifted)), less_f32(lowest, x))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: V) -> V {
    let one = all_f32(1.0);
    // Beyond 80 it is 0 or 1 to every digit.
    let negated = sub_f32(all_f32(0.0), max_f32(x, all_f32(-80.0)));
    div_f32(one, add_f32(one, exp(negated)))
}

/// The lanes.
#[inline(always)]
pub fn lanes(x: V) -> [f32; 4] {
    let mut lanes = [0.0; 4];
    // SAFETY: the pointer is to 16 bytes.
    unsafe { store(lanes.as_mut_ptr().cast(), x) };
    lanes
}

/// A vector of `lanes`.
#[inline(always)]
pub fn from_lanes(lanes: &[f32; 4]) -> V {
    // SAFETY: the pointer is to 16 bytes.
    unsafe { load(lanes.as_ptr().cast()) }
}
