//! What operations work on: handles of what a program declares, and small descriptions.

/// Activations: `rows × width` numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer(pub(crate) usize);

/// A weight matrix of `rows × columns`, applied as `y = W·x`: `columns` in, `rows` out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix(pub(crate) usize);

/// A weight vector: a norm's scale or a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector(pub(crate) usize);

/// The keys and values of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCache(pub(crate) usize);

/// What a recurrent layer remembers of each sequence: so many numbers, however long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(pub(crate) usize);

/// A matrix with its bias: `y = W·x + b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    /// `out × in`.
    pub weight: Matrix,
    /// `out`.
    pub bias: Option<Vector>,
}

/// A norm over a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Which one.
    pub kind: NormKind,
    /// One number a column.
    pub scale: Vector,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm: `y = x / sqrt(mean(x²) + epsilon) · scale`.
    Rms,
    /// LayerNorm: `y = c / sqrt(mean(c²) + epsilon) · scale + bias` of the centred `c = x − mean(x)`.
    Layer {
        /// One number a column.
        bias: Vector,
    },
}

impl Norm {
    /// RMSNorm.
    pub fn rms(scale: Vector, epsilon: f32) -> Norm {
        Norm { kind: NormKind::Rms, scale, epsilon }
    }

    /// LayerNorm.
    pub fn layer(scale: Vector, bias: Vector, epsilon: f32) -> Norm {
        Norm { kind: NormKind::Layer { bias }, scale, epsilon }
    }
}

/// Rotary position embedding: element pairs of a head are rotated by `position · frequency`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which elements form a pair.
    pub pairing: RopePairing,
    /// Radians a position, one for each pair. Heads may be longer than twice this; the rest stays.
    pub frequencies: Vec<f32>,
    /// Multiplies sine and cosine (YaRN's and LongRoPE's attention factor).
    pub magnitude: f32,
}

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// (0,1), (2,3), …: llama. ggml calls it "norm".
    Interleaved,
    /// (0,n/2), (1,n/2+1), …: GPT-NeoX and most others.
    Halves,
}

/// Sizes of a layer's attention, in heads and in elements of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; divides `query`.
    pub kv: usize,
    /// Elements of a head.
    pub size: usize,
}

/// How a router's scores become weights of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// Each score by itself.
    Sigmoid,
    /// Softmax over those that are chosen.
    SoftmaxOfChosen,
}

/// Sizes of a gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeads {
    /// Heads of queries and keys; divides `value`.
    pub key: usize,
    /// Heads of values. Head `i` has the query and key of head `i mod key`.
    pub value: usize,
    /// Elements of a head.
    pub size: usize,
}

impl DeltaHeads {
    /// Of queries, keys and values together.
    pub fn width(&self) -> usize {
        self.key.saturating_mul(2).saturating_add(self.value).saturating_mul(self.size)
    }

    /// Numbers that a sequence's state has: a matrix for each value head.
    pub fn state(&self) -> usize {
        self.value.saturating_mul(self.size).saturating_mul(self.size)
    }
}

/// Sizes of a selective scan (Mamba 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanHeads {
    /// How many there are.
    pub count: usize,
    /// Elements of a head.
    pub size: usize,
    /// Heads of a group share what goes into their states and out of them; divides `count`.
    pub groups: usize,
    /// Numbers of the state for each element.
    pub state: usize,
}

impl ScanHeads {
    /// Of all heads.
    pub fn inner(&self) -> usize {
        self.count * self.size
    }

    /// With the inputs and outputs of the states.
    pub fn width(&self) -> usize {
        self.inner().saturating_add(self.groups.saturating_mul(2).saturating_mul(self.state))
    }
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Heads and their size.
    pub heads: Heads,
    /// Multiplies `q·k`.
    pub scale: f32,
    /// `s ← cap · tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// A token sees itself and the `window − 1` tokens before it; without a window, all before it.
    pub window: Option<usize>,
    /// Whether a token sees none after it. Otherwise it sees all of its step too, and there is no window.
    pub causal: bool,
}

/// The nonlinearity of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU, tanh approximation.
    Gelu,
    /// GELU as it is defined: `x · Φ(x)`.
    GeluErf,
    /// `max(x, 0)²`.
    SquaredRelu,
}
