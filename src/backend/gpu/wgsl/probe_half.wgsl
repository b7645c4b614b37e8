// probe_half: numbers = the halves in words; shows whether the device reads subnormal ones as 0.
struct Params { count: u32, _pad0: u32, _pad1: u32, _pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;
// count, two halves each
@group(0) @binding(1) var<storage, read> words: array<u32>;
// count
@group(0) @binding(2) var<storage, read_write> numbers: array<vec2<f32>>;

#import shared/half

@compute @workgroup_size(64)
fn probe_half(@builtin(local_invocation_index) thread: u32) {
    if thread < params.count {
        numbers[thread] = halves(words[thread]);
    }
}
