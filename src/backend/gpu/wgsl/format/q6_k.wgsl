// Q6_K: weight = d·s · (q − 32). `scales`: d as f32, a word for 8 blocks; `extra`: two signed bytes s a
// block, one for each 16 columns; `more`: the upper two bits, two words a block: bits 8·b + 2·(j mod 4)
// of word j / 4 are quant 4·j + b's. Q3_K becomes this at load and loses nothing.
#import shared/bytes
struct Packed { q: vec4<u32>, high0: u32, high1: u32, d: vec2<f32> }

fn block_scales(m: Matrix, i: u32) -> vec2<f32> {
    let d = bitcast<f32>(words[m.scales + (i >> 3u)]);
    let s = signed_bytes(words[m.extra + (i >> 1u)]);
    return d * select(s.xy, s.zw, (i & 1u) == 1u);
}

fn load(m: Matrix, i: u32) -> Packed {
    let high = m.more + 2u * i;
    return Packed(quants[m.quants + i], words[high], words[high + 1u], block_scales(m, i));
}

fn join(low: u32, high: u32, j: u32) -> u32 {
    return nibbles(low, j) | (((high >> (2u * (j & 3u))) & 0x03030303u) << 4u);
}

fn packed(p: Packed, j: u32) -> u32 {
    return join(p.q[j & 3u], select(p.high0, p.high1, j >= 4u), j);
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(p.d, -32.0 * p.d);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let half = j >> 2u;
    let d = block_scales(m, i)[half];
    let high = words[m.more + 2u * i + half];
    return d * (bytes(join(words[4u * (m.quants + i) + (j & 3u)], high, j)) - 32.0);
}
