// Q1_0: weight = d where the bit is set, else −d; d as f32, a word for 4 blocks. A block is a word: bit 8·b + j is quant
// 4·j + b's.
#import shared/bytes
struct Packed { q: u32, d: f32 }

fn scale(m: Matrix, i: u32) -> f32 {
    return bitcast<f32>(words[m.scales + (i >> 2u)]);
}

fn load(m: Matrix, i: u32) -> Packed {
    return Packed(words[4u * m.quants + i], scale(m, i));
}

fn packed(p: Packed, j: u32) -> u32 {
    return (p.q >> j) & 0x01010101u;
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(2.0 * p.d, 2.0 * p.d, -p.d, -p.d);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let q = (words[4u * m.quants + i] >> j) & 0x01010101u;
    return scale(m, i) * (2.0 * bytes(q) - 1.0);
}
