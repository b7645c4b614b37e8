//! Every operation of the GPU backend against the CPU's, over odd shapes, all weight types and all variants.

use candlewick::backend::cpu::Cpu;
use candlewick::backend::gpu::{Gpu, Options};
use candlewick::backend::op::{
    Activate, Activation, AddPositions, Attend, Attention, Buffer, Embed, Gate, Heads, KvCache, Linear,
    Matrix, Norm, Normalize, Operation, Project, ProjectAdd, Rope, RopePairing, Score, Vector,
};
use candlewick::backend::{Backend, PAGE, Program, Random, Span, Step, Token, Top, Wanted, pages};
use candlewick::format::gguf::TensorType;
use candlewick::sampling::{Sampler, Sampling};
use std::rc::Rc;

const TYPES: &[TensorType] = &[
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// Every variant of the kernels that this device can run.
fn variants() -> Vec<(&'static str, Options)> {
    let default = Options::from_env();
    if crate::short() {
        return vec![("short", default)];
    }
    let without = |feature: &str| Options { disable: vec![feature.to_owned()], ..default.clone() };
    vec![
        ("default", default.clone()),
        ("no subgroups", without("subgroups")),
        ("least limits", Options { least_limits: true, ..default.clone() }),
        ("small bindings", Options { max_binding: Some(4 << 20), ..default.clone() }),
        ("exact half", Options { exact_half: Some(true), ..default.clone() }),
        ("least device", least_device()),
    ]
}

/// What every WebGPU device can do, and no more: its limits, and none of its features.
pub(crate) fn least_device() -> Options {
    let features = ["f16", "subgroups", "timestamps", "dp4a"];
    Options {
        disable: features.map(str::to_owned).into(),
        least_limits: true,
        exact_half: Some(true),
        ..Options::from_env()
    }
}

/// Rows of a matrix. Now and then a scale is subnormal; never in F32, which the inputs are made from too.
fn weights(random: &mut Random, kind: TensorType, rows: usize, columns: usize) -> Vec<u8> {
    random.weights(kind, rows * columns, |random| match random.any() % 8 {
        0 if kind != TensorType::F32 => 1e-3,
        _ => 1.0,
    })
}

/// The same on both devices.
struct Pair {
    cpu: Cpu,
    gpu: Gpu,
    program: Program,
    random: Random,
    what: String,
}

impl Pair {
    fn new(variant: &str, options: &Options) -> Pair {
        Pair {
            cpu: Cpu::reference(),
            gpu: pollster::block_on(Gpu::open(options.clone())).unwrap(),
            program: Program::default(),
            random: Random(0x1234_5678_9abc_def1),
            what: variant.to_owned(),
        }
    }

    fn both<T: PartialEq + std::fmt::Debug>(&mut self, mut call: impl FnMut(&mut dyn Backend) -> T) -> T {
        let ours = call(&mut self.gpu);
        assert_eq!(call(&mut self.cpu), ours, "{}", self.what);
        ours
    }

    /// Makes room for what was declared since the last time, and takes over the operations.
    fn prepare(&mut self) {
        let program = Rc::new(self.program.clone());
        self.both(|b| b.prepare(&program).unwrap());
    }

    fn matrix(&mut self, kind: TensorType, rows: usize, columns: usize) -> Matrix {
        let bytes = weights(&mut self.random, kind, rows, columns);
        let matrix = self.program.matrix(rows, columns, kind);
        self.prepare();
        self.both(|b| {
            // In two uneven pieces.
            let middle = rows / 3;
            let (first, second) = bytes.split_at(bytes.len() / rows * middle);
            b.write_rows(matrix, 0, first).unwrap();
            b.write_rows(matrix, middle, second).unwrap();
        });
        matrix
    }

    fn vector(&mut self, len: usize) -> Vector {
        let values = self.random.numbers(len);
        let vector = self.program.vector(len);
        self.prepare();
        self.both(|b| b.write_vector(vector, &values).unwrap());
        vector
    }

    fn norm(&mut self, len: usize) -> Norm {
        Norm::rms(self.vector(len), 1e-5)
    }

    fn linear(&mut self, kind: TensorType, rows: usize, columns: usize) -> Linear {
        let bias = self.random.any().is_multiple_of(2);
        Linear { weight: self.matrix(kind, rows, columns), bias: bias.then(|| self.vector(rows)) }
    }

    fn empty(&mut self, rows: usize, width: usize) -> Buffer {
        let buffer = self.program.buffer(rows, width);
        self.prepare();
        buffer
    }

    /// `rows × width` random numbers.
    fn filled(&mut self, rows: usize, width: usize) -> Buffer {
        let buffer = self.empty(rows, width);
        self.fill(buffer, rows, width);
        buffer
    }

    fn fill(&mut self, buffer: Buffer, rows: usize, width: usize) {
        let numbers = self.random.numbers(rows * width);
        self.both(|b| b.write(buffer, &numbers).unwrap());
    }

    /// An operation for the rows of a step.
    fn step(&mut self, operation: impl Into<Operation>, step: &Step) {
        self.program.operations = vec![operation.into()];
        self.prepare();
        self.both(|b| b.run(step).unwrap());
    }

    /// An operation for `rows` rows.
    fn run(&mut self, rows: usize, operation: impl Into<Operation>) {
        self.step(operation, &Step::single(vec![0; rows], 0, 0));
    }

    /// The scores of the last `scored` of `rows` rows.
    fn score(&mut self, rows: usize, scored: usize, operation: Score) {
        self.step(operation, &Step::single(vec![0; rows], 0, scored));
    }

    fn embed(&mut self, ids: &[u32], table: Matrix, scale: f32, out: Buffer) {
        self.step(Embed { table, scale, out }, &Step::single(ids.iter().copied(), 0, 0));
    }

    /// Compares a buffer; what was summed over differs in its last bits, and by more where `tolerance` says so.
    fn compare(&mut self, name: &str, buffer: Buffer, len: usize, tolerance: f32) {
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        let rows = len / self.program.width(buffer);
        pollster::block_on(self.cpu.read(buffer, 0, rows, &mut expected)).unwrap();
        pollster::block_on(self.gpu.read(buffer, 0, rows, &mut found)).unwrap();
        assert_eq!(found.len(), len);
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (at, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let difference = (expected - found).abs();
            assert!(
                difference <= tolerance * largest,
                "{}, {name}: {found} instead of {expected} at {at} of {len}",
                self.what
            );
        }
    }
}

/// Columns that a type can have.
fn columns(kind: TensorType) -> &'static [usize] {
    match kind.block().0 {
        1 => &[1, 31, 33, 63, 65, 127, 257, 4097],
        32 => &[32, 96, 160, 576, 4128],
        _ => &[256, 768, 4352],
    }
}

