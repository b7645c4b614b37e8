//! 128 bits of numbers, and the few things the kernels do with them: as WebAssembly's SIMD, as SSE2, and as plain
//! Rust for other processors.
//!
//! Functions are named for their lanes: `i16` for 8 of 16 bits, `i32` and `f32` for 4 of 32.
//!
//! # Safety
//! Those that take a pointer read or write 16 bytes there, `load_i16` 8, `splat` 4, at any alignment.

#[cfg(not(any(target_arch = "wasm32", target_arch = "x86_64")))]
pub use plain::*;
#[cfg(target_arch = "x86_64")]
pub use sse2::*;
#[cfg(target_arch = "wasm32")]
pub use wasm::*;

/// One vector in every 32-bit lane, which the compiler does not know to be constant: V8 builds constants anew at
/// each use, inside loops too.
#[inline(always)]
pub fn opaque(bits: u32) -> V {
    let bits = std::hint::black_box(bits);
    // SAFETY: the pointer is to four bytes.
    unsafe { splat(std::ptr::from_ref(&bits).cast()) }
}

/// Lane `index` of those at `at`, in each lane. `index` should be a constant.
///
/// A lane of a vector, and not a load of one number: V8 does not add constants to the addresses of such loads.
///
/// # Safety
/// `at` has so many lanes, in whole vectors.
#[inline(always)]
pub unsafe fn lane_at(at: *const u8, index: usize) -> V {
    // SAFETY: the caller's.
    let four = unsafe { load(at.add(16 * (index / 4))) };
    match index % 4 {
        0 => lane::<0>(four),
        1 => lane::<1>(four),
        2 => lane::<2>(four),
        _ => lane::<3>(four),
    }
}

#[cfg(target_arch = "wasm32")]
#[cfg_attr(target_feature = "relaxed-simd", allow(dead_code, reason = "relaxed products take its place"))]
mod wasm {
    use std::arch::wasm32::*;

    pub type V = v128;

    macro_rules! forward {
        ($($name:ident = $instruction:ident($($argument:ident),*);)*) => {
            $(
                #[inline(always)]
                pub fn $name($($argument: V),*) -> V {
                    $instruction($($argument),*)
                }
            )*
        };
    }
    forward! {
        and = v128_and(a, b);
        or = v128_or(a, b);
        xor = v128_xor(a, b);
        dot_i16 = i32x4_dot_i16x8(a, b);
        mul_i16 = i16x8_mul(a, b);
        add_i16 = i16x8_add(a, b);
        add_i32 = i32x4_add(a, b);
        sub_i32 = i32x4_sub(a, b);
        mul_i32 = i32x4_mul(a, b);
        pack_i32 = i16x8_narrow_i32x4(a, b);
        pack_i16 = i8x16_narrow_i16x8(a, b);
        sub_i16 = i16x8_sub(a, b);
        less_i16 = i16x8_lt(a, b);
        to_f32 = f32x4_convert_i32x4(a);
        add_f32 = f32x4_add(a, b);
        sub_f32 = f32x4_sub(a, b);
        mul_f32 = f32x4_mul(a, b);
        div_f32 = f32x4_div(a, b);
        max_f32 = f32x4_pmax(a, b);
        less_f32 = f32x4_lt(a, b);
    }
    macro_rules! shift {
        ($($name:ident = $instruction:ident;)*) => {
            $(
                #[inline(always)]
                pub fn $name<const BITS: u32>(a: V) -> V {
                    $instruction(a, BITS)
                }
            )*
        };
    }
    shift! {
        shl_i16 = i16x8_shl;
        shr_i16 = i16x8_shr;
        shr_u16 = u16x8_shr;
        shl_i32 = i32x4_shl;
        shr_i32 = i32x4_shr;
    }

