// Q4_0: weight = d · (q − 8), 32 four-bit quants and an f16 scale a block.
#import shared/half
#import shared/bytes
struct Packed { q: vec4<u32>, d: f32 }

fn load(m: Matrix, i: u32) -> Packed {
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return Packed(quants[m.quants + i], d);
}

fn packed(p: Packed, j: u32) -> u32 {
    return nibbles(p.q[j & 3u], j);
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(p.d, p.d, -8.0 * p.d, -8.0 * p.d);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return d * (bytes(nibbles(words[4u * (m.quants + i) + (j & 3u)], j)) - 8.0);
}
