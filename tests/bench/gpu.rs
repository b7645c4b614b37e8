//! Speed of the GPU backend on random models of well-known shapes, made up as they are loaded.
//!
//!     cargo run --release --example gpu-bench -- [MODEL[,MODEL…]] [TYPE[,TYPE…]] [--profile] [--context N]

use candlewick::Result;
use candlewick::backend::gpu::{Gpu, Options};
use candlewick::backend::op::{Linear, Norm, Operation, Project, ProjectAdd};
use candlewick::backend::{Backend, KernelTime, Program, Step, Token};
use candlewick::format::gguf::{Header, TensorType};
use candlewick::model::{Config, Decoder};
use candlewick::store::Source;
use futures_util::future::LocalBoxFuture;
use std::rc::Rc;
use std::time::Instant;

struct Shape {
    name: &'static str,
    architecture: &'static str,
    layers: usize,
    embedding: usize,
    feed_forward: usize,
    heads: [usize; 2],
    head: usize,
    vocabulary: usize,
    tied: bool,
    biases: bool,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "smollm2-135m",
        architecture: "llama",
        layers: 30,
        embedding: 576,
        feed_forward: 1536,
        heads: [9, 3],
        head: 64,
        vocabulary: 49_152,
        tied: true,
        biases: false,
    },
    Shape {
        name: "qwen2.5-0.5b",
        architecture: "qwen2",
        layers: 24,
        embedding: 896,
        feed_forward: 4864,
        heads: [14, 2],
        head: 64,
        vocabulary: 151_936,
        tied: true,
        biases: true,
    },
    Shape {
        name: "llama-3.2-1b",
        architecture: "llama",
        layers: 16,
        embedding: 2048,
        feed_forward: 8192,
        heads: [32, 8],
        head: 64,
        vocabulary: 128_256,
        tied: true,
        biases: false,
    },
    Shape {
        name: "llama-3.1-8b",
        architecture: "llama",
        layers: 32,
        embedding: 4096,
        feed_forward: 14_336,
        heads: [32, 8],
        head: 128,
        vocabulary: 128_256,
        tied: false,
        biases: false,
    },
];

const TYPES: &[(&str, TensorType, u32)] = &[
    ("q4_0", TensorType::Q4_0, 2),
    ("q8_0", TensorType::Q8_0, 8),
    ("q4_k", TensorType::Q4_K, 12),
    ("q6_k", TensorType::Q6_K, 14),
    ("f16", TensorType::F16, 1),
    ("f32", TensorType::F32, 0),
];

/// A GGUF file whose weights are made up when they are read.
struct Synthetic {
    header: Vec<u8>,
    len: u64,
    /// (offset, size, pattern) in order.
    tensors: Vec<(u64, u64, Rc<Vec<u8>>)>,
    /// Bytes of matrices that a token reads.
    read_per_token: u64,
}

