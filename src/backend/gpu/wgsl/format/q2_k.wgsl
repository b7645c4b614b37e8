// Q2_K: weight = d·s · q − dmin·t. `scales`: (d, dmin) as f16, a word for 8 blocks; `extra`: two bytes a
// block, one for each 16 columns, s in the low half and t in the high. Quants are kept in 4 bits.
#import shared/half
#import shared/bytes
struct Packed { q: vec4<u32>, scales: vec4<f32> }

fn block_scales(m: Matrix, i: u32) -> vec4<f32> {
    let dm = halves(words[m.scales + (i >> 3u)]);
    let st = words[m.extra + (i >> 1u)] >> (16u * (i & 1u));
    let s = vec2<f32>(f32(st & 15u), f32((st >> 8u) & 15u));
    let t = vec2<f32>(f32((st >> 4u) & 15u), f32((st >> 12u) & 15u));
    return vec4<f32>(dm.x * s, -dm.y * t);
}

fn load(m: Matrix, i: u32) -> Packed {
    return Packed(quants[m.quants + i], block_scales(m, i));
}

fn packed(p: Packed, j: u32) -> u32 {
    return nibbles(p.q[j & 3u], j);
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return p.scales;
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let s = block_scales(m, i);
    let half = j >> 2u;
    return s[half] * bytes(nibbles(words[4u * (m.quants + i) + (j & 3u)], j)) + s[2u + half];
}