    /// `a · b + c`; with relaxed SIMD it may be rounded once.
    #[inline(always)]
    pub fn mul_add_f32(a: V, b: V, c: V) -> V {
        #[cfg(target_feature = "relaxed-simd")]
        return f32x4_relaxed_madd(a, b, c);
        #[cfg(not(target_feature = "relaxed-simd"))]
        f32x4_add(f32x4_mul(a, b), c)
    }
    /// `sum` and, in each lane, four products of signed numbers with numbers of 7 bits, which are not negative.
    #[cfg(target_feature = "relaxed-simd")]
    #[inline(always)]
    pub fn dot_i8(signed: V, small: V, sum: V) -> V {
        i32x4_relaxed_dot_i8x16_i7x16_add(signed, small, sum)
    }
    /// For each byte of `places`, which is below 16, that byte of `table`.
    #[inline(always)]
    pub fn swizzle(table: V, places: V) -> V {
        #[cfg(target_feature = "relaxed-simd")]
        return i8x16_relaxed_swizzle(table, places);
        #[cfg(not(target_feature = "relaxed-simd"))]
        i8x16_swizzle(table, places)
    }
    /// Lane `LANE` in each.
    #[inline(always)]
    pub fn lane<const LANE: usize>(a: V) -> V {
        i32x4_shuffle::<LANE, LANE, LANE, LANE>(a, a)
    }
    #[inline(always)]
    pub fn zero() -> V {
        i32x4_splat(0)
    }
    #[inline(always)]
    pub fn all_f32(value: f32) -> V {
        f32x4_splat(value)
    }
    #[inline(always)]
    pub unsafe fn load(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { v128_load(at.cast()) }
    }
    #[inline(always)]
    pub unsafe fn store(at: *mut u8, a: V) {
        // SAFETY: the caller's.
        unsafe { v128_store(at.cast(), a) }
    }
    #[inline(always)]
    pub unsafe fn load_i16(at: *const i16) -> V {
        // SAFETY: the caller's.
        unsafe { i32x4_load_extend_i16x4(at) }
    }
    #[inline(always)]
    pub unsafe fn splat(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { v128_load32_splat(at.cast()) }
    }
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::*;

    pub type V = __m128i;

    macro_rules! forward {
        ($($name:ident($($argument:ident),*) = $value:expr;)*) => {
            $(
                #[inline(always)]
                pub fn $name($($argument: V),*) -> V {
                    // SAFETY: every x86-64 processor has SSE2.
                    #[allow(unused_unsafe, reason = "some intrinsics are safe")]
                    unsafe { $value }
                }
            )*
        };
    }
    forward! {
        zero() = _mm_setzero_si128();
        and(a, b) = _mm_and_si128(a, b);
        or(a, b) = _mm_or_si128(a, b);
        xor(a, b) = _mm_xor_si128(a, b);
        dot_i16(a, b) = _mm_madd_epi16(a, b);
        mul_i16(a, b) = _mm_mullo_epi16(a, b);
        add_i16(a, b) = _mm_add_epi16(a, b);
        add_i32(a, b) = _mm_add_epi32(a, b);
        sub_i32(a, b) = _mm_sub_epi32(a, b);
        pack_i32(a, b) = _mm_packs_epi32(a, b);
        pack_i16(a, b) = _mm_packs_epi16(a, b);
        sub_i16(a, b) = _mm_sub_epi16(a, b);
        less_i16(a, b) = _mm_cmplt_epi16(a, b);
        to_f32(a) = _mm_castps_si128(_mm_cvtepi32_ps(a));
        add_f32(a, b) = _mm_castps_si128(_mm_add_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b)));
        sub_f32(a, b) = _mm_castps_si128(_mm_sub_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b)));
        mul_f32(a, b) = _mm_castps_si128(_mm_mul_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b)));
        div_f32(a, b) = _mm_castps_si128(_mm_div_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b)));
        max_f32(a, b) = _mm_castps_si128(_mm_max_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b)));
        less_f32(a, b) = _mm_castps_si128(_mm_cmplt_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b)));
    }
    macro_rules! shift {
        ($($name:ident = $instruction:ident;)*) => {
            $(
                #[inline(always)]
                pub fn $name<const BITS: u32>(a: V) -> V {
                    // SAFETY: every x86-64 processor has SSE2.
                    unsafe { $instruction(a, _mm_cvtsi32_si128(BITS as i32)) }
                }
            )*
        };
    }
    shift! {
        shl_i16 = _mm_sll_epi16;
        shr_i16 = _mm_sra_epi16;
        shr_u16 = _mm_srl_epi16;
        shl_i32 = _mm_sll_epi32;
        shr_i32 = _mm_sra_epi32;
    }

    /// `a · b + c`.
    #[inline(always)]
    pub fn mul_add_f32(a: V, b: V, c: V) -> V {
        add_f32(mul_f32(a, b), c)
    }
    /// `sum` and, in each lane, four products of signed numbers with numbers of 7 bits, which are not negative. Only
    /// tests need it: without an instruction for it, pairs of 16 bits are faster.
    #[cfg(test)]
    #[inline(always)]
    pub fn dot_i8(signed: V, small: V, sum: V) -> V {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let even = |a| _mm_srai_epi16::<8>(_mm_slli_epi16::<8>(a));
            let odd = |a| _mm_srai_epi16::<8>(a);
            let products = add_i32(dot_i16(even(signed), even(small)), dot_i16(odd(signed), odd(small)));
            add_i32(sum, products)
        }
    }
    /// For each byte of `places`, which is below 16, that byte of `table`. SSE2 has no instruction for it.
    #[cfg(test)]
    pub fn swizzle(table: V, places: V) -> V {
        let bytes = |a: V| {
            let mut bytes = [0; 16];
            // SAFETY: the array has 16 bytes.
            unsafe { store(bytes.as_mut_ptr(), a) };
            bytes
        };
        let table = bytes(table);
        let looked_up = bytes(places).map(|place| table[usize::from(place)]);
        // SAFETY: the array has 16 bytes.
        unsafe { load(looked_up.as_ptr()) }
    }
    /// Lane `LANE` in each.
    #[inline(always)]
    pub fn lane<const LANE: usize>(a: V) -> V {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            match LANE {
                0 => _mm_shuffle_epi32::<0x00>(a),
                1 => _mm_shuffle_epi32::<0x55>(a),
                2 => _mm_shuffle_epi32::<0xaa>(a),
                _ => _mm_shuffle_epi32::<0xff>(a),
            }
        }
    }
    /// SSE2 multiplies only every other lane.
    #[inline(always)]
    pub fn mul_i32(a: V, b: V) -> V {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe {
            let even = _mm_mul_epu32(a, b);
            let odd = _mm_mul_epu32(_mm_srli_epi64::<32>(a), _mm_srli_epi64::<32>(b));
            let (even, odd) = (_mm_shuffle_epi32::<0b1000>(even), _mm_shuffle_epi32::<0b1000>(odd));
            _mm_unpacklo_epi32(even, odd)
        }
    }
    #[inline(always)]
    pub fn all_f32(value: f32) -> V {
        // SAFETY: every x86-64 processor has SSE2.
        unsafe { _mm_castps_si128(_mm_set1_ps(value)) }
    }
    #[inline(always)]
    pub unsafe fn load(at: *const u8) -> V {
        // SAFETY: the caller\'s; every x86-64 processor has SSE2.
        unsafe { _mm_loadu_si128(at.cast()) }
    }
    #[inline(always)]
    pub unsafe fn store(at: *mut u8, a: V) {
        // SAFETY: the caller\'s; every x86-64 processor has SSE2.
        unsafe { _mm_storeu_si128(at.cast(), a) }
    }
    #[inline(always)]
    pub unsafe fn load_i16(at: *const i16) -> V {
        // SAFETY: the caller\'s; every x86-64 processor has SSE2.
        unsafe {
            let words = _mm_loadl_epi64(at.cast());
            _mm_srai_epi32::<16>(_mm_unpacklo_epi16(words, words))
        }
    }
    #[inline(always)]
    pub unsafe fn splat(at: *const u8) -> V {
        // SAFETY: the caller\'s; every x86-64 processor has SSE2.
        unsafe { _mm_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }
}

