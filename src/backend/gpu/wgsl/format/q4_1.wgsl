// Q4_1: weight = d · q + m, 32 four-bit quants and two f16 a block.
#import shared/half
#import shared/bytes
struct Packed { q: vec4<u32>, dm: vec2<f32> }

fn load(m: Matrix, i: u32) -> Packed {
    return Packed(quants[m.quants + i], halves(words[m.scales + i]));
}

fn packed(p: Packed, j: u32) -> u32 {
    return nibbles(p.q[j & 3u], j);
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    return bytes(packed(p, j));
}

fn scales(p: Packed) -> vec4<f32> {
    return p.dm.xxyy;
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let dm = halves(words[m.scales + i]);
    return dm.x * bytes(nibbles(words[4u * (m.quants + i) + (j & 3u)], j)) + dm.y;
}