/// Decoding a type and summing up are apart in the shaders: variants of the sums need not see every type.
const SOME: [TensorType; 4] = [TensorType::F32, TensorType::Q4_0, TensorType::Q4_K, TensorType::Q6_K];

const ROWS: &[usize] = &[1, 31, 33, 63, 65, 127, 257];
const TOKENS: &[usize] = &[1, 2, 3, 4, 7, 8, 9, 31, 33, 63, 65, 127, 257];
const SUMS: f32 = 2e-5;

fn products(kind: TensorType) {
    let for_all = ["short", "default", "least device"];
    for (variant, options) in
        variants().into_iter().filter(|(variant, _)| SOME.contains(&kind) || for_all.contains(variant))
    {
        let mut pair = Pair::new(variant, &options);
        // Every shape on the usual variant; on the others one for each of the kernels of a product.
        let usual = variant == "default";
        for (round, &tokens) in TOKENS.iter().enumerate().filter(|(_, n)| usual || [1, 3, 31].contains(*n)) {
            let columns = columns(kind)[round % columns(kind).len()];
            let rows = |offset: usize| ROWS[(round + offset) % ROWS.len()];
            pair.what = format!("{variant}, {kind:?}, {tokens} tokens, {columns} columns");
            let x = pair.filled(tokens, columns);
            let norm = pair.norm(columns);

            let outputs: Vec<_> =
                (0..3).map(|i| (pair.linear(kind, rows(i), columns), pair.empty(tokens, rows(i)))).collect();
            pair.run(tokens, Project { x, norm: Some(norm), outputs: outputs.clone() });
            for (i, (_, out)) in outputs.iter().enumerate() {
                pair.compare("project", *out, tokens * rows(i), SUMS);
            }

            for with_norm in [false, true] {
                let linear = pair.linear(kind, rows(1), columns);
                let out = pair.filled(tokens, rows(1));
                let norm = with_norm.then(|| pair.norm(rows(1)));
                pair.run(tokens, ProjectAdd { input: x, linear, norm, x: out });
                pair.compare("project_add", out, tokens * rows(1), SUMS);
            }

            for activation in [Activation::Silu, Activation::Gelu] {
                let (gate, up) = (pair.linear(kind, rows(2), columns), pair.linear(kind, rows(2), columns));
                let out = pair.empty(tokens, rows(2));
                pair.run(tokens, Gate { x, norm: Some(norm), gate, up, activation, out });
                pair.compare("gate", out, tokens * rows(2), SUMS);
            }

            let head = pair.linear(kind, rows(3), columns);
            let out = pair.empty(1, rows(3));
            for softcap in [None, Some(3.0)] {
                pair.score(tokens, 1, Score { x, norm, head, softcap, out });
                pair.compare("logits", out, rows(3), SUMS);
            }

            let ids: Vec<u32> = (0..tokens).map(|i| (i * 7 % rows(3)) as u32).collect();
            let embedded = pair.empty(tokens, columns);
            pair.embed(&ids, head.weight, 0.7, embedded);
            pair.compare("embed", embedded, tokens * columns, SUMS);
        }
    }
}

