// F32: 8 vec4 a block.
struct Packed {
    q0: vec4<f32>, q1: vec4<f32>, q2: vec4<f32>, q3: vec4<f32>,
    q4: vec4<f32>, q5: vec4<f32>, q6: vec4<f32>, q7: vec4<f32>,
}

fn load(m: Matrix, i: u32) -> Packed {
    let at = m.quants + 8u * i;
    return Packed(
        bitcast<vec4<f32>>(quants[at]), bitcast<vec4<f32>>(quants[at + 1u]),
        bitcast<vec4<f32>>(quants[at + 2u]), bitcast<vec4<f32>>(quants[at + 3u]),
        bitcast<vec4<f32>>(quants[at + 4u]), bitcast<vec4<f32>>(quants[at + 5u]),
        bitcast<vec4<f32>>(quants[at + 6u]), bitcast<vec4<f32>>(quants[at + 7u]),
    );
}

fn quant(p: Packed, j: u32) -> vec4<f32> {
    switch j {
        case 0u: { return p.q0; }
        case 1u: { return p.q1; }
        case 2u: { return p.q2; }
        case 3u: { return p.q3; }
        case 4u: { return p.q4; }
        case 5u: { return p.q5; }
        case 6u: { return p.q6; }
        default: { return p.q7; }
    }
}

fn scales(p: Packed) -> vec4<f32> {
    return vec4<f32>(1.0, 1.0, 0.0, 0.0);
}

fn quad(m: Matrix, i: u32, j: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(quants[m.quants + 8u * i + j]);
}