#[cfg(any(test, not(any(target_arch = "wasm32", target_arch = "x86_64"))))]
#[allow(dead_code, reason = "each target uses a part of it")]
pub mod plain {
    pub type V = [i32; 4];

    fn i16s(a: V) -> [i16; 8] {
        std::array::from_fn(|lane| (a[lane / 2] >> (16 * (lane % 2))) as i16)
    }
    fn from_i16s(a: [i16; 8]) -> V {
        std::array::from_fn(|lane| a[2 * lane] as u16 as i32 | (a[2 * lane + 1] as i32) << 16)
    }
    fn i16_lanes(a: V, b: V, f: impl Fn(i16, i16) -> i16) -> V {
        let (a, b) = (i16s(a), i16s(b));
        from_i16s(std::array::from_fn(|lane| f(a[lane], b[lane])))
    }
    fn i32_lanes(a: V, b: V, f: impl Fn(i32, i32) -> i32) -> V {
        std::array::from_fn(|lane| f(a[lane], b[lane]))
    }
    fn f32_lanes(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
        i32_lanes(a, b, |a, b| f(f32::from_bits(a as u32), f32::from_bits(b as u32)).to_bits() as i32)
    }

    pub fn zero() -> V {
        [0; 4]
    }
    pub fn lane<const LANE: usize>(a: V) -> V {
        [a[LANE]; 4]
    }
    pub fn all_f32(value: f32) -> V {
        [value.to_bits() as i32; 4]
    }
    pub unsafe fn load(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { at.cast::<V>().read_unaligned() }
    }
    pub unsafe fn store(at: *mut u8, a: V) {
        // SAFETY: the caller's.
        unsafe { at.cast::<V>().write_unaligned(a) }
    }
    pub unsafe fn load_i16(at: *const i16) -> V {
        // SAFETY: the caller's.
        std::array::from_fn(|lane| unsafe { at.add(lane).read_unaligned() }.into())
    }
    pub unsafe fn splat(at: *const u8) -> V {
        // SAFETY: the caller's.
        [unsafe { at.cast::<i32>().read_unaligned() }; 4]
    }
    pub fn and(a: V, b: V) -> V {
        i32_lanes(a, b, |a, b| a & b)
    }
    pub fn or(a: V, b: V) -> V {
        i32_lanes(a, b, |a, b| a | b)
    }
    pub fn xor(a: V, b: V) -> V {
        i32_lanes(a, b, |a, b| a ^ b)
    }
    pub fn sub_i16(a: V, b: V) -> V {
        i16_lanes(a, b, i16::wrapping_sub)
    }
    /// All ones where it is so.
    pub fn less_i16(a: V, b: V) -> V {
        i16_lanes(a, b, |a, b| -i16::from(a < b))
    }
    pub fn pack_i16(a: V, b: V) -> V {
        let bytes = [i16s(a), i16s(b)].map(|a| a.map(|a| a.clamp(i8::MIN as i16, i8::MAX as i16) as u8));
        std::array::from_fn(|lane| i32::from_le_bytes(bytes.as_flattened().as_chunks().0[lane]))
    }
    /// `sum` and, in each lane, four products of signed numbers with numbers of 7 bits, which are not negative.
    pub fn dot_i8(signed: V, small: V, sum: V) -> V {
        let products = |lane: usize| -> i32 {
            let (signed, small) = (signed[lane].to_le_bytes(), small[lane].to_le_bytes());
            signed.iter().zip(small).map(|(a, b)| *a as i8 as i32 * b as i8 as i32).sum()
        };
        std::array::from_fn(|lane| sum[lane].wrapping_add(products(lane)))
    }
    /// For each byte of `places`, which is below 16, that byte of `table`.
    pub fn swizzle(table: V, places: V) -> V {
        let byte = |place: u8| (table[usize::from(place / 4)] >> (place % 4 * 8)) as u8;
        places.map(|lane| i32::from_le_bytes(lane.to_le_bytes().map(byte)))
    }
    pub fn dot_i16(a: V, b: V) -> V {
        let (a, b) = (i16s(a), i16s(b));
        let product = |lane: usize| a[lane] as i32 * b[lane] as i32;
        std::array::from_fn(|lane| product(2 * lane).wrapping_add(product(2 * lane + 1)))
    }
    pub fn mul_i16(a: V, b: V) -> V {
        i16_lanes(a, b, i16::wrapping_mul)
    }
    pub fn add_i16(a: V, b: V) -> V {
        i16_lanes(a, b, i16::wrapping_add)
    }
    pub fn add_i32(a: V, b: V) -> V {
        i32_lanes(a, b, i32::wrapping_add)
    }
    pub fn sub_i32(a: V, b: V) -> V {
        i32_lanes(a, b, i32::wrapping_sub)
    }
    pub fn mul_i32(a: V, b: V) -> V {
        i32_lanes(a, b, i32::wrapping_mul)
    }
    pub fn pack_i32(a: V, b: V) -> V {
        let saturate = |value: i32| value.clamp(i16::MIN as i32, i16::MAX as i32) as i16;
        from_i16s(std::array::from_fn(|lane| saturate(if lane < 4 { a[lane] } else { b[lane - 4] })))
    }
    pub fn to_f32(a: V) -> V {
        a.map(|a| (a as f32).to_bits() as i32)
    }
    pub fn add_f32(a: V, b: V) -> V {
        f32_lanes(a, b, |a, b| a + b)
    }
    pub fn sub_f32(a: V, b: V) -> V {
        f32_lanes(a, b, |a, b| a - b)
    }
    pub fn mul_f32(a: V, b: V) -> V {
        f32_lanes(a, b, |a, b| a * b)
    }
    /// `a · b + c`.
    pub fn mul_add_f32(a: V, b: V, c: V) -> V {
        add_f32(mul_f32(a, b), c)
    }
    pub fn div_f32(a: V, b: V) -> V {
        f32_lanes(a, b, |a, b| a / b)
    }
    pub fn max_f32(a: V, b: V) -> V {
        f32_lanes(a, b, f32::max)
    }
    /// All ones where it is so.
    pub fn less_f32(a: V, b: V) -> V {
        i32_lanes(a, b, |a, b| -i32::from(f32::from_bits(a as u32) < f32::from_bits(b as u32)))
    }
    pub fn shl_i16<const BITS: u32>(a: V) -> V {
        i16_lanes(a, a, |a, _| a << BITS)
    }
    pub fn shr_i16<const BITS: u32>(a: V) -> V {
        i16_lanes(a, a, |a, _| a >> BITS)
    }
    pub fn shr_u16<const BITS: u32>(a: V) -> V {
        i16_lanes(a, a, |a, _| (a as u16 >> BITS) as i16)
    }
    pub fn shl_i32<const BITS: u32>(a: V) -> V {
        a.map(|a| a << BITS)
    }
    pub fn shr_i32<const BITS: u32>(a: V) -> V {
        a.map(|a| a >> BITS)
    }
}