impl Synthetic {
    fn new(shape: &Shape, kind: TensorType, id: u32) -> Self {
        let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
        let (d, f, [h, g], s) = (shape.embedding, shape.feed_forward, shape.heads, shape.head);
        tensors.push(("token_embd.weight".into(), vec![d, shape.vocabulary]));
        for layer in 0..shape.layers {
            let mut add =
                |name: &str, dims: &[usize]| tensors.push((format!("blk.{layer}.{name}"), dims.to_vec()));
            add("attn_norm.weight", &[d]);
            for (name, rows) in [("attn_q", h * s), ("attn_k", g * s), ("attn_v", g * s)] {
                add(&format!("{name}.weight"), &[d, rows]);
                if shape.biases {
                    add(&format!("{name}.bias"), &[rows]);
                }
            }
            add("attn_output.weight", &[h * s, d]);
            add("ffn_norm.weight", &[d]);
            add("ffn_gate.weight", &[d, f]);
            add("ffn_up.weight", &[d, f]);
            add("ffn_down.weight", &[f, d]);
        }
        tensors.push(("output_norm.weight".into(), vec![d]));
        if !shape.tied {
            tensors.push(("output.weight".into(), vec![d, shape.vocabulary]));
        }

        let mut header = Vec::new();
        let mut out = Writer(&mut header);
        let a = shape.architecture;
        out.bytes(b"GGUF");
        out.u32(3);
        out.u64(tensors.len() as u64);
        out.u64(10);
        out.string("general.architecture");
        out.u32(8);
        out.string(a);
        for (key, value) in [
            ("block_count", shape.layers),
            ("embedding_length", d),
            ("feed_forward_length", f),
            ("attention.head_count", h),
            ("attention.head_count_kv", g),
            ("attention.key_length", s),
            ("attention.value_length", s),
            ("context_length", 131_072),
            ("rope.dimension_count", s),
        ] {
            out.string(&format!("{a}.{key}"));
            out.u32(4);
            out.u32(value as u32);
        }
        let ones = Rc::new(1f32.to_le_bytes().repeat(1 << 18));
        let noise = Rc::new(pattern(kind));
        let (mut offset, mut placed, mut read_per_token) = (0u64, Vec::new(), 0);
        for (name, dims) in &tensors {
            let matrix = dims.len() == 2;
            // A matrix whose rows are no whole blocks of a K type is Q8_0 in real files; here too.
            let fits = (dims[0] as u64).is_multiple_of(kind.block().0);
            let (kind, id) = match (matrix, fits) {
                (false, _) => (TensorType::F32, 0),
                (true, true) => (kind, id),
                (true, false) => (TensorType::Q8_0, 8),
            };
            let (block_len, block_size) = kind.block();
            let size = dims.iter().product::<usize>() as u64 / block_len * block_size;
            out.string(name);
            out.u32(dims.len() as u32);
            dims.iter().for_each(|&dim| out.u64(dim as u64));
            out.u32(id);
            out.u64(offset);
            let values = match (matrix, fits) {
                (false, _) => ones.clone(),
                (true, true) => noise.clone(),
                (true, false) => Rc::new(pattern(kind)),
            };
            placed.push((offset, size, values));
            if matrix && (shape.tied || name != "token_embd.weight") {
                read_per_token += size;
            }
            offset = (offset + size).next_multiple_of(32);
        }
        let start = header.len().next_multiple_of(32);
        header.resize(start, 0);
        placed.iter_mut().for_each(|(at, _, _)| *at += start as u64);
        Synthetic { header, len: start as u64 + offset, tensors: placed, read_per_token }
    }
}

/// Some megabytes of whole blocks with scales that give weights of about ±0.05.
fn pattern(kind: TensorType) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let (_, block_size) = kind.block();
    let block_size = block_size as usize;
    let mut bytes: Vec<u8> = (0..block_size * 40_009).map(|_| random()).collect();
    let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
    for block in bytes.chunks_exact_mut(block_size) {
        let number = (f32::from(block[0]) - 127.5) * 0.0004;
        let mut put = |at: usize, value: f32| block[at..at + 2].copy_from_slice(&half(value));
        match kind {
            TensorType::Q4_0 => put(0, 0.006),
            TensorType::Q8_0 => put(0, 0.0004),
            TensorType::Q4_K => {
                put(0, 0.0002);
                put(2, 0.0015);
            }
            TensorType::Q6_K => put(208, 0.00002),
            TensorType::F16 => put(0, number),
            _ => block.copy_from_slice(&number.to_le_bytes()),
        }
    }
    bytes
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    fn string(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.bytes(text.as_bytes());
    }
}

