// Blocks of 256 places: weight = d·s · TABLE[q]. `scales`: d as f32, a word for 8 blocks of 32; `extra`: two signed
// bytes s a block of 32, one for each 16 columns.
#import shared/places
struct Packed { q: vec4<u32>, d: vec2<f32> }

fn block_scales(m: Matrix, i: u32) -> vec2<f32> {
    let d = bitcast<f32>(words[m.scales + (i >> 3u)]);
    let s = signed_bytes(words[m.extra + (i >> 1u)]);
    return d * select(s.xy, s.zw, (i & 1u) == 1u);
}

fn load(m: Matrix, i: u32) -> Packed {
    return Packed(quants[m.quants + i], block_scales(m, i));
}

fn packed(p: Packed, j: u32) -> u32 {
    return numbers_at(nibbles(p.q[j & 3u], j));
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return signed_bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(p.d, 0.0, 0.0);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let d = block_scales(m, i)[j >> 2u];
    return d * signed_bytes(numbers_at(nibbles(words[4u * (m.quants + i) + (j & 3u)], j)));
}
