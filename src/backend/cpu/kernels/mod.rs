//! Products of quantized matrices.
#![allow(unreachable_pub, reason = "the benchmark of the kernels has these files as its own")]

pub mod column;
pub mod float;
pub mod float16;
pub mod input;
pub mod layout;
pub mod quants;
pub mod rows;
pub mod simd;
pub mod tile;

/// Writes the body once for each number, which is a constant in it.
macro_rules! unroll {
    ($name:ident in [$($number:literal)*] $body:block) => {
        $({
            const $name: usize = $number;
            $body
        })*
    };
}
pub(crate) use unroll;

#[cfg(test)]
mod tests;
