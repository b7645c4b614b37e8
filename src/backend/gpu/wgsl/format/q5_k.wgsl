// Q5_K: Q4_K with `more`, the fifth bits, as Q5_0's `extra`.
#import shared/half
#import shared/bytes
struct Packed { q: vec4<u32>, high: u32, dm: vec2<f32> }

fn block_scales(m: Matrix, i: u32) -> vec2<f32> {
    let dm = halves(words[m.scales + (i >> 3u)]);
    let st = words[m.extra + (i >> 1u)] >> (16u * (i & 1u));
    return vec2<f32>(dm.x * f32(st & 255u), -dm.y * f32((st >> 8u) & 255u));
}

fn load(m: Matrix, i: u32) -> Packed {
    return Packed(quants[m.quants + i], words[m.more + i], block_scales(m, i));
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
    return p.dm.xxyy;
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let dm = block_scales(m, i);
    return dm.x * bytes(join(words[4u * (m.quants + i) + (j & 3u)], words[m.more + i], j)) + dm.y;
}
