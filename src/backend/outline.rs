//! A device that runs nothing and writes down what it is asked for: so a model says what it needs of a
//! device before any of its weights are read.

use super::{
    Activation, Attention, Backend, Buffer, Heads, KvCache, Linear, Matrix, Norm, NormKind, Rope, Tokens,
    Top, Vector, Wanted,
};
use crate::format::gguf::TensorType;
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::rc::Rc;

/// What a model will ask of a device.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Every matrix.
    pub matrices: Vec<Shape>,
    /// Tokens and heads of each KV cache.
    pub caches: Vec<(usize, Heads)>,
    /// What a step does: every operation once, and how often it does it.
    pub operations: Vec<(Operation, usize)>,
}

/// A matrix: `rows × columns`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Out.
    pub rows: usize,
    /// In.
    pub columns: usize,
    /// How it is stored.
    pub kind: TensorType,
}

impl Shape {
    /// Bytes in a file.
    pub fn size(&self) -> u64 {
        let (block_len, block_size) = self.kind.block();
        self.rows as u64 * (self.columns as u64 / block_len * block_size)
    }
}

/// A matrix, and whether a bias comes with it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearShape {
    /// The matrix.
    pub weight: Shape,
    /// Whether there is one.
    pub bias: bool,
}

/// A norm without its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormShape {
    /// LayerNorm, else RMSNorm.
    pub layer: bool,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl From<&Norm> for NormShape {
    fn from(norm: &Norm) -> Self {
        NormShape { layer: norm.kind != NormKind::Rms, epsilon: norm.epsilon }
    }
}

/// A method of [`Backend`] with the sizes that a model calls it with. An `epsilon` is an RMSNorm's.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields are the methods' arguments")]
pub enum Operation {
    Embed {
        table: Shape,
        scale: f32,
    },
    AddRows {
        table: Shape,
    },
    Norm {
        norm: NormShape,
        width: usize,
    },
    Project {
        norm: Option<NormShape>,
        outputs: Vec<LinearShape>,
    },
    ProjectAdd {
        linear: LinearShape,
        epsilon: Option<f32>,
    },
    /// `rotate_and_store` and `attend` over the same cache.
    Attend {
        epsilons: Option<[f32; 2]>,
        rope: Rope,
        attention: Attention,
    },
    Gate {
        norm: Option<NormShape>,
        gate_up: [LinearShape; 2],
        activation: Activation,
    },
    Activate {
        norm: Option<NormShape>,
        up: LinearShape,
        activation: Activation,
    },
    Logits {
        norm: NormShape,
        head: LinearShape,
        softcap: Option<f32>,
    },
    /// `choose` and `top_k`.
    Choose {
        len: usize,
    },
}

/// See the module.
pub(crate) struct Outline {
    needs: Rc<RefCell<Needs>>,
    /// Numbers of each.
    vectors: Vec<usize>,
    buffers: usize,
    /// What was last stored in a cache, by its index.
    stored: Vec<Option<(Option<[f32; 2]>, Rope)>>,
}

impl Outline {
    /// An outline, and what it will have written down.
    pub(crate) fn new() -> (Outline, Rc<RefCell<Needs>>) {
        let needs = Rc::<RefCell<Needs>>::default();
        (Outline { needs: needs.clone(), vectors: Vec::new(), buffers: 0, stored: Vec::new() }, needs)
    }

    fn shape(&self, matrix: Matrix) -> Shape {
        self.needs.borrow().matrices[matrix.0]
    }

    fn linear(&self, linear: &Linear) -> LinearShape {
        LinearShape { weight: self.shape(linear.weight), bias: linear.bias.is_some() }
    }

    fn add(&mut self, operation: Operation) -> Result<()> {
        let operations = &mut self.needs.borrow_mut().operations;
        match operations.iter_mut().find(|(known, _)| *known == operation) {
            Some((_, count)) => *count += 1,
            None => operations.push((operation, 1)),
        }
        Ok(())
    }
}

