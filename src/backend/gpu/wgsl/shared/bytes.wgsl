// The four bytes of a word as numbers.
fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word));
}

fn signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// Quants j·4 … j·4+3 of 32 four-bit ones: word j holds j's in the low halves of its bytes and
// (j+4)'s in the high halves, as ggml's blocks do.
fn nibbles(word: u32, j: u32) -> u32 {
    return (word >> (4u * (j >> 2u))) & 0x0f0f0f0fu;
}
