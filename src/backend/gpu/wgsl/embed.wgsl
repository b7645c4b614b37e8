// embed: out = scale · table[token], one thread for 4 columns of a token. Where POSITIONS, the rows are those of the
// tokens' positions, and are added.
#import shared/matrix
#import format/{FORMAT}

struct Params {
    blocks: u32,
    tokens: u32,
    _pad0: u32,
    // From token to token in `out`, in vec4.
    stride: u32,
    // Rows of the table before this part of it.
    first_row: u32,
    scale: f32,
    columns: u32,
    _pad1: u32,
    table: Matrix,
}

@group(0) @binding(0) var<uniform> params: Params;
// The slab that holds the table, twice.
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> words: array<u32>;
// tokens × columns
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
// The step.
@group(0) @binding(4) var<storage, read> step_words: array<u32>;
#ifndef POSITIONS
// Tokens that were chosen on the device.
@group(0) @binding(5) var<storage, read> chosen: array<vec2<u32>>;

const CHOSEN: u32 = 0x80000000u;
#endif

#import shared/step

@compute @workgroup_size(64)
fn embed(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let column = workgroup.x * 64u + thread;
    let token = workgroup.y;
    if column >= params.blocks * 8u {
        return;
    }
#ifdef POSITIONS
    let place = position_of(token);
#else
    var place = token_of(token);
    if place >= CHOSEN {
        place = chosen[place - CHOSEN].x;
    }
#endif
    // Rows that another part of the table holds wrap around to large numbers.
    let row = place - params.first_row;
    if row < params.table.rows {
        let value = params.scale * quad(params.table, row * params.blocks + column / 8u, column % 8u);
        let at = token * params.stride + column;
#ifdef POSITIONS
        out[at] += value;
#else
        out[at] = value;
#endif
    }
}