impl Backend for Outline {
    fn device(&self) -> &'static str {
        "none"
    }

    fn wants_weights(&self) -> bool {
        false
    }

    fn prefill_rows(&self) -> usize {
        1
    }

    fn matrix(&mut self, rows: usize, columns: usize, kind: TensorType) -> Result<Matrix> {
        let matrices = &mut self.needs.borrow_mut().matrices;
        matrices.push(Shape { rows, columns, kind });
        Ok(Matrix(matrices.len() - 1))
    }

    fn write_rows(&mut self, _: Matrix, _: usize, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn vector(&mut self, len: usize) -> Result<Vector> {
        self.vectors.push(len);
        Ok(Vector(self.vectors.len() - 1))
    }

    fn write_vector(&mut self, _: Vector, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn buffer(&mut self, _: usize, _: usize) -> Result<Buffer> {
        self.buffers += 1;
        Ok(Buffer(self.buffers - 1))
    }

    fn write(&mut self, _: Buffer, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn kv_cache(&mut self, context: usize, heads: Heads) -> Result<KvCache> {
        self.needs.borrow_mut().caches.push((context, heads));
        self.stored.push(None);
        Ok(KvCache(self.stored.len() - 1))
    }

    fn embed(&mut self, _: Tokens, table: Matrix, scale: f32, _: Buffer) -> Result<()> {
        self.add(Operation::Embed { table: self.shape(table), scale })
    }

    fn add_rows(&mut self, _: usize, _: usize, table: Matrix, _: Buffer) -> Result<()> {
        self.add(Operation::AddRows { table: self.shape(table) })
    }

    fn norm(&mut self, _: usize, _: Buffer, norm: &Norm, _: Buffer) -> Result<()> {
        let width = self.vectors[norm.scale.0];
        self.add(Operation::Norm { norm: norm.into(), width })
    }

    fn project(
        &mut self,
        _: usize,
        _: Buffer,
        norm: Option<&Norm>,
        outputs: &[(Linear, Buffer)],
    ) -> Result<()> {
        let outputs = outputs.iter().map(|(linear, _)| self.linear(linear)).collect();
        self.add(Operation::Project { norm: norm.map(NormShape::from), outputs })
    }

    fn project_add(
        &mut self,
        _: usize,
        _: Buffer,
        linear: &Linear,
        norm: Option<&Norm>,
        _: Buffer,
    ) -> Result<()> {
        let linear = self.linear(linear);
        self.add(Operation::ProjectAdd { linear, epsilon: norm.map(|norm| norm.epsilon) })
    }

    fn rotate_and_store(
        &mut self,
        _: usize,
        _: usize,
        _: [Buffer; 3],
        _: Heads,
        norms: Option<&[Norm; 2]>,
        rope: &Rope,
        cache: KvCache,
    ) -> Result<()> {
        let epsilons = norms.map(|norms| [norms[0].epsilon, norms[1].epsilon]);
        self.stored[cache.0] = Some((epsilons, rope.clone()));
        Ok(())
    }

    fn attend(
        &mut self,
        _: usize,
        _: usize,
        _: Buffer,
        cache: KvCache,
        attention: &Attention,
        _: Buffer,
    ) -> Result<()> {
        let stored = self.stored[cache.0].clone();
        let (epsilons, rope) = stored.ok_or_else(|| Error::internal("attention over an empty cache"))?;
        self.add(Operation::Attend { epsilons, rope, attention: *attention })
    }

    fn gate(
        &mut self,
        _: usize,
        _: Buffer,
        norm: Option<&Norm>,
        gate_up: [&Linear; 2],
        activation: Activation,
        _: Buffer,
    ) -> Result<()> {
        let gate_up = gate_up.map(|linear| self.linear(linear));
        self.add(Operation::Gate { norm: norm.map(NormShape::from), gate_up, activation })
    }

    fn activate(
        &mut self,
        _: usize,
        _: Buffer,
        norm: Option<&Norm>,
        up: &Linear,
        activation: Activation,
        _: Buffer,
    ) -> Result<()> {
        let up = self.linear(up);
        self.add(Operation::Activate { norm: norm.map(NormShape::from), up, activation })
    }

    fn logits(
        &mut self,
        _: usize,
        _: Buffer,
        norm: &Norm,
        head: &Linear,
        softcap: Option<f32>,
        _: Buffer,
    ) -> Result<()> {
        let head = self.linear(head);
        self.add(Operation::Logits { norm: norm.into(), head, softcap })
    }

    fn choose(&mut self, _: Buffer, len: usize) -> Result<()> {
        self.add(Operation::Choose { len })
    }

    fn chosen(&mut self) -> LocalBoxFuture<'_, Result<u32>> {
        Box::pin(std::future::ready(Err(Error::internal("an outline chooses nothing"))))
    }

    fn top_k<'a>(
        &'a mut self,
        _: Buffer,
        _: usize,
        _: &'a Wanted,
        _: &'a mut Top,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Err(Error::internal("an outline holds no scores"))))
    }

    fn read<'a>(&'a mut self, _: Buffer, _: usize, _: &'a mut Vec<f32>) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Err(Error::internal("an outline holds no numbers"))))
    }
}
