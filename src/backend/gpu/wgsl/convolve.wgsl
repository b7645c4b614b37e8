// convolve: a causal convolution of each column over TAPS rows, one thread a column and sequence; a sequence's rows go one
// after the other.
struct Params {
    // Of the first sequence.
    first: u32,
    // Of each sequence.
    rows: u32,
    width: u32,
    // From row to row, in numbers.
    x_stride: u32,
    before_stride: u32,
    after_stride: u32,
    out_stride: u32,
    // Indices into `vectors`.
    kernel: u32,
    bias: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// rows × width
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> before: array<f32>;
@group(0) @binding(3) var<storage, read> after: array<f32>;
@group(0) @binding(4) var<storage, read> vectors: array<f32>;
// slots × PAST × width
@group(0) @binding(5) var<storage, read_write> state: array<f32>;
// rows × width
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read> step_words: array<u32>;

#import shared/recurrence
#import shared/activation

@compute @workgroup_size(64)
fn convolve(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let column = workgroup.x * 64u + thread;
    if column >= params.width {
        return;
    }
    let first = params.first + workgroup.y * params.rows;
    let at = slot_of(first) * PAST * params.width + column;
    let fresh = position_of(first) == 0u;
    // past0 is the row's own number, past1 the one before, …
#unroll J TAPS
    var past{J} = 0.0;
    let tap{J} = vectors[params.kernel + column * TAPS + PAST - {J}u];
#end
    if !fresh {
#unroll J PAST
        past{J+1} = state[at + (PAST - 1u - {J}u) * params.width];
#end
    }
#ifdef BIAS
    let bias = vectors[params.bias + column];
#endif
    for (var r = 0u; r < params.rows; r++) {
        let row = first + r;
        past0 = x[row * params.x_stride + column];
#ifdef BEFORE
        past0 *= before[row * params.before_stride + column];
#endif
        var sum = 0.0;
#unroll J TAPS
        sum += tap{J} * past{J};
#end
#ifdef BIAS
        sum += bias;
#endif
#ifdef ACTIVATE
        sum = activation(sum);
#endif
#ifdef AFTER
        sum *= after[row * params.after_stride + column];
#endif
        out[row * params.out_stride + column] = sum;
#unroll J PAST
        let old{J} = past{J};
#end
#unroll J PAST
        past{J+1} = old{J};
#end
    }
#unroll J PAST
    state[at + (PAST - 1u - {J}u) * params.width] = past{J+1};
#end
}
