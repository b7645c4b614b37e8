// Formats of two numbers a word, 4 vec4 a block. They say what the numbers of two words are:
//   numbers(a, b) -> vec4
struct Packed { a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32> }

fn load(m: Matrix, i: u32) -> Packed {
    let at = m.quants + 4u * i;
    return Packed(quants[at], quants[at + 1u], quants[at + 2u], quants[at + 3u]);
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    switch j {
        case 0u: { return numbers(p.a.x, p.a.y); }
        case 1u: { return numbers(p.a.z, p.a.w); }
        case 2u: { return numbers(p.b.x, p.b.y); }
        case 3u: { return numbers(p.b.z, p.b.w); }
        case 4u: { return numbers(p.c.x, p.c.y); }
        case 5u: { return numbers(p.c.z, p.c.w); }
        case 6u: { return numbers(p.d.x, p.d.y); }
        default: { return numbers(p.d.z, p.d.w); }
    }
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(1.0, 1.0, 0.0, 0.0);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    let at = 4u * (m.quants + 4u * i) + 2u * j;
    return numbers(words[at], words[at + 1u]);
}
