// Q8_0: weight = d · q, 32 signed bytes and an f16 scale a block.
#import shared/half
#import shared/bytes
struct Packed { a: vec4<u32>, b: vec4<u32>, d: f32 }

fn load(m: Matrix, i: u32) -> Packed {
    let at = m.quants + 2u * i;
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return Packed(quants[at], quants[at + 1u], d);
}

fn packed(p: Packed, j: u32) -> u32 {
    if j < 4u {
        return p.a[j & 3u];
    }
    return p.b[j & 3u];
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return signed_bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(p.d, p.d, 0.0, 0.0);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return d * signed_bytes(words[4u * (m.quants + 2u * i) + j]);
}
