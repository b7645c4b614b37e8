// f16 kept in u32. Hardware may read subnormal halves as 0, and the scales of small weights are
// often subnormal; where the self-test sees that, EXACT_HALF decodes them with integers.
fn halves(word: u32) -> vec2<f32> {
#ifdef EXACT_HALF
    let bits = vec2<u32>(word, word >> 16u);
    let exponent = (bits >> vec2<u32>(10u)) & vec2<u32>(31u);
    let normal = min(exponent, vec2<u32>(1u));
    let mantissa = (bits & vec2<u32>(0x3ffu)) | (normal << vec2<u32>(10u));
    let power = (max(exponent, vec2<u32>(1u)) + vec2<u32>(102u)) << vec2<u32>(23u);
    let sign = (bits & vec2<u32>(0x8000u)) << vec2<u32>(16u);
    return vec2<f32>(mantissa) * bitcast<vec2<f32>>(power | sign);
#else
    return unpack2x16float(word);
#endif
}

// One half of a word.
fn half_of(word: u32, upper: bool) -> f32 {
    let pair = halves(word);
    return select(pair.x, pair.y, upper);
}