macro_rules! products {
    ($($test:ident $kind:ident,)*) => {
        $(
            #[test]
            fn $test() {
                products(TensorType::$kind);
            }
        )*

        #[test]
        fn every_type_is_tested() {
            assert_eq!(TYPES, [$(TensorType::$kind),*]);
        }
    };
}
products! {
    f32 F32,
    f16 F16,
    bf16 BF16,
    q4_0 Q4_0,
    q4_1 Q4_1,
    q5_0 Q5_0,
    q5_1 Q5_1,
    q8_0 Q8_0,
    q2_k Q2_K,
    q3_k Q3_K,
    q4_k Q4_K,
    q5_k Q5_K,
    q6_k Q6_K,
}

/// One token through matrices of every number of rows and of columns, as decoding has it.
#[test]
fn rows_and_columns() {
    let mut pair = Pair::new("default", &Options::from_env());
    for &kind in TYPES {
        for &columns in columns(kind).iter().filter(|&&columns| columns < 1000 || !crate::short()) {
            for rows in [1, 31, 33, 63, 65, 127, 257, 4097] {
                // One large side at a time.
                if rows * columns > 2 << 20 {
                    continue;
                }
                pair.what = format!("{kind:?}, {rows} rows, {columns} columns");
                let x = pair.filled(1, columns);
                let norm = pair.norm(columns);
                let linear = pair.linear(kind, rows, columns);
                let out = pair.empty(1, rows);
                pair.run(1, Project { x, norm: Some(norm), outputs: vec![(linear, out)] });
                // A single sum may cancel out, and then nothing says what its terms were.
                pair.compare("project", out, rows, if rows == 1 { 100.0 * SUMS } else { SUMS });
            }
        }
    }
}

/// Products of what was normed before, as encoders have them.
#[test]
fn without_a_norm() {
    for (variant, options) in variants() {
        let mut pair = Pair::new(variant, &options);
        for (columns, tokens) in [(33, 1), (64, 3), (384, 8), (96, 9), (384, 65)] {
            let rows = 129;
            pair.what = format!("{variant}, {tokens} tokens, {columns} columns");
            let x = pair.filled(tokens, columns);
            let out = pair.empty(tokens, rows);
            let [gate, up] = [0, 1].map(|_| pair.linear(TensorType::F32, rows, columns));
            pair.run(tokens, Project { x, norm: None, outputs: vec![(up, out)] });
            pair.compare("project", out, tokens * rows, SUMS);
            for activation in [Activation::Silu, Activation::GeluErf] {
                pair.run(tokens, Activate { x, norm: None, up, activation, out });
                pair.compare("activate", out, tokens * rows, SUMS);
                pair.run(tokens, Gate { x, norm: None, gate, up, activation, out });
                pair.compare("gate", out, tokens * rows, SUMS);
            }
        }
    }
}