impl Source for Synthetic {
    fn name(&self) -> &str {
        "synthetic"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        let mut out = vec![0; len];
        let end = offset + len as u64;
        if offset < self.header.len() as u64 {
            let stop = self.header.len().min(end as usize);
            out[..stop - offset as usize].copy_from_slice(&self.header[offset as usize..stop]);
        }
        let index = self.tensors.partition_point(|&(at, size, _)| at + size <= offset);
        if let Some((at, size, values)) = self.tensors.get(index).filter(|(at, _, _)| *at <= offset) {
            let stop = (at + size).min(end);
            let mut place = offset;
            while place < stop {
                let from = ((place - at) % values.len() as u64) as usize;
                let count = (values.len() - from).min((stop - place) as usize);
                let to = (place - offset) as usize;
                out[to..to + count].copy_from_slice(&values[from..from + count]);
                place += count as u64;
            }
        }
        Box::pin(std::future::ready(Ok(out)))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let profile = arguments.iter().any(|argument| argument == "--profile");
    let flag = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (context, tokens) = (flag("--context", 1024), flag("--tokens", 64));
    let names: Vec<&String> = arguments.iter().take_while(|argument| !argument.starts_with("--")).collect();
    let chosen = |index: usize, name: &str| {
        names.get(index).is_none_or(|list| *list == "all" || list.split(',').any(|part| part == name))
    };

    pollster::block_on(async {
        let mut gpu = Gpu::open(Options::from_env()).await.unwrap();
        println!("{:?}", gpu.info());
        let bandwidth = gpu.copy_bandwidth(1 << 30).await.unwrap();
        println!("copy bandwidth {:.0} GB/s (read + write)", bandwidth / 1e9);
        drop(gpu);
        if arguments.iter().any(|argument| argument == "--sweep") {
            for &(name, kind, _) in TYPES.iter().filter(|(name, _, _)| chosen(1, name)) {
                sweep(name, kind, bandwidth).await.unwrap();
            }
            return;
        }
        for shape in SHAPES.iter().filter(|shape| chosen(0, shape.name)) {
            for &(name, kind, id) in TYPES.iter().filter(|(name, _, _)| chosen(1, name)) {
                if names.len() < 2 && !matches!(name, "q4_0" | "q8_0" | "q4_k") {
                    continue;
                }
                let source = Synthetic::new(shape, kind, id);
                if let Err(error) = bench(&source, shape, name, bandwidth, context, tokens, profile).await {
                    println!("{} {name}: {error}", shape.name);
                }
            }
        }
    });
}

/// Time of one product of a token in every shape of workgroup, over copies too large for any cache.
async fn sweep(name: &str, kind: TensorType, bandwidth: f64) -> Result<()> {
    let bytes = pattern(kind);
    let (block_len, block_size) = kind.block();
    for (rows, columns) in [
        (512, 2048),
        (2048, 2048),
        (8192, 2048),
        (4096, 4096),
        (14_336, 4096),
        (4096, 14_336),
        (128_256, 2048),
    ] {
        let row_size = columns / block_len as usize * block_size as usize;
        let size = rows * row_size;
        let copies = (400_000_000 / size).clamp(2, 64);
        let mut gpu = Gpu::open(Options::from_env()).await?;
        let mut program = Program::default();
        let matrices: Vec<_> = (0..copies).map(|_| program.matrix(rows, columns, kind)).collect();
        let scale = program.vector(columns);
        let (x, out) = (program.buffer(1, columns), program.buffer(1, rows));
        gpu.expect(&program).await?;
        gpu.prepare(&Rc::new(program.clone()))?;
        for &weight in &matrices {
            let piece = bytes.len() / row_size;
            for first in (0..rows).step_by(piece) {
                let count = piece.min(rows - first);
                gpu.write_rows(weight, first, &bytes[..count * row_size])?;
            }
        }
        gpu.write_vector(scale, &vec![1.0; columns])?;
        let norm = Some(Norm::rms(scale, 1e-5));
        // Every matrix once, with a norm and without.
        let products = |normed: bool| {
            let operations = matrices.iter().map(|&weight| -> Operation {
                let linear = Linear { weight, bias: None };
                match normed {
                    true => Project { x, norm, outputs: vec![(linear, out)] }.into(),
                    false => ProjectAdd { input: x, linear, norm: None, x: out }.into(),
                }
            });
            Rc::new(Program { operations: operations.collect(), ..program.clone() })
        };
        let (products, step) = ([true, false].map(products), Step::single([0], 0, 0));
        let mut results = Vec::new();
        let mut word = Vec::new();
        for threads in [32, 64, 128, 256] {
            for lanes in [16, 32, 64, 128, 256].into_iter().filter(|&lanes| lanes <= threads) {
                for per_lane in [1, 2, 4, 8] {
                    gpu.tune(Some([threads, lanes, per_lane]));
                    for (normed, program) in [true, false].into_iter().zip(&products) {
                        gpu.prepare(program)?;
                        let mut best = f64::INFINITY;
                        for round in 0..3 {
                            let start = Instant::now();
                            for _ in 0..4 {
                                gpu.run(&step)?;
                            }
                            gpu.read(out, 0, 1, &mut word).await?;
                            if round > 0 {
                                best = best.min(start.elapsed().as_secs_f64() / (4 * copies) as f64);
                            }
                        }
                        results.push((best, normed, threads, lanes, per_lane));
                    }
                }
            }
        }
        gpu.tune(None);
        for normed in [true, false] {
            let mut best: Vec<_> = results.iter().filter(|result| result.1 == normed).collect();
            best.sort_by(|a, b| a.0.total_cmp(&b.0));
            print!("{name} {rows}x{columns}{}:", if normed { " norm" } else { "" });
            for (time, _, threads, lanes, per_lane) in best.iter().take(6) {
                let share = size as f64 / time / bandwidth * 100.0;
                print!("  {threads}/{lanes}/{per_lane} {:.1}us {share:.0}%", time * 1e6);
            }
            println!();
        }
    }
    Ok(())
}

async fn load(source: &Synthetic, options: Options, context: usize) -> Result<Decoder> {
    let gpu = Gpu::open(options).await?;
    let header = Header::read(source).await?;
    let config = Config::from_header(&header)?;
    Decoder::load(source, &header, config, Box::new(gpu), context, &mut |_| Ok(())).await
}

/// A step of the token that was chosen last.
fn ahead(position: usize) -> Step {
    Step { tokens: vec![Token::Chosen(0)], ..Step::single([0], position, 1) }
}

async fn bench(
    source: &Synthetic,
    shape: &Shape,
    kind: &str,
    bandwidth: f64,
    context: usize,
    tokens: usize,
    profile: bool,
) -> Result<()> {
    let start = Instant::now();
    let mut decoder = load(source, Options::from_env(), context).await?;
    let loading = start.elapsed().as_secs_f64();
    let megabytes = source.read_per_token as f64 / 1e6;
    println!("\n== {} {kind}: {megabytes:.0} MB a token, loaded in {loading:.1} s", shape.name);
    let prompt = |count: usize| -> Vec<u32> { (0..count as u32).map(|i| (i * 7919) % 49_000).collect() };

    let mut chosen = Vec::new();
    for count in [128, 512].into_iter().filter(|&count| count <= context) {
        let ids = prompt(count);
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let start = Instant::now();
            for (index, chunk) in ids.chunks(decoder.step_len()).enumerate() {
                decoder.run(&Step::single(chunk.iter().copied(), index * decoder.step_len(), 1))?;
            }
            decoder.choose(usize::MAX)?;
            decoder.chosen(&mut chosen).await?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("prefill {count}: {:.0} tokens/s ({:.2} ms)", count as f64 / best, best * 1e3);
    }

    // One ahead: the device never waits for this side.
    let mut best = f64::INFINITY;
    let mut recording = 0.0;
    for round in 0..3 {
        let mut position = 128.min(context / 2);
        decoder.run(&Step::single(prompt(1), position - 1, 1))?;
        decoder.choose(usize::MAX)?;
        decoder.run(&ahead(position))?;
        decoder.choose(usize::MAX)?;
        decoder.chosen(&mut chosen).await?;
        let start = Instant::now();
        let mut spent = 0.0;
        for _ in 0..tokens {
            position += 1;
            let begin = Instant::now();
            decoder.run(&ahead(position))?;
            decoder.choose(usize::MAX)?;
            spent += begin.elapsed().as_secs_f64();
            decoder.chosen(&mut chosen).await?;
        }
        let took = start.elapsed().as_secs_f64() / tokens as f64;
        decoder.chosen(&mut chosen).await?;
        if round > 0 && took < best {
            (best, recording) = (took, spent / tokens as f64);
        }
    }
    println!(
        "decode: {:.1} tokens/s, {:.3} ms a token ({:.3} ms of it on the CPU), {:.0} % of the bandwidth",
        1.0 / best,
        best * 1e3,
        recording * 1e3,
        source.read_per_token as f64 / best / bandwidth * 100.0
    );
    drop(decoder);
    if profile {
        profiled(source, context, &prompt(512.min(context))).await?;
    }
    Ok(())
}

async fn profiled(source: &Synthetic, context: usize, ids: &[u32]) -> Result<()> {
    let mut decoder = load(source, Options { profile: true, ..Options::from_env() }, context).await?;
    let show = |title: &str, times: Vec<KernelTime>, count: u64| {
        let total: u64 = times.iter().map(|time| time.nanoseconds).sum();
        let calls: u64 = times.iter().map(|time| time.calls).sum();
        println!(
            "-- {title}: {} dispatches, {:.3} ms in kernels",
            calls / count,
            total as f64 / count as f64 / 1e6
        );
        for time in times {
            println!(
                "{:9.3} us x {:4} = {:5.1} %  {}",
                time.nanoseconds as f64 / time.calls as f64 / 1e3,
                time.calls / count,
                time.nanoseconds as f64 / total as f64 * 100.0,
                time.kernel
            );
        }
    };
    let mut chosen = Vec::new();
    for (title, ids) in [("prefill", ids), ("decode", &ids[..1])] {
        let position = if ids.len() == 1 { 128.min(context / 2) } else { 0 };
        for round in 0..4 {
            decoder.run(&Step::single(ids.iter().copied(), position, 1))?;
            decoder.choose(usize::MAX)?;
            decoder.chosen(&mut chosen).await?;
            if round == 0 {
                decoder.kernel_times().await?;
            }
        }
        show(title, decoder.kernel_times().await?, 3);
    }
    Ok(())
}
