//! An operation that fails leaves the device ready for the next request.

use super::blocks::tests::encoded;
use super::*;
use crate::backend::op::Operation;
use crate::backend::op::{
    Activate, Activation, Attend, Attention, Embed, Gate, Heads, KvCache, Project, ProjectAdd, Rope,
    RopePairing, Score,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

const WIDTH: usize = 64;
const ROWS: usize = 3;
const HEADS: Heads = Heads { query: 4, kv: 4, size: WIDTH / 4 };
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
        let mut program = Program::default();
        let (weight, scale) = (program.matrix(WIDTH, WIDTH, TensorType::F32), program.vector(WIDTH));
        let buffers = [(); 4].map(|()| program.buffer(ROWS, WIDTH));
        let cache = program.cache(1, HEADS);
        let mut cpu = Cpu::with_threads(NonZeroUsize::new(2));
        cpu.prepare(&Rc::new(program)).unwrap();
        cpu.write_rows(weight, 0, &encoded::<f32>(WIDTH, WIDTH)).unwrap();
        cpu.write_vector(scale, &[0.5; WIDTH]).unwrap();
        let how = Arc::<AtomicU8>::default();
        let matrix = cpu.matrices.pop().unwrap();
        let blocks = Box::new(Failing { blocks: matrix.blocks, how: how.clone() });
        cpu.matrices.push(WeightMatrix { blocks, ..matrix });
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
        let Bench { linear, norm, cache, buffers: [x, a, b, c], .. } = self;
        let (x, a, b, c, linear, norm) = (*x, *a, *b, *c, *linear, *norm);
        let (gate, up, softcap) = (linear, linear, Some(3.0));
        let outputs = vec![(linear, a), (linear, b), (linear, c)];
        let tried: Operation = match operation {
            0 => Project { x, norm: Some(norm), outputs }.into(),
            1 => Project { x, norm: None, outputs }.into(),
            2 => ProjectAdd { input: a, linear, norm: None, x }.into(),
            3 => ProjectAdd { input: a, linear, norm: Some(norm), x }.into(),
            4 => Gate { x, norm: Some(norm), gate, up, activation: Activation::Silu, out: b }.into(),
            5 => Gate { x, norm: None, gate, up, activation: Activation::Gelu, out: b }.into(),
            6 => Activate { x, norm: Some(norm), up, activation: Activation::Gelu, out: b }.into(),
            7 => Activate { x, norm: None, up, activation: Activation::Silu, out: b }.into(),
            _ => Score { x, norm, head: linear, softcap, out: b }.into(),
        };
        let attend = Attend {
            query: a,
            key: b,
            value: c,
            norms: None,
            norms_rotated: false,
            rope: Rope { pairing: RopePairing::Halves, frequencies: vec![0.1; WIDTH / 8], magnitude: 1.0 },
            cache: *cache,
            attention: Attention { heads: HEADS, scale: 0.25, softcap: None, window: None, causal: true },
            out: x,
        };
        let embed = Embed { table: linear.weight, scale: 1.0, out: x };
        let mut program = (*self.cpu.program).clone();
        program.operations = vec![embed.into(), tried, attend.into()];
        self.cpu.prepare(&Rc::new(program))?;
        self.cpu.run(&Step::single([1, 2, 3], 0, 1))
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
