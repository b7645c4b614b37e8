// Sums of VALUES numbers of every thread over each run of LANES threads of the workgroup.
// With subgroups: one sum in registers, then LANES / subgroup size numbers in shared memory; the host takes
// this variant only where a subgroup never spans two runs. Without: a tree in shared memory.
#ifdef SUBGROUPS
// Room for the smallest subgroups there are, of 4.
const PLACES: u32 = WG / 4u;
#else
const PLACES: u32 = WG;
#endif
var<workgroup> partials: array<f32, VALUES * PLACES>;
#ifdef SUBGROUPS
var<private> places_used: u32;
#endif

fn reduce(values: array<f32, VALUES>, thread: u32, subgroup_size: u32, subgroup_thread: u32) {
#ifdef SUBGROUPS
    places_used = LANES / subgroup_size;
#unroll V VALUES
    {
        let sum = subgroupAdd(values[{V}]);
        if subgroup_thread == 0u {
            partials[{V}u * PLACES + thread / subgroup_size] = sum;
        }
    }
#end
    workgroupBarrier();
#else
#unroll V VALUES
    partials[{V}u * PLACES + thread] = values[{V}];
#end
    workgroupBarrier();
    for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
        if thread % LANES < stride {
#unroll V VALUES
            partials[{V}u * PLACES + thread] += partials[{V}u * PLACES + thread + stride];
#end
        }
        workgroupBarrier();
    }
#endif
}

// The sum of value `v` over run `group`, after `reduce`.
fn total(group: u32, v: u32) -> f32 {
#ifdef SUBGROUPS
    var sum = 0.0;
    for (var place = 0u; place < places_used; place++) {
        sum += partials[v * PLACES + group * places_used + place];
    }
    return sum;
#else
    return partials[v * PLACES + group * LANES];
#endif
}