/// LayerNorm, and the feed-forward layer without a gate that comes with it.
#[test]
fn layer_norm() {
    for (variant, options) in variants() {
        let mut pair = Pair::new(variant, &options);
        for (round, columns) in [1, 31, 33, 63, 65, 127, 257, 1100].into_iter().enumerate() {
            for tokens in [1, 3, 8, 9, 65] {
                let kind = [TensorType::F32, TensorType::F16][round % 2];
                let rows = ROWS[(round + tokens) % ROWS.len()];
                pair.what = format!("{variant}, layer norm, {kind:?}, {tokens} tokens, {columns} columns");
                let x = pair.filled(tokens, columns);
                let norm = Norm::layer(pair.vector(columns), pair.vector(columns), 1e-5);
                let outputs: Vec<_> =
                    (0..2).map(|_| (pair.linear(kind, rows, columns), pair.empty(tokens, rows))).collect();
                pair.run(tokens, Project { x, norm: Some(norm), outputs: outputs.clone() });
                for (_, out) in &outputs {
                    pair.compare("project", *out, tokens * rows, if rows * tokens < 9 { 1e-3 } else { 1e-4 });
                }
                let [gate, up] = [outputs[0].0, outputs[1].0];
                let out = pair.empty(tokens, rows);
                let normed = pair.empty(tokens, columns);
                pair.run(tokens, Normalize { x, norm, out: normed });
                pair.compare("norm", normed, tokens * columns, 1e-4);
                for activation in [Activation::Silu, Activation::Gelu, Activation::GeluErf] {
                    pair.run(tokens, Activate { x, norm: Some(norm), up, activation, out });
                    pair.compare("activate", out, tokens * rows, 1e-3);
                    pair.run(tokens, Gate { x, norm: Some(norm), gate, up, activation, out });
                    pair.compare("gate", out, tokens * rows, 1e-3);
                }
                let scores = pair.empty(1, rows);
                pair.score(tokens, 1, Score { x, norm, head: up, softcap: None, out: scores });
                pair.compare("logits", scores, rows, if rows < 9 { 1e-3 } else { 1e-4 });
                let table = pair.matrix(kind, tokens + 5, columns);
                pair.step(AddPositions { table, x }, &Step::single(vec![0; tokens], 5, 0));
                pair.compare("add_rows", x, tokens * columns, SUMS);
            }
        }
    }
}

/// Products of integers: the activations are rounded to 8 bits, and nothing else is.
#[test]
fn matmul_dp4a() {
    let options = Options { dp4a: Some(true), ..Options::from_env() };
    let every = if crate::short() { 3 } else { 1 };
    for &kind in TYPES.iter().step_by(every) {
        let mut pair = Pair::new("dp4a", &options);
        for (round, &tokens) in [9, 31, 33, 63, 65, 127, 257].iter().enumerate().step_by(every) {
            let columns = columns(kind)[round % columns(kind).len()];
            let rows = ROWS[round % ROWS.len()];
            pair.what = format!("dp4a, {kind:?}, {tokens} tokens, {columns} columns");
            let x = pair.filled(tokens, columns);
            let norm = pair.norm(columns);
            let linear = pair.linear(kind, rows, columns);
            let out = pair.filled(tokens, rows);
            pair.run(tokens, Project { x, norm: Some(norm), outputs: vec![(linear, out)] });
            // Queries and keys are never rounded.
            pair.compare("project", out, tokens * rows, SUMS);
            pair.run(tokens, ProjectAdd { input: x, linear, norm: None, x: out });
            pair.compare("project_add", out, tokens * rows, 2e-2);
            let up = pair.linear(kind, rows, columns);
            pair.run(
                tokens,
                Gate { x, norm: Some(norm), gate: linear, up, activation: Activation::Silu, out },
            );
            pair.compare("gate", out, tokens * rows, 4e-2);
        }
    }
}

