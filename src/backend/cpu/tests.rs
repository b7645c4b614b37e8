//! An operation that fails leaves the device ready for the next request.

use super::blocks::tests::encoded;
use super::*;
use crate::backend::RopePairing;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

const WIDTH: usize = 64;
const ROWS: usize = 3;
/// What a product does.
const RIGHT: u8 = 0;
const WRONG: u8 = 1;
const PANIC: u8 = 2;

/// A matrix whose products fail as long as it is told to.
struct Failing {
    blocks: Box<dyn Blocks>,
    how: Arc<AtomicU8>,
}

impl Blocks for Failing {
    fn write_rows(&mut self, pool: &Pool, first: usize, bytes: &[u8]) -> Result<()> {
        self.blocks.write_rows(pool, first, bytes)
    }

    fn multiply(
        &self,
        pool: &Pool,
        rows: usize,
        input: &[f32],
        rounded: &mut Input,
        out: &mut [f32],
    ) -> Result<()> {
        match self.how.load(Relaxed) {
            RIGHT => self.blocks.multiply(pool, rows, input, rounded, out),
            WRONG => Err(no_memory(WIDTH)),
            _ => pool.each(1, 1, |_| panic!("this panic is part of a test")),
        }
    }

    fn row(&self, index: usize, out: &mut [f32]) {
        self.blocks.row(index, out);
    }
}

/// A device with a matrix that fails on demand.
struct Bench {
    cpu: Cpu,
    how: Arc<AtomicU8>,
    linear: Linear,
    norm: Norm,
    cache: KvCache,
    buffers: [Buffer; 4],
}

impl Bench {
    fn new() -> Bench {
        let mut cpu = Cpu::with_threads(NonZeroUsize::new(2));
        let weight = cpu.matrix(WIDTH, WIDTH, TensorType::F32).unwrap();
        cpu.write_rows(weight, 0, &encoded::<f32>(WIDTH, WIDTH)).unwrap();
        let how = Arc::<AtomicU8>::default();
        let matrix = cpu.matrices.pop().unwrap();
        let blocks = Box::new(Failing { blocks: matrix.blocks, how: how.clone() });
        cpu.matrices.push(WeightMatrix { blocks, ..matrix });
        let scale = cpu.vector(WIDTH).unwrap();
        cpu.write_vector(scale, &[0.5; WIDTH]).unwrap();
        let buffers = [(); 4].map(|()| cpu.buffer(ROWS, WIDTH).unwrap());
        let cache = cpu.kv_cache(8, Heads { query: 4, kv: 4, size: WIDTH / 4 }).unwrap();
        Bench {
            how,
            linear: Linear { weight, bias: None },
            norm: Norm::rms(scale, 1e-5),
            cache,
            buffers,
            cpu,
        }
    }

    /// What one step gives; each of its products may fail.
    fn step(&mut self, operation: usize) -> Result<()> {
        let Bench { cpu, linear, norm, cache, buffers: [x, a, b, c], .. } = self;
        let (x, a, b, c, linear) = (*x, *a, *b, *c, *linear);
        let heads = Heads { query: 4, kv: 4, size: WIDTH / 4 };
        let attention = Attention { heads, scale: 0.25, softcap: None, window: None, causal: true };
        let rope = Rope { pairing: RopePairing::Halves, frequencies: vec![0.1; WIDTH / 8], magnitude: 1.0 };
        cpu.embed(Tokens::Known(&[1, 2, 3]), linear.weight, 1.0, x)?;
        match operation {
            0 => cpu.project(ROWS, x, Some(norm), &[(linear, a), (linear, b), (linear, c)])?,
            1 => cpu.project(ROWS, x, None, &[(linear, a), (linear, b), (linear, c)])?,
            2 => cpu.project_add(ROWS, a, &linear, None, x)?,
            3 => cpu.project_add(ROWS, a, &linear, Some(norm), x)?,
            4 => cpu.gate(ROWS, x, Some(norm), [&linear, &linear], Activation::Silu, b)?,
            5 => cpu.gate(ROWS, x, None, [&linear, &linear], Activation::Gelu, b)?,
            6 => cpu.activate(ROWS, x, Some(norm), &linear, Activation::Gelu, b)?,
            7 => cpu.activate(ROWS, x, None, &linear, Activation::Silu, b)?,
            _ => cpu.logits(1, x, norm, &linear, Some(3.0), b)?,
        }
        cpu.rotate_and_store(0, ROWS, [a, b, c], heads, None, &rope, *cache)?;
        cpu.attend(0, ROWS, a, *cache, &attention, x)
    }

    fn all(&self) -> Vec<Vec<f32>> {
        self.cpu.buffers.clone()
    }
}

#[test]
fn the_next_request_finds_all_in_place() {
    for operation in 0..9 {
        let mut sound = Bench::new();
        sound.step(operation).unwrap();
        for how in [WRONG, PANIC] {
            let mut bench = Bench::new();
            for _ in 0..2 {
                bench.how.store(how, Relaxed);
                let error = bench.step(operation).unwrap_err();
                let code = if how == WRONG { "resource_exhausted" } else { "internal" };
                assert_eq!(error.code.as_str(), code, "operation {operation}: {error}");
            }
            bench.how.store(RIGHT, Relaxed);
            bench.step(operation).unwrap();
            assert!(bench.all() == sound.all(), "operation {operation} after failure {how}");
            assert!(bench.all().iter().flatten().all(|value| value.is_finite()));
        }
    }
}
