// top_k: every workgroup sorts a stretch of 1024 scores and keeps the K highest; further rounds (MERGE) do the
// same with what was kept, until one stretch is left. On the way the first round sums exp(score − highest).
//
// Scores are sorted as integers whose order is theirs: −0 counts as 0, and what is NaN or +∞ comes before all
// others. Of equals the first place wins.
struct Params {
    // Of `scores`, or of `runs` where MERGE.
    count: u32,
    // Where the scores begin.
    first: u32,
    _pad1: u32,
    _pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
#ifdef MERGE
// count × (key, place)
@group(0) @binding(1) var<storage, read> runs: array<vec2<u32>>;
// workgroups × K × (key, place)
@group(0) @binding(2) var<storage, read_write> kept: array<vec2<u32>>;
#else
// count
@group(0) @binding(1) var<storage, read> scores: array<u32>;
// workgroups × K × (key, place)
@group(0) @binding(2) var<storage, read_write> kept: array<vec2<u32>>;
// workgroups × (key of the highest, sum)
@group(0) @binding(3) var<storage, read_write> sums: array<vec2<u32>>;
#endif

const STRETCH: u32 = 1024u;
// Behind every score, −∞ too.
const NOTHING = vec2<u32>(0u, 0xffffffffu);
const LOWEST_KEY = 0x007fffffu;

var<workgroup> entries: array<vec2<u32>, STRETCH>;
var<workgroup> partials: array<f32, 256>;

fn key_of(bits: u32) -> u32 {
    let size = bits & 0x7fffffffu;
    if size > 0x7f800000u || bits == 0x7f800000u {
        return 0xffffffffu;
    }
    if size == 0u {
        return 0x80000000u;
    }
    return select(~bits, bits | 0x80000000u, bits == size);
}

fn number_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

fn comes_first(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

@compute @workgroup_size(256)
fn top_k(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = workgroup.x * STRETCH;
    for (var i = thread; i < STRETCH; i += 256u) {
        var entry = NOTHING;
        if first + i < params.count {
#ifdef MERGE
            entry = runs[first + i];
#else
            entry = vec2<u32>(key_of(scores[params.first + first + i]), first + i);
#endif
        }
        entries[i] = entry;
    }
    workgroupBarrier();
    // Bitonic sort (Batcher 1968).
    for (var run = 2u; run <= STRETCH; run <<= 1u) {
        for (var apart = run >> 1u; apart > 0u; apart >>= 1u) {
            for (var pair = thread; pair < STRETCH / 2u; pair += 256u) {
                let i = 2u * pair - pair % apart;
                let a = entries[i];
                let b = entries[i + apart];
                if comes_first(b, a) == ((i & run) == 0u) {
                    entries[i] = b;
                    entries[i + apart] = a;
                }
            }
            workgroupBarrier();
        }
    }
    for (var i = thread; i < K; i += 256u) {
        kept[workgroup.x * K + i] = entries[i];
    }
#ifndef MERGE
    let highest = entries[0].x;
    var sum = 0.0;
    for (var i = thread; i < STRETCH; i += 256u) {
        let key = entries[i].x;
        if key > LOWEST_KEY {
            // Not so far below the highest that the difference overflows.
            sum += exp(max(number_of(key), number_of(highest) - 200.0) - number_of(highest));
        }
    }
    partials[thread] = sum;
    workgroupBarrier();
    for (var stride = 128u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        sums[workgroup.x] = vec2<u32>(highest, bitcast<u32>(partials[0]));
    }
#endif
}