/// Matrices of two widths take turns, as in every layer: what they are rounded into is made once.
#[test]
fn products_of_integers_need_no_more_room_each_time() {
    const TOKENS: usize = 16;
    let options = Options { dp4a: Some(true), max_memory: Some(24 << 20), ..Options::from_env() };
    let mut pair = Pair::new("dp4a, two widths", &options);
    let out = pair.filled(TOKENS, 32);
    let wide = (pair.filled(TOKENS, 1024), pair.linear(TensorType::Q8_0, 32, 1024));
    let narrow = (pair.filled(TOKENS, 256), pair.linear(TensorType::Q8_0, 32, 256));
    // A buffer a turn would be 30 MB.
    for (input, linear) in [wide, narrow] {
        pair.program.push(ProjectAdd { input, linear, norm: None, x: out });
    }
    pair.prepare();
    for _ in 0..1000 {
        pair.gpu.run(&Step::single([0; TOKENS], 0, 0)).unwrap();
    }
    pollster::block_on(pair.gpu.wait()).unwrap();
}

/// A matrix of several megabytes where one binding may have one.
#[test]
fn matrix_over_the_binding_limit() {
    let options = Options { max_binding: Some(1 << 20), ..Options::from_env() };
    for kind in [TensorType::F16, TensorType::Q8_0, TensorType::Q4_K] {
        let mut pair = Pair::new("1 MiB bindings", &options);
        let (rows, columns) = (8001, 512);
        let head = pair.linear(kind, rows, columns);
        let norm = pair.norm(columns);
        for tokens in [1, 3, 33] {
            let x = pair.filled(tokens, columns);
            let out = pair.empty(1, rows);
            pair.score(tokens, 1, Score { x, norm, head, softcap: None, out });
            pair.compare("logits", out, rows, SUMS);
        }
        let x = pair.filled(9, columns);
        let out = pair.empty(9, rows);
        pair.run(9, Project { x, norm: Some(norm), outputs: vec![(head, out)] });
        pair.compare("project", out, 9 * rows, SUMS);
        let gated = pair.empty(1, rows);
        pair.run(
            1,
            Gate { x, norm: Some(norm), gate: head, up: head, activation: Activation::Silu, out: gated },
        );
        pair.compare("gate", gated, rows, SUMS);
        let ids = [0, 4000, 8000];
        let embedded = pair.empty(3, columns);
        pair.embed(&ids, head.weight, 1.0, embedded);
        pair.compare("embed", embedded, 3 * columns, SUMS);
    }
}

struct AttentionTest {
    heads: Heads,
    pairing: RopePairing,
    rotated: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    normed: bool,
    causal: bool,
}

fn attend(pair: &mut Pair, test: &AttentionTest, steps: &[usize], tolerance: f32) {
    let heads = test.heads;
    let context = steps.iter().sum();
    let cache: KvCache = pair.program.cache(pages(context), heads);
    let rope = Rope {
        pairing: test.pairing,
        frequencies: (0..test.rotated / 2).map(|i| 0.5f32.powi(i as i32)).collect(),
        magnitude: 1.1,
    };
    let norms = test.normed.then(|| [pair.norm(heads.size), pair.norm(heads.size)]);
    let attention = Attention {
        heads,
        scale: 1.0 / (heads.size as f32).sqrt() / 10.0,
        softcap: test.softcap,
        window: test.window,
        causal: test.causal,
    };
    let most = *steps.iter().max().unwrap();
    let (q_width, kv_width) = (heads.query * heads.size, heads.kv * heads.size);
    let [q, k, v, out] = [q_width, kv_width, kv_width, q_width].map(|width| pair.empty(most, width));
    let mut position = 0;
    let attend = Attend { query: q, key: k, value: v, norms, rope, cache, attention, out };
    for &rows in steps {
        pair.fill(q, rows, q_width);
        pair.fill(k, rows, kv_width);
        pair.fill(v, rows, kv_width);
        pair.step(attend.clone(), &Step::single(vec![0; rows], position, 0));
        let what = format!("attend of {rows} at {position}, heads {heads:?}");
        pair.compare(&what, q, rows * q_width, tolerance);
        pair.compare(&what, out, rows * q_width, tolerance);
        position += rows;
    }
}

