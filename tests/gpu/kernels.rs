//! Every operation of the GPU backend against the CPU's, over odd shapes, all weight types and all variants.

use crate::pair::{Pair, variants};
use candlewick::backend::gpu::Options;
use candlewick::backend::op::{
    Activate, Activation, AddPositions, Gate, Norm, Normalize, Project, ProjectAdd, Score,
};
use candlewick::backend::{Backend, Step};
use candlewick::format::gguf::TensorType;

const TYPES: &[TensorType] = TensorType::ALL;

/// Columns that a type can have.
fn columns(kind: TensorType) -> &'static [usize] {
    match kind.block().0 {
        1 => &[1, 31, 33, 63, 65, 127, 257, 4097],
        32 => &[32, 96, 160, 576, 4128],
        64 => &[64, 192, 576, 4160],
        128 => &[128, 384, 640, 4224],
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
    q1_0 Q1_0,
    q2_0 Q2_0,
    tq1_0 TQ1_0,
    tq2_0 TQ2_0,
    iq4_nl IQ4_NL,
    iq4_xs IQ4_XS,
    mxfp4 MXFP4,
    nvfp4 NVFP4,
    iq3_xxs IQ3_XXS,
    iq3_s IQ3_S,
    iq2_xxs IQ2_XXS,
    iq2_xs IQ2_XS,
    iq2_s IQ2_S,
    iq1_s IQ1_S,
    iq1_m IQ1_M,
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
