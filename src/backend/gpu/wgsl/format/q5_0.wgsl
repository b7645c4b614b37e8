// Q5_0: weight = d · (q − 16). `extra` holds the fifth bits, a word a block: bit 8·b + j is quant 4·j + b's.
#import shared/half
#import shared/bytes
struct Packed { q: vec4<u32>, high: u32, d: f32 }

fn load(m: Matrix, i: u32) -> Packed {
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return Packed(quants[m.quants + i], words[m.extra + i], d);
}

fn join(low: u32, high: u32, j: u32) -> u32 {
    return nibbles(low, j) | (((high >> j) & 0x01010101u) << 4u);
}

fn packed(p: Packed, j: u32) -> u32 {
    return join(p.q[j & 3u], p.high, j);
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(p.d, p.d, -16.0 * p.d, -16.0 * p.d);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let d = half_of(words[m.scales + (i >> 1u)], (i & 1u) == 1u);
    return d * (bytes(join(words[4u * (m.quants + i) + (j & 3u)], words[m.extra + i], j)) - 16.0);
}