/// Steps of several sequences, whose pages lie anywhere: prompts beside single tokens, long ones beside short ones.
fn attend_together(pair: &mut Pair, test: &AttentionTest, tolerance: f32) {
    const SEQUENCES: usize = 5;
    const PAGES: usize = 8;
    let heads = test.heads;
    let cache = pair.program.cache(SEQUENCES * PAGES, heads);
    let rope = Rope {
        pairing: test.pairing,
        frequencies: (0..test.rotated / 2).map(|i| 0.5f32.powi(i as i32)).collect(),
        magnitude: 1.1,
    };
    let norms = test.normed.then(|| [pair.norm(heads.size), pair.norm(heads.size)]);
    let attention = Attention {
        heads,
        scale: 1.0 / (heads.size as f32).sqrt() / 10.0,
        softcap: test.softcap,
        window: test.window,
        causal: true,
    };
    let most = 80;
    let (q_width, kv_width) = (heads.query * heads.size, heads.kv * heads.size);
    let [query, key, value, out] =
        [q_width, kv_width, kv_width, q_width].map(|width| pair.empty(most, width));
    let attend = Attend { query, key, value, norms, rope, cache, attention, out };
    let mut lengths = [0usize; SEQUENCES];
    for rows in [
        [70, 0, 0, 0, 0],
        [70, 3, 1, 1, 0],
        [70, 0, 1, 0, 1],
        [1, 60, 1, 1, 1],
        [1; 5],
        [1; 5],
        [60, 1, 1, 1, 2],
    ] {
        let mut step = Step::default();
        for (sequence, &rows) in rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
            let position = lengths[sequence];
            lengths[sequence] += rows;
            let pages =
                (0..lengths[sequence].div_ceil(PAGE)).map(|page| (page * SEQUENCES + sequence) as u32);
            step.spans.push(Span { pages: pages.collect(), position, rows });
            step.tokens.extend(vec![Token::Known(0); rows]);
        }
        pair.fill(query, step.rows(), q_width);
        pair.fill(key, step.rows(), kv_width);
        pair.fill(value, step.rows(), kv_width);
        pair.step(attend.clone(), &step);
        let what = format!("attend of {rows:?}, heads {heads:?}");
        pair.compare(&what, out, step.rows() * q_width, tolerance);
    }
}

