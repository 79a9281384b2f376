//! The form in which kernels run: registers and targets as numbers, arithmetic as functions.

use super::parse::Threads;
use super::types::Space;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// One register of a warp's threads. Narrower values are zero-extended.
pub type Row = [u64; LANES];

/// A register's number.
pub type Reg = u32;

/// A function of up to four registers, for all lanes at once; the lanes do not see each other.
pub type Pure = Box<dyn Fn(&[&Row; 4]) -> Row + Send + Sync>;

/// A function of what memory holds and of two operands: what memory holds after it.
pub type Update = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

/// A pure function with its number of operands.
pub struct Function {
    pub operands: usize,
    pub apply: Pure,
}

pub fn one(f: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Function {
    Function { operands: 1, apply: Box::new(move |s| std::array::from_fn(|i| f(s[0][i]))) }
}

pub fn two(f: impl Fn(u64, u64) -> u64 + Send + Sync + 'static) -> Function {
    Function { operands: 2, apply: Box::new(move |s| std::array::from_fn(|i| f(s[0][i], s[1][i]))) }
}

pub fn three(f: impl Fn(u64, u64, u64) -> u64 + Send + Sync + 'static) -> Function {
    Function { operands: 3, apply: Box::new(move |s| std::array::from_fn(|i| f(s[0][i], s[1][i], s[2][i]))) }
}

pub fn four(f: impl Fn(u64, u64, u64, u64) -> u64 + Send + Sync + 'static) -> Function {
    Function {
        operands: 4,
        apply: Box::new(move |s| std::array::from_fn(|i| f(s[0][i], s[1][i], s[2][i], s[3][i]))),
    }
}

/// A register that holds the same during a block's life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Constant {
    Bits(u64),
    /// The generic address of a variable of the module (by index), plus an offset.
    Variable(usize, i64),
    /// The place in shared memory where what the launch asks for begins, plus an offset.
    DynamicShared(i64),
    /// The address of the kernel's parameters, plus an offset.
    Params(i64),
    Special(Special, usize),
}

/// What a special register holds; those with three parts are followed by which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Thread,
    BlockSize,
    Block,
    GridSize,
    Lane,
    Warp,
    Warps,
    MaskEqual,
    MaskBelow,
    MaskUpTo,
    MaskFrom,
    MaskAbove,
    DynamicSharedSize,
    SharedSize,
    Zero,
    One,
}

/// Where memory is accessed.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub space: Space,
    pub base: Reg,
    pub offset: i64,
    /// Strong accesses (volatile, relaxed and above, atomic) do not race with each other.
    pub strong: bool,
    /// Read through the cache for data that is constant (`.nc`).
    pub cached: bool,
}

/// How threads of a warp vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// From which lane a shuffle reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a barrier computes from its threads' predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    Count,
    And,
    Or,
}

/// The numbers in the fragments of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

/// `d = a * b + c` for a warp; a is m x k, b k x n with n = 8.
#[derive(Clone, Debug)]
pub struct Product {
    pub m: usize,
    pub k: usize,
    pub left: Element,
    pub right: Element,
    /// Sums are kept in halves.
    pub half_sums: bool,
    /// Integer sums are clamped to their range.
    pub clamp: bool,
    pub d: Vec<Reg>,
    pub a: Vec<Reg>,
    pub b: Vec<Reg>,
    pub c: Vec<Reg>,
}

/// What four warps do together.
pub enum Collective {
    /// Accesses to registers of sums are ordered before the products that follow.
    Fence,
    /// The products since the last one are a group.
    Commit,
    /// Until no more than so many groups are under way.
    Wait(usize),
    Multiply(Box<WarpgroupProduct>),
}

/// `d = a * b * factor + d` for four warps; a is 64 x 16 and b 16 x `columns`, in shared memory.
pub struct WarpgroupProduct {
    pub columns: usize,
    /// Whether what was in `d` is added.
    pub adds: Reg,
    pub factor: f64,
    pub d: Vec<Reg>,
    /// Descriptors of the factors.
    pub a: Reg,
    pub b: Reg,
}

