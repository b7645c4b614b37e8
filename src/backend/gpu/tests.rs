//! Every kernel through wgpu's validation, in every variant, without an adapter: on a device that computes nothing.

use super::{Corruption, Gpu, Options};
use crate::backend::op::Operation;
use crate::backend::{Backend, MOST_SCORED, Program, Span, Step, Token, Top, Wanted};
use crate::format::gguf::Header;
use crate::model::{Config, Decoder, Encoder};
use crate::store::FileSource;
use pollster::block_on;
use std::path::Path;
use std::rc::Rc;

/// All types of weights, and of each kind of operation one that has it.
const MODELS: &[&str] = &[
    "quant-q4_0",
    "quant-q4_1",
    "quant-q5_0",
    "quant-q5_1",
    "quant-q8_0",
    "quant-q2_k",
    "quant-q3_k",
    "quant-q4_k",
    "quant-q5_k",
    "quant-q6_k",
    "quant-f16",
    "quant-bf16",
    "quant-mixed-q4_k_m",
    "quant-q1_0",
    "quant-q2_0",
    "quant-iq4_nl",
    "quant-iq4_xs",
    "quant-iq3_s",
    "quant-mxfp4",
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt2",
    "phi2",
    "olmo2",
    "hunyuan-dense",
    "arcee",
    "nemotron",
    "lfm2",
    "qwen35",
    "granitehybrid",
    "nemotron_h",
    "qwen3moe",
    "lfm2moe",
    "qwen35moe",
    "bert-q8_0",
];

fn noop(subgroups: Option<(u32, u32)>) -> wgpu::NoopBackendOptions {
    let mut features = wgpu::Features::empty();
    features.set(wgpu::Features::SUBGROUP, subgroups.is_some());
    wgpu::NoopBackendOptions {
        enable: true,
        features: Some(features),
        limits: Some(wgpu::Limits::default()),
        device_type: Some(wgpu::DeviceType::DiscreteGpu),
        subgroup_min_size: subgroups.map(|(least, _)| least),
        subgroup_max_size: subgroups.map(|(_, most)| most),
    }
}

/// What devices and options make of kernels.
fn variants() -> Vec<Options> {
    let mut variants = Vec::new();
    for subgroups in [None, Some((32, 32)), Some((4, 128)), Some((8, 16))] {
        for (least, exact_half) in [(false, false), (true, true)] {
            variants.push(Options {
                kv_f32: least,
                least_limits: least,
                dp4a: Some(!least),
                exact_half: Some(exact_half),
                noop: noop(subgroups),
                ..Options::default()
            });
        }
    }
    variants
}

async fn program(model: &str, rows: usize) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let source = FileSource::open(&folder.join(format!("{model}.gguf"))).unwrap();
    let header = Header::read(&source).await.unwrap();
    let config = Config::from_header(&header).unwrap();
    match config.family.encoder {
        true => Encoder::program(&source, &header, &config, 64).await.unwrap(),
        false => Decoder::program(&source, &header, &config, 640, rows).await.unwrap(),
    }
}

/// One row of each of so many sequences.
fn together(count: usize, position: usize) -> Step {
    let span = |index: usize| Span {
        pages: vec![index as u32; position / 64 + 1],
        state: index as u32,
        position,
        rows: 1,
    };
    Step { tokens: vec![Token::Known(3); count], spans: (0..count).map(span).collect(), scored: count }
}

async fn run_all(gpu: &mut Gpu, program: Program) {
    let scores = program.operations.iter().rev().find_map(|operation| match operation {
        Operation::Score(score) => Some(score.out),
        _ => None,
    });
    let encoder = scores.is_none();
    let rows = program.buffers.iter().map(|buffer| buffer.rows).max().unwrap_or(1);
    gpu.prepare(&Rc::new(program)).unwrap();
    let mut steps: Vec<Step> = [1, 2, 3, 8, 20, 64, 300]
        .into_iter()
        .filter(|count| *count <= rows)
        .map(|count| Step::single(vec![3; count], 0, usize::from(!encoder)))
        .collect();
    if !encoder {
        // The second and third step of a kind go by a plan; many positions are split.
        for position in [0, 1, 2, 600] {
            steps.extend((1..=MOST_SCORED).map(|count| together(count, position)));
        }
    }
    let (mut chosen, mut top, mut bytes) = (Vec::new(), Top::default(), Vec::new());
    for step in &steps {
        gpu.run(step).unwrap_or_else(|error| panic!("{} rows: {error}", step.rows()));
    }
    if let Some(scores) = scores {
        gpu.choose(scores, MOST_SCORED, 200).unwrap();
        gpu.chosen(&mut chosen).await.unwrap();
        let everything = Wanted { count: Wanted::MOST, places: vec![1, 2], sum: true };
        for wanted in [Wanted { count: 40, places: Vec::new(), sum: false }, everything] {
            gpu.top_k(scores, 0, 200, &wanted, &mut top).await.unwrap();
        }
        gpu.copy_page(0, 1).unwrap();
        gpu.read_pages(&[0, 1], &mut bytes).await.unwrap();
        gpu.write_page(2, &bytes[..gpu.page_size()]).unwrap();
    }
    gpu.wait().await.unwrap();
    gpu.device.check().unwrap();
}

#[test]
fn every_kernel_is_valid() {
    let mut kernels = 0;
    for options in variants() {
        for model in MODELS.iter().copied() {
            block_on(async {
                let mut gpu = Gpu::open(options.clone()).await.unwrap();
                let program = program(model, gpu.prefill_rows()).await;
                run_all(&mut gpu, program).await;
                kernels += gpu.gpu().unwrap().pipelines;
            });
        }
    }
    assert!(kernels > 5000, "only {kernels} kernels");
}

/// The validation is real: it finds a kernel that was made wrong.
#[test]
fn a_wrong_kernel_is_found() {
    let wrong = |text: &str, by: &str| {
        let corruption = Corruption { kernel: "matvec".into(), text: text.into(), by: by.into() };
        let options = Options { corruptions: vec![corruption], ..variants().swap_remove(0) };
        block_on(async {
            let mut gpu = Gpu::open(options).await.unwrap();
            gpu.prepare(&Rc::new(program("llama", gpu.prefill_rows()).await)).unwrap();
            let ran = gpu.run(&Step::single([3], 0, 1));
            ran.and(gpu.wait().await).and(gpu.device.check())
        })
    };
    assert!(wrong("params.tokens", "params.tokens").is_ok());
    // One that does not parse, and one whose types do not fit.
    assert!(wrong("params.tokens", "params.tokens)").is_err());
    assert!(wrong("params.tokens", "f32(params.tokens)").is_err());
}