#[test]
fn attention() {
    let heads = |query, kv, size| Heads { query, kv, size };
    let plain = |heads: Heads| AttentionTest {
        heads,
        pairing: RopePairing::Halves,
        rotated: heads.size,
        window: None,
        softcap: None,
        normed: false,
        causal: true,
    };
    let tests = [
        plain(heads(1, 1, 8)),
        AttentionTest { pairing: RopePairing::Interleaved, ..plain(heads(4, 2, 16)) },
        AttentionTest { window: Some(7), ..plain(heads(7, 1, 64)) },
        AttentionTest { softcap: Some(2.0), ..plain(heads(9, 3, 64)) },
        AttentionTest { normed: true, rotated: 60, ..plain(heads(4, 4, 90)) },
        AttentionTest { window: Some(150), normed: true, ..plain(heads(8, 1, 128)) },
        AttentionTest { pairing: RopePairing::Interleaved, softcap: Some(1.0), ..plain(heads(2, 1, 256)) },
        plain(heads(26, 2, 12)),
        AttentionTest { causal: false, rotated: 0, ..plain(heads(12, 12, 32)) },
        AttentionTest { causal: false, ..plain(heads(4, 4, 20)) },
    ];
    let f32_cache = |(name, options): (&'static str, Options)| (name, Options { kv_f32: true, ..options });
    for (variant, options) in variants().into_iter().map(f32_cache) {
        let mut pair = Pair::new(variant, &options);
        let usual = variant == "default";
        let steps: &[usize] = if usual { &[1, 1, 5, 33, 127, 1, 65, 63, 1, 1] } else { &[1, 33, 1] };
        for test in &tests {
            attend(&mut pair, test, steps, 1e-4);
            if test.causal {
                attend_together(&mut pair, test, 1e-4);
            }
        }
    }
    if crate::short() {
        return;
    }
    let mut pair = Pair::new("f16 cache", &Options::from_env());
    for test in &tests {
        attend(&mut pair, test, &[1, 1, 5, 33, 127, 1, 65, 63, 1, 1], 5e-3);
    }
    attend(&mut pair, &tests[1], &[512, 512, 512, 1, 1], 5e-3);
    // Long enough for many splits of the keys.
    attend(&mut pair, &tests[0], &[512, 512, 512, 512, 512, 512, 512, 512, 1, 1, 3], 5e-3);
}

#[test]
fn choose() {
    let mut pair = Pair::new("default", &Options::from_env());
    for len in [1, 2, 31, 33, 63, 65, 127, 257, 4097, 50_000, 151_936] {
        const ROWS: usize = 3;
        let scores = pair.filled(ROWS, len);
        let choose = |pair: &mut Pair, rows: usize| {
            pair.both(|b| b.choose(scores, rows, len).unwrap());
            pair.both(|b| {
                let mut chosen = Vec::new();
                pollster::block_on(b.chosen(&mut chosen)).unwrap();
                chosen
            })
        };
        assert_eq!(choose(&mut pair, ROWS).len(), ROWS);
        assert_eq!(choose(&mut pair, 1).len(), 1);
        // The next step has them as its tokens.
        let chosen = choose(&mut pair, ROWS);
        let (table, out) = (pair.matrix(TensorType::F32, len, 32), pair.empty(ROWS, 32));
        let tokens = [2, 0, 1].map(Token::Chosen).to_vec();
        let step = Step { tokens, ..Step::single([0; ROWS], 0, 0) };
        pair.step(Embed { table, scale: 1.0, out }, &step);
        pair.compare("embed", out, ROWS * 32, 0.0);
        let mut by_number = Vec::new();
        pair.embed(&[chosen[2], chosen[0], chosen[1]], table, 1.0, out);
        pollster::block_on(pair.gpu.read(out, 0, ROWS, &mut by_number)).unwrap();
        pair.step(Embed { table, scale: 1.0, out }, &step);
        let mut on_the_device = Vec::new();
        pollster::block_on(pair.gpu.read(out, 0, ROWS, &mut on_the_device)).unwrap();
        assert!(by_number == on_the_device, "{len}");
        // All alike: the first wins.
        pair.both(|b| b.write(scores, &vec![0.5; ROWS * len]).unwrap());
        assert_eq!(choose(&mut pair, ROWS), [0; ROWS]);
    }
}

#[test]
fn top_k() {
    let mut pair = Pair::new("default", &Options::from_env());
    for len in [1, 2, 31, 33, 63, 65, 127, 257, 1023, 1025, 4097, 50_000, 151_936] {
        // The second of two rows.
        let scores = pair.empty(2, len);
        // Many equal ones, both zeros, and −∞.
        let values: Vec<f32> =
            (0..len).map(|i| [3.0, 0.0, -0.0, f32::NEG_INFINITY, -2.5][i * 7 % 5]).collect();
        let random = pair.random.numbers(len);
        let scaled = |scale: f32| random.iter().map(|number| scale * number).collect::<Vec<_>>();
        for (row, numbers) in [scaled(1.0), scaled(100.0), values].into_iter().enumerate() {
            pair.both(|b| b.write(scores, &[numbers.as_slice(), &numbers].concat()).unwrap());
            for count in [1, 2, 40, 200, 512] {
                let places: Vec<u32> = (0..count as u32 - 1).map(|i| i * 7919 % len as u32).collect();
                let wanted = Wanted { count, places, sum: true };
                let [mut expected, mut found] = [Top::default(), Top::default()];
                pollster::block_on(pair.cpu.top_k(scores, 1, len, &wanted, &mut expected)).unwrap();
                pollster::block_on(pair.gpu.top_k(scores, 1, len, &wanted, &mut found)).unwrap();
                let what = format!("{count} of {len}, numbers {row}");
                assert_eq!(expected.best, found.best, "{what}");
                assert_eq!(expected.picked, found.picked, "{what}");
                let difference = (expected.sum - found.sum).abs();
                assert!(
                    difference <= Top::SUM_ERROR / 10.0 * expected.sum,
                    "{what}: {expected:?}, {found:?}"
                );
                assert!(expected.finite && found.finite);
            }
        }
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
            pair.both(|b| {
                let mut rows = vec![0.0; 2 * len];
                rows[len + len / 2] = bad;
                b.write(scores, &rows).unwrap();
                let mut top = Top::default();
                let wanted = Wanted { count: 3, places: Vec::new(), sum: true };
                pollster::block_on(b.top_k(scores, 1, len, &wanted, &mut top)).unwrap();
                assert!(!top.finite, "{bad} among {len}");
            });
        }
    }
}

