// Q2_0: weight = d · (q − 1), an f16 scale a block. A block is two words: bits 8·b + 2·(j mod 4) of word j / 4 are quant
// 4·j + b's.
#import shared/half
#import shared/bytes
struct Packed { q0: u32, q1: u32, d: f32 }

fn scale(m: Matrix, i: u32) -> f32 {
    return half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
}

fn load(m: Matrix, i: u32) -> Packed {
    let at = 4u * m.quants + 2u * i;
    return Packed(words[at], words[at + 1u], scale(m, i));
}

fn packed(p: Packed, j: u32) -> u32 {
    return (select(p.q0, p.q1, j >= 4u) >> (2u * (j & 3u))) & 0x03030303u;
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(p.d, p.d, -p.d, -p.d);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let q = words[4u * m.quants + 2u * i + (j >> 2u)];
    return scale(m, i) * (bytes((q >> (2u * (j & 3u))) & 0x03030303u) - 1.0);
}
