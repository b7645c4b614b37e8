//! The GPU and the CPU with the same program and the same random numbers.

use candlewick::backend::cpu::Cpu;
use candlewick::backend::gpu::{Gpu, Options};
use candlewick::backend::op::{Buffer, Embed, Linear, Matrix, Norm, Operation, Score, Vector};
use candlewick::backend::{Backend, Program, Random, Step};
use candlewick::format::gguf::TensorType;
use std::rc::Rc;

/// Every variant of the kernels that this device can run.
pub(crate) fn variants() -> Vec<(&'static str, Options)> {
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
pub(crate) fn weights(random: &mut Random, kind: TensorType, rows: usize, columns: usize) -> Vec<u8> {
    random.weights(kind, rows * columns, |random| match random.any() % 8 {
        0 if kind != TensorType::F32 => 1e-3,
        _ => 1.0,
    })
}

/// The same on both devices.
pub(crate) struct Pair {
    pub(crate) cpu: Cpu,
    pub(crate) gpu: Gpu,
    pub(crate) program: Program,
    pub(crate) random: Random,
    pub(crate) what: String,
}

impl Pair {
    pub(crate) fn new(variant: &str, options: &Options) -> Pair {
        Pair {
            cpu: Cpu::reference(),
            gpu: pollster::block_on(Gpu::open(options.clone())).unwrap(),
            program: Program::default(),
            random: Random(0x1234_5678_9abc_def1),
            what: variant.to_owned(),
        }
    }

    pub(crate) fn both<T: PartialEq + std::fmt::Debug>(
        &mut self,
        mut call: impl FnMut(&mut dyn Backend) -> T,
    ) -> T {
        let ours = call(&mut self.gpu);
        assert_eq!(call(&mut self.cpu), ours, "{}", self.what);
        ours
    }

    /// Makes room for what was declared since the last time, and takes over the operations.
    pub(crate) fn prepare(&mut self) {
        let program = Rc::new(self.program.clone());
        self.both(|b| b.prepare(&program).unwrap());
    }

    pub(crate) fn matrix(&mut self, kind: TensorType, rows: usize, columns: usize) -> Matrix {
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

    pub(crate) fn vector(&mut self, len: usize) -> Vector {
        let values = self.random.numbers(len);
        let vector = self.program.vector(len);
        self.prepare();
        self.both(|b| b.write_vector(vector, &values).unwrap());
        vector
    }

    pub(crate) fn norm(&mut self, len: usize) -> Norm {
        Norm::rms(self.vector(len), 1e-5)
    }

    pub(crate) fn linear(&mut self, kind: TensorType, rows: usize, columns: usize) -> Linear {
        let bias = self.random.any().is_multiple_of(2);
        Linear { weight: self.matrix(kind, rows, columns), bias: bias.then(|| self.vector(rows)) }
    }

    pub(crate) fn empty(&mut self, rows: usize, width: usize) -> Buffer {
        let buffer = self.program.buffer(rows, width);
        self.prepare();
        buffer
    }

    /// `rows × width` random numbers.
    pub(crate) fn filled(&mut self, rows: usize, width: usize) -> Buffer {
        let buffer = self.empty(rows, width);
        self.fill(buffer, rows, width);
        buffer
    }

    pub(crate) fn fill(&mut self, buffer: Buffer, rows: usize, width: usize) {
        let numbers = self.random.numbers(rows * width);
        self.both(|b| b.write(buffer, &numbers).unwrap());
    }

    /// An operation for the rows of a step.
    pub(crate) fn step(&mut self, operation: impl Into<Operation>, step: &Step) {
        self.program.operations = vec![operation.into()];
        self.prepare();
        self.both(|b| b.run(step).unwrap());
    }

    /// An operation for `rows` rows.
    pub(crate) fn run(&mut self, rows: usize, operation: impl Into<Operation>) {
        self.step(operation, &Step::single(vec![0; rows], 0, 0));
    }

    /// The scores of the last `scored` of `rows` rows.
    pub(crate) fn score(&mut self, rows: usize, scored: usize, operation: Score) {
        self.step(operation, &Step::single(vec![0; rows], 0, scored));
    }

    pub(crate) fn embed(&mut self, ids: &[u32], table: Matrix, scale: f32, out: Buffer) {
        self.step(Embed { table, scale, out }, &Step::single(ids.iter().copied(), 0, 0));
    }

    /// Compares a buffer; what was summed over differs in its last bits, and by more where `tolerance` says so.
    pub(crate) fn compare(&mut self, name: &str, buffer: Buffer, len: usize, tolerance: f32) {
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