/// Settings of every kind, drawn from all scores and from the top that the device found: the same tokens.
#[test]
fn sampling_from_the_top() {
    let mut pair = Pair::new("default", &Options::from_env());
    let len = 50_001;
    let numbers = pair.random.numbers(8 * len);
    let scores = pair.empty(1, len);
    let base = || Sampling { temperature: 1.1, seed: Some(5), ..Sampling::default() };
    let penalties = |settings| Sampling { repeat_penalty: 1.2, frequency_penalty: 0.3, ..settings };
    let bias = |settings| Sampling { logit_bias: [(7, 3.0), (40_000, -9.0)].into(), ..settings };
    let plain = [
        Sampling { temperature: 0.0, ..base() },
        Sampling { top_k: 1, ..base() },
        Sampling { top_k: 40, ..base() },
        Sampling { top_k: 400, top_p: 0.9, min_p: 0.01, ..base() },
        Sampling { top_k: 100, typical_p: 0.5, ..base() },
        Sampling { top_p: 0.9, ..base() },
        Sampling { top_p: 0.5, min_p: 0.05, ..base() },
        Sampling { min_p: 0.1, ..base() },
        Sampling { min_p: 0.0001, ..base() },
        base(),
    ];
    let (mut sufficed, mut not) = (0, 0);
    for settings in plain.clone().into_iter().chain(plain.clone().map(penalties)).chain(plain.map(bias)) {
        let mut whole = Sampler::new(&settings, len).unwrap();
        let mut from_top = whole.clone();
        for step in 0..24 {
            // From flat to sharp.
            let scale = [0.5, 200.0, 2000.0][step % 3];
            let numbers = &numbers[step % 8 * len..][..len];
            let scaled: Vec<f32> = numbers.iter().map(|number| scale * number).collect();
            pair.gpu.write(scores, &scaled).unwrap();
            let mut all = Vec::new();
            let mut top = Top::default();
            pollster::block_on(async {
                if let Some(wanted) = from_top.wanted() {
                    pair.gpu.top_k(scores, 0, len, &wanted, &mut top).await.unwrap();
                }
                pair.gpu.read(scores, 0, 1, &mut all).await.unwrap();
            });
            let token = whole.sample(&mut all.clone()).unwrap();
            let early = match from_top.wanted() {
                Some(_) => from_top.sample_top(&top).unwrap(),
                None => None,
            };
            match early {
                Some(early) => {
                    assert_eq!(early, token, "{settings:?}, step {step}");
                    sufficed += 1;
                }
                None => {
                    assert_eq!(settings.top_k, 0, "{settings:?}, step {step}");
                    assert_eq!(from_top.sample(&mut all).unwrap(), token);
                    not += 1;
                }
            }
            whole.accept(token);
            from_top.accept(token);
        }
    }
    println!("the top sufficed {sufficed} times, {not} times not");
    assert!(sufficed > 400 && not > 50);
}
