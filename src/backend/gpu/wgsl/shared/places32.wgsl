// Blocks of 32 places with an f16 scale: weight = d · TABLE[q].
#import shared/half
#import shared/places
struct Packed { q: vec4<u32>, d: f32 }

fn load(m: Matrix, i: u32) -> Packed {
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return Packed(quants[m.quants + i], d);
}

fn packed(p: Packed, j: u32) -> u32 {
    return numbers_at(nibbles(p.q[j & 3u], j));
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return signed_bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(p.d, p.d, 0.0, 0.0);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return d * signed_bytes(numbers_at(nibbles(words[4u * (m.quants + i) + (j & 3u)], j)));
}
