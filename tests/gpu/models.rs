//! Whole models on the GPU against the CPU's reference, and the published story.

use crate::edit::Edit;
use crate::fixtures::{all_logits, contents, decoder, json, kl_divergence, path, tokens};
use crate::pair::least_device;
use candlewick::backend::cpu::Cpu;
use candlewick::backend::gpu::{Gpu, Options};
use candlewick::backend::{Backend, Step, Token};
use candlewick::format::gguf::Header;
use candlewick::model::{Config, Decoder};
use candlewick::store::MemorySource;

const MODELS: &[&str] = &[
    "llama",
    "llama-tied",
    "llama-rope-linear",
    "llama-rope-llama3",
    "llama-rope-yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "phi3-swa",
    "phi3-longrope",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3-rope-linear",
    "starcoder2",
    "gpt2",
    "granite",
    "olmo2",
    "smollm3",
    "olmo",
    "olmo3",
    "glm4",
    "hunyuan-dense",
    "exaone4",
    "cohere",
    "cohere2",
    "arcee",
    "seed_oss",
    "ernie4_5",
    "ministral3",
    "stablelm",
    "phi2",
    "nemotron",
    "gptneox",
    "gptneox-serial",
    "falcon",
    "falcon-40b",
    "starcoder",
    "lfm2",
    "qwen35",
    "mamba2",
    "granitehybrid",
    "nemotron_h",
    "mixtral",
    "qwen3moe",
    "granitemoe",
    "lfm2moe",
    "qwen35moe",
    "ernie4_5-moe",
    "quant-f16",
    "quant-bf16",
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
    "quant-mixed-q4_k_m",
    "quant-q1_0",
    "quant-iq4_xs",
];

/// A step of the token that was chosen last.
fn ahead(position: usize) -> Step {
    Step { tokens: vec![Token::Chosen(0)], ..Step::single([0], position, 1) }
}

fn gpu(options: Options) -> Gpu {
    pollster::block_on(Gpu::open(options)).unwrap()
}

/// Mean KL(CPU reference ‖ GPU) over a prompt that goes in steps of `step` tokens.
fn mean_kl(model: &str, options: Options, step: usize, count: usize) -> f64 {
    let file = format!("{model}.gguf");
    let golden = match model.strip_prefix("quant-") {
        Some(_) => "quant".to_owned(),
        None if model == "phi3-longrope" => "phi3-longrope-short".to_owned(),
        None => model.to_owned(),
    };
    let mut ids = tokens(&json(&format!("goldens/{golden}.json")));
    ids.truncate(count);
    let reference = all_logits(&mut decoder(&file, Cpu::reference(), 256), &ids, 64);
    let ours = all_logits(&mut decoder(&file, gpu(options), 256), &ids, step);
    reference.iter().zip(&ours).map(|(r, o)| kl_divergence(r, o)).sum::<f64>() / ids.len() as f64
}