pub enum Op {
    Pure {
        apply: Pure,
        d: Reg,
        s: [Reg; 4],
    },
    /// `bytes` each into the registers `d`, sign-extended from there to `extend` bits.
    Load {
        at: Place,
        bytes: u64,
        extend: Option<u32>,
        d: Vec<Reg>,
    },
    Store {
        at: Place,
        bytes: u64,
        s: Vec<Reg>,
    },
    /// What was there before goes to `d`.
    Atomic {
        at: Place,
        bytes: u64,
        update: Update,
        d: Option<Reg>,
        s: [Reg; 2],
    },
    /// From global to shared memory, later; of `bytes`, those from `size` on become zero.
    CopyAsync {
        to: Place,
        from: Place,
        bytes: u64,
        size: Option<Reg>,
    },
    CopyCommit,
    /// Until no more than so many groups are under way.
    CopyWait(usize),
    Branch(usize),
    BranchTable {
        index: Reg,
        targets: Vec<usize>,
    },
    Exit,
    Barrier {
        id: Reg,
        threads: Option<Reg>,
        wait: bool,
        reduce: Option<(Reduction, Reg, Reg)>,
    },
    WarpSync {
        mask: Reg,
    },
    Shuffle {
        mode: Shuffle,
        d: Reg,
        p: Option<Reg>,
        s: [Reg; 3],
        mask: Reg,
    },
    Vote {
        vote: Vote,
        d: Reg,
        p: Reg,
        mask: Reg,
    },
    /// All named lanes get the same: the update, folded over theirs.
    Reduce {
        fold: Update,
        d: Reg,
        s: Reg,
        mask: Reg,
    },
    /// The lanes that hold the same value; `all`: the mask if it is the same in all of them, with that in `p`.
    Match {
        all: bool,
        bits: u32,
        d: Reg,
        p: Option<Reg>,
        s: Reg,
        mask: Reg,
    },
    ActiveMask {
        d: Reg,
    },
    LoadMatrix {
        at: Place,
        transposed: bool,
        d: Vec<Reg>,
    },
    StoreMatrix {
        at: Place,
        transposed: bool,
        s: Vec<Reg>,
    },
    TransposeMatrix {
        d: Reg,
        s: Reg,
    },
    Product(Box<Product>),
    Warpgroup(Collective),
    /// What the thread wrote to shared memory is shown to asynchronous readers.
    ProxyFence,
    /// In which space an address lies.
    IsSpace {
        space: Space,
        d: Reg,
        s: Reg,
    },
    /// Steps that the warp made.
    Clock {
        d: Reg,
        bits: u32,
    },
    /// What the block wrote becomes visible to others.
    Fence,
    /// Hints, and fences within a block: nothing to do where memory has one order.
    Nothing,
    /// A trap, with its reason.
    Trap(String),
    /// An instruction that the interpreter does not know, with the reason.
    Unknown(String),
}

pub struct Inst {
    pub line: u32,
    /// A predicate, and whether it is negated.
    pub guard: Option<(Reg, bool)>,
    pub op: Op,
    /// Registers that it accesses, of those in which products of warpgroups add up.
    pub sums: Vec<Reg>,
}

impl Op {
    /// The registers that it reads and writes, but for those in which products of warpgroups add up.
    pub fn registers(&self) -> Vec<Reg> {
        let bases = |places: &[&Place]| places.iter().map(|at| at.base).collect::<Vec<_>>();
        match self {
            Self::Pure { d, s, .. } => [*d].iter().chain(s).copied().collect(),
            Self::Load { at, d, .. } | Self::LoadMatrix { at, d, .. } => [&bases(&[at])[..], d].concat(),
            Self::Store { at, s, .. } | Self::StoreMatrix { at, s, .. } => [&bases(&[at])[..], s].concat(),
            Self::Atomic { at, d, s, .. } => [&bases(&[at])[..], s, d.as_slice()].concat(),
            Self::CopyAsync { to, from, size, .. } => [&bases(&[to, from])[..], size.as_slice()].concat(),
            Self::BranchTable { index, .. } => vec![*index],
            Self::Barrier { id, threads, reduce, .. } => {
                let reduced = reduce.iter().flat_map(|(_, d, p)| [*d, *p]);
                threads.iter().copied().chain(reduced).chain([*id]).collect()
            }
            Self::WarpSync { mask } => vec![*mask],
            Self::Shuffle { d, p, s, mask, .. } => [&[*d, *mask][..], s, p.as_slice()].concat(),
            Self::Vote { d, p, mask, .. } => vec![*d, *p, *mask],
            Self::Reduce { d, s, mask, .. } => vec![*d, *s, *mask],
            Self::Match { d, p, s, mask, .. } => [&[*d, *s, *mask][..], p.as_slice()].concat(),
            Self::ActiveMask { d } | Self::Clock { d, .. } => vec![*d],
            Self::TransposeMatrix { d, s } | Self::IsSpace { d, s, .. } => vec![*d, *s],
            Self::Product(product) => {
                let Product { d, a, b, c, .. } = &**product;
                [&d[..], a, b, c].concat()
            }
            Self::Warpgroup(Collective::Multiply(product)) => vec![product.a, product.b, product.adds],
            Self::Warpgroup(_)
            | Self::CopyCommit
            | Self::CopyWait(_)
            | Self::Branch(_)
            | Self::Exit
            | Self::ProxyFence
            | Self::Fence
            | Self::Nothing
            | Self::Trap(_)
            | Self::Unknown(_) => Vec::new(),
        }
    }
}

/// A variable in shared memory: its first byte and the one behind its last.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub start: u64,
    pub end: u64,
}

/// A kernel, ready to run.
pub struct Kernel {
    pub code: Vec<Inst>,
    pub registers: usize,
    pub constants: Vec<(Reg, Constant)>,
    pub params: u64,
    pub shared: Vec<Extent>,
    /// Where dynamic shared memory begins.
    pub shared_end: u64,
    /// The smallest access to memory, in bytes.
    pub granule: u64,
    /// Bytes of each thread's local memory.
    pub local: u64,
    pub threads: Option<Threads>,
    /// What dynamic shared memory begins at a multiple of.
    pub dynamic_align: u64,
    /// Whether it has products of warpgroups.
    pub warpgroups: bool,
}
