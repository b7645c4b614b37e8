// scan: the selective scan of Mamba 2, a workgroup a head and sequence, a thread an element of the head; a sequence's rows
// go one after the other.
struct Params {
    // Of the first sequence.
    first: u32,
    // Of each sequence.
    rows: u32,
    heads: u32,
    groups: u32,
    // From row to row, in numbers.
    xbc_stride: u32,
    dt_stride: u32,
    out_stride: u32,
    // Indices into `vectors`.
    rate: u32,
    bias: u32,
    skip: u32,
    _pad0: u32,
    _pad1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// rows × (heads · SIZE + 2 · groups · STATE)
@group(0) @binding(1) var<storage, read> xbc: array<f32>;
// rows × heads
@group(0) @binding(2) var<storage, read> dt: array<f32>;
@group(0) @binding(3) var<storage, read> vectors: array<f32>;
// slots × heads × STATE × SIZE
@group(0) @binding(4) var<storage, read_write> state: array<f32>;
// rows × heads · SIZE
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read> step_words: array<u32>;

#import shared/recurrence

@compute @workgroup_size(SIZE)
fn scan(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = workgroup.x;
    let first = params.first + workgroup.y * params.rows;
    let base = (slot_of(first) * params.heads + head) * STATE * SIZE + thread;
    let group = head / (params.heads / params.groups);
    let entering = params.heads * SIZE + group * STATE;
    let leaving = entering + params.groups * STATE;
    let rate = vectors[params.rate + head];
    let bias = vectors[params.bias + head];
    let skip = vectors[params.skip + head];
    for (var r = 0u; r < params.rows; r++) {
        let row = first + r;
        let fresh = position_of(row) == 0u;
        let at = row * params.xbc_stride;
        let x = xbc[at + head * SIZE + thread];
        let step = softplus(dt[row * params.dt_stride + head] + bias);
        let decay = exp(-rate * step);
        var sum = 0.0;
        for (var n = 0u; n < STATE; n++) {
            var number = step * x * xbc[at + entering + n];
            if !fresh {
                number += decay * state[base + n * SIZE];
            }
            state[base + n * SIZE] = number;
            sum += number * xbc[at + leaving + n];
        }
        out[row * params.out_stride + head * SIZE + thread] = sum + skip * x;
    }
}