#[test]
fn every_model_agrees_with_the_cpu() {
    let mut wrong = Vec::new();
    // With steps of 1, 3 and many tokens the products go through different kernels.
    let steps: &[(usize, usize)] = if crate::short() { &[(1, 8)] } else { &[(1, 16), (3, 9), (64, 40)] };
    for (index, model) in MODELS.iter().enumerate() {
        if crate::short() && index % 4 != 0 {
            continue;
        }
        for &(step, count) in steps {
            let kl = mean_kl(model, Options::from_env(), step, count);
            println!("{model}, steps of {step}: mean KL {kl:.2e}");
            if kl.is_nan() || kl > 1e-4 {
                wrong.push(format!("{model}, steps of {step}: {kl:.2e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn wider_weights_are_told() {
    for (model, expected) in
        [("q3_k", &["Q3_K as Q6_K"][..]), ("q2_k", &["Q2_K with quants of 4 bits"]), ("q4_k", &[])]
    {
        let file = format!("quant-{model}.gguf");
        let loaded = decoder(&file, gpu(Options::from_env()), 64);
        assert_eq!(loaded.backend().gpu().unwrap().wider, expected, "{model}");
    }
}

/// Activations of 8 bits may cost more, but not much.
#[test]
fn products_of_integers_are_close() {
    let models = MODELS.iter().filter(|model| model.starts_with("quant-"));
    for model in models.step_by(if crate::short() { 4 } else { 1 }) {
        let options = Options { dp4a: Some(true), ..Options::from_env() };
        let kl = mean_kl(model, options, 64, 128);
        println!("{model}: mean KL {kl:.2e}");
        assert!(kl <= 1e-3, "{model}: mean KL {kl:.2e}");
    }
}

fn decoder_of(bytes: &[u8], backend: impl Backend + 'static) -> Decoder {
    let source = MemorySource::new("model.gguf", bytes.to_vec());
    pollster::block_on(async {
        let header = Header::read(&source).await.unwrap();
        let config = Config::from_header(&header).unwrap();
        Decoder::load(&source, &header, config, Box::new(backend), 64, &mut |_| Ok(())).await.unwrap()
    })
}

/// A vocabulary that fills several bindings, on a device that can do what WebGPU guarantees and no more.
#[test]
fn least_device_takes_a_matrix_over_its_binding_limit() {
    const COPIES: usize = 56;
    let larger =
        Edit::new(&contents(&path("models/llama-tied.gguf"))).tensor("token_embd.weight", |tensor| {
            tensor.dimensions[1] *= COPIES as u64;
            tensor.data = tensor.data.repeat(COPIES);
            // Every copy of a row is a little longer than the one before it.
            for (at, number) in tensor.data.as_chunks_mut().0.iter_mut().enumerate() {
                let scale = 1.0 + at as f32 / 4e6;
                *number = (f32::from_le_bytes(*number) * scale).to_le_bytes();
            }
        });
    let embedding = larger.tensors.iter().map(|tensor| tensor.data.len()).max().unwrap();
    let limit = 1 << 20;
    assert!(embedding > 3 * limit, "{embedding} bytes are no test of {limit}");
    let bytes = larger.bytes();
    let count = if crate::short() { 4 } else { 24 };
    let ids: Vec<u32> = (0..count).map(|i| i * 7919 % (288 * COPIES as u32)).collect();
    let reference = all_logits(&mut decoder_of(&bytes, Cpu::reference()), &ids, 64);
    let options = Options { max_binding: Some(limit as u64), ..least_device() };
    for step in [1, 3, 24] {
        let ours = all_logits(&mut decoder_of(&bytes, gpu(options.clone())), &ids, step);
        let kl = reference.iter().zip(&ours).map(|(r, o)| kl_divergence(r, o)).sum::<f64>();
        assert!(kl / ids.len() as f64 <= 1e-4, "steps of {step}: {kl:.2e}");
    }
}

/// The published story, each token chosen on the device and read a step late.
#[test]
fn stories260k_tells_its_story() {
    let golden = json("goldens/stories260K.golden.json");
    let ids = |key: &str| -> Vec<u32> { serde_json::from_value(golden[key].clone()).unwrap() };
    let (prompt, expected) = (ids("prompt_ids"), ids("greedy_ids"));
    let model = "../../../www/models/stories260K.gguf";
    let mut decoder = decoder(model, gpu(Options::from_env()), 512);
    let mut chosen = Vec::new();
    decoder.run(&Step::single(prompt.iter().copied(), 0, 1)).unwrap();
    decoder.choose(usize::MAX).unwrap();
    for (index, &expected) in expected.iter().enumerate() {
        decoder.run(&ahead(prompt.len() + index)).unwrap();
        decoder.choose(usize::MAX).unwrap();
        pollster::block_on(decoder.chosen(&mut chosen)).unwrap();
        assert_eq!(chosen, [expected], "token {index}");
    }
}

/// Dispatches of one token, by kernel, counted in a run.
fn dispatches_of_a_token(decoder: &mut Decoder, position: usize) -> Vec<(String, u64)> {
    pollster::block_on(async {
        decoder.kernel_times().await.unwrap();
        decoder.run(&ahead(position)).unwrap();
        decoder.choose(usize::MAX).unwrap();
        decoder.chosen(&mut Vec::new()).await.unwrap();
        let times = decoder.kernel_times().await.unwrap();
        times
            .into_iter()
            .map(|time| (time.kernel.split(' ').next().unwrap().to_owned(), time.calls))
            .collect()
    })
}

/// Six a layer: three products with their norms and residuals, rotation with the cache, attention, and the
/// gated product; seven where attention is split. And four a token: embedding, scores, two of argmax.
#[test]
fn a_layer_is_six_dispatches() {
    let model = "../../../www/models/stories260K.gguf";
    let options = Options { profile: true, ..Options::from_env() };
    let mut decoder = decoder(model, gpu(options), 512);
    let layers = decoder.config().layers.len() as u64;
    decoder.run(&Step::single([1; 400], 0, 1)).unwrap();
    decoder.choose(usize::MAX).unwrap();
    pollster::block_on(decoder.chosen(&mut Vec::new())).unwrap();
    for (position, a_layer) in [(100, 6), (400, 7)] {
        let counts = dispatches_of_a_token(&mut decoder, position);
        let total: u64 = counts.iter().map(|(_, calls)| calls).sum();
        assert_eq!(total, a_layer * layers + 4, "at {position}: {counts:?}");
        let of = |name: &str| counts.iter().filter(|(kernel, _)| kernel == name).map(|(_, n)| n).sum::<u64>();
        assert_eq!((of("gate"), of("attend"), of("matvec")), (layers, layers, 3 * layers + 1));
    }
}
