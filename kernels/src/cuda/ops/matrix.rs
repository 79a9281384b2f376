//! Matrix products.

use super::{COLUMNS, Norm, activation_number, check};
use crate::cuda::{Address, Arg, Error, Launch, Properties};
use crate::ops::Activation;
use crate::quant::{Dot, Type};

/// A matrix of weights.
#[derive(Debug, Clone, Copy, Default)]
pub struct Matrix {
    /// Its rows, as in a file.
    pub data: Address,
    /// f32: the factor of the matrix, or one of each expert's; optional.
    pub scale: Address,
    /// f32: what each row gains, optional.
    pub bias: Address,
}

/// What becomes of products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Epilogue {
    /// They are stored.
    Store,
    /// What there was gains this many times them.
    Add(f32),
    /// Their activation is stored.
    Activate(Activation),
    /// The activation of the first matrix's products times those of the second.
    Gated(Activation),
}

/// Column c takes matrix `ids[c]`, which begins `rows` rows after the one before, and activations `c / share`.
#[derive(Debug, Clone, Copy)]
pub struct ExpertsOf {
    /// u32 (columns).
    pub ids: Address,
    /// Rows from one expert to the next.
    pub rows: u32,
    /// Neighbouring columns that have the same activations.
    pub share: u32,
}

/// Whole columns of the results, normalized and quantized, once all are there.
#[derive(Debug, Clone, Copy)]
pub struct Then {
    /// How they are normalized.
    pub norm: Norm,
    /// Quantized (columns, rows).
    pub q8: Address,
    /// u32, 0; it is 0 afterwards.
    pub counter: Address,
}

/// Few columns of activations times a matrix, or times two of one type and shape, limited by the speed of memory.
#[derive(Debug, Clone, Copy)]
pub struct Matvec {
    /// Type of the weights.
    pub ty: Type,
    /// The matrices; the second one for [`Epilogue::Gated`] alone.
    pub w: [Matrix; 2],
    /// Quantized activations (columns, k); f32 for F32, F16 and BF16.
    pub x: Address,
    /// Values in a row.
    pub k: u32,
    /// Rows of the matrix.
    pub rows: u32,
    /// Columns of activations.
    pub columns: u32,
    /// Which matrices, where there are several.
    pub experts: Option<ExpertsOf>,
    /// What becomes of the products.
    pub epilogue: Epilogue,
    /// f32 (columns, y_stride); optional where activations are quantized.
    pub y: Address,
    /// Distance of columns in y.
    pub y_stride: u32,
    /// Quantized results (columns, rows) of activations, optional.
    pub q8: Address,
    /// What follows.
    pub then: Option<Then>,
}

impl Matvec {
    /// Its launch.
    ///
    /// # Errors
    /// There is no kernel for the type, rows are not whole blocks, or results that are quantized are not.
    pub fn launch(&self) -> Result<Launch, Error> {
        let Matvec { ty, k, rows, columns, .. } = *self;
        let row_bytes = ty.row_bytes(k as usize).map(|bytes| bytes as u64);
        let Some(row_bytes) = row_bytes.filter(|_| ty.scalar().is_some() && k > 0) else {
            return Err(Error::Operands(format!("rows of {k} values in {ty}")));
        };
        check(row_bytes * u64::from(rows) < 1 << 40 && rows <= 1 << 30 && k <= 1 << 30, || {
            format!("a matrix of {rows} rows of {k}")
        })?;
        let activates = matches!(self.epilogue, Epilogue::Activate(_) | Epilogue::Gated(_));
        let quantizes = self.q8 != Address::NONE || self.then.is_some();
        check(!quantizes || rows.is_multiple_of(32), || format!("{rows} rows cannot be quantized"))?;
        check(activates || self.q8 == Address::NONE, || "only activations are quantized".to_owned())?;
        check(self.y != Address::NONE || (activates && self.q8 != Address::NONE), || {
            "no results".to_owned()
        })?;
        let width = match columns {
            _ if self.experts.is_some() => 1,
            1 => 1,
            2..=4 => 4,
            _ => COLUMNS,
        };
        let (epilogue, activation, factor) = match self.epilogue {
            Epilogue::Store => (0, 0, 1.0),
            Epilogue::Add(factor) => (1, 0, factor),
            Epilogue::Activate(activation) => (2, activation_number(activation)?, 1.0),
            Epilogue::Gated(activation) => (3, activation_number(activation)?, 1.0),
        };
        let [a, b] = self.w;
        let none = ExpertsOf { ids: Address::NONE, rows: 0, share: 1 };
        let experts = self.experts.unwrap_or(none);
        let then =
            self.then.unwrap_or(Then { norm: Norm::default(), q8: Address::NONE, counter: Address::NONE });
        let args: [Arg; 26] = [
            a.data.into(),
            b.data.into(),
            a.scale.into(),
            b.scale.into(),
            a.bias.into(),
            b.bias.into(),
            row_bytes.into(),
            self.x.into(),
            k.into(),
            rows.into(),
            columns.into(),
            experts.ids.into(),
            experts.rows.into(),
            experts.share.into(),
            Arg::U32(epilogue),
            activation.into(),
            factor.into(),
            self.y.into(),
            self.y_stride.into(),
            self.q8.into(),
            (then.norm.kind as u32).into(),
            then.norm.eps.into(),
            then.norm.weight.into(),
            then.norm.bias.into(),
            then.q8.into(),
            then.counter.into(),
        ];
        let name = format!("matvec_{}_{width}", ty.name().to_lowercase());
        Launch::new(&name, [rows.div_ceil(32), columns.div_ceil(width), 1], 512, 0, &args)
    }
}

/// Columns in the order of their experts, of [`super::OrderByExpert`]: matrix e takes the columns `order[starts[e]]` to
/// `order[starts[e + 1]]`, and activations `c / share`.
#[derive(Debug, Clone, Copy)]
pub struct Ordered {
    /// u32 (columns).
    pub order: Address,
    /// u32 (experts + 1).
    pub starts: Address,
    /// How many experts.
    pub experts: u32,
    /// Rows from one to the next.
    pub rows: u32,
    /// Neighbouring columns that have the same activations.
    pub share: u32,
}

/// The tiles of rows and columns in which blocks multiply, and by which instructions. Results differ in the order of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiles {
    /// 128 columns, by products of warps.
    Warps,
    /// As many columns as one of [`Tiles::WIDTHS`] says, by products of warpgroups.
    Warpgroups(u32),
}

impl Tiles {
    /// Rows of a tile.
    const ROWS: u32 = 128;

    /// Columns of tiles for warpgroups.
    pub const WIDTHS: [u32; 3] = [64, 128, 256];

    /// Those in which a matrix of `rows`, or each of some experts', meets its share of `columns` soonest. This is the one
    /// place where that is chosen.
    ///
    /// A step of 64 values takes tensor cores 4 cycles a column, and to unpack 128 rows of it some 650 cycles (330 instructions
    /// of 8 warps, 4 of which begin one in a cycle), beside each other; what is waited for adds some 75. Tiles go to multiprocessors in rounds, the last of which may be
    /// nearly empty: so few columns or rows are better cut into narrow tiles.
    pub fn of(properties: &Properties, rows: u32, columns: u32, experts: u32) -> Tiles {
        if !properties.warpgroups {
            return Tiles::Warps;
        }
        let (each, matrices) = (columns.div_ceil(experts.max(1)), u64::from(experts.max(1)));
        let time = |width: &u32| {
            let tiles = u64::from(rows.div_ceil(Tiles::ROWS)) * u64::from(each.div_ceil(*width)) * matrices;
            let cycles = u64::from((4 * width).max(650) + 75);
            tiles.div_ceil(u64::from(properties.multiprocessors.max(1))) * cycles
        };
        Tiles::Warpgroups(Tiles::WIDTHS.into_iter().min_by_key(time).unwrap_or(64))
    }

    fn columns(self) -> u32 {
        match self {
            Tiles::Warps => 128,
            Tiles::Warpgroups(width) => width,
        }
    }

    /// Shared memory of a block: steps of 64 values in bf16, two of both factors, or three of weights and four of activations.
    fn shared(self) -> u32 {
        let (of_weights, of_activations) = if self == Tiles::Warps { (2, 2) } else { (3, 4) };
        (of_weights * Tiles::ROWS + of_activations * self.columns()) * 64 * 2
    }

    fn kernel(self, ty: Type) -> String {
        let ty = ty.name().to_lowercase();
        match self {
            Tiles::Warps => format!("matmul_{ty}"),
            Tiles::Warpgroups(width) => format!("matmul_wgmma_{ty}_{width}"),
        }
    }
}

/// Many columns of activations times a matrix, on tensor cores: weights and activations are rounded to bf16.
#[derive(Debug, Clone, Copy)]
pub struct Matmul {
    /// Type of the weights.
    pub ty: Type,
    /// The matrix.
    pub w: Matrix,
    /// bf16 (columns, k).
    pub x: Address,
    /// Values in a row, a multiple of 32.
    pub k: u32,
    /// Rows of the matrix.
    pub rows: u32,
    /// Columns of activations.
    pub columns: u32,
    /// Which columns take which matrix, where there are several.
    pub experts: Option<Ordered>,
    /// [`Epilogue::Store`] or [`Epilogue::Add`].
    pub epilogue: Epilogue,
    /// f32 (columns, y_stride).
    pub y: Address,
    /// Distance of columns in y.
    pub y_stride: u32,
    /// How it is cut.
    pub tiles: Tiles,
}

impl Matmul {
    /// The same in the tiles that are best on a device.
    pub fn on(self, properties: &Properties) -> Matmul {
        let experts = self.experts.map_or(1, |of| of.experts);
        Matmul { tiles: Tiles::of(properties, self.rows, self.columns, experts), ..self }
    }

    /// Its launch.
    ///
    /// # Errors
    /// There is no kernel for the type or the epilogue, or rows are not whole blocks.
    pub fn launch(&self) -> Result<Launch, Error> {
        self.launch_of(self.columns)
    }

    /// The same where no matrix takes more than `most` of the columns: fewer blocks find nothing to do.
    ///
    /// # Errors
    /// Those of [`Matmul::launch`].
    pub fn launch_of(&self, most: u32) -> Result<Launch, Error> {
        let Matmul { ty, k, rows, columns, .. } = *self;
        let row_bytes = ty.row_bytes(k as usize).map(|bytes| bytes as u64);
        let Some(row_bytes) = row_bytes.filter(|_| k > 0 && k.is_multiple_of(32)) else {
            return Err(Error::Operands(format!("rows of {k} values in {ty}")));
        };
        let (add, factor) = match self.epilogue {
            Epilogue::Store => (0, 1.0),
            Epilogue::Add(factor) => (1, factor),
            other => return Err(Error::Operands(format!("{other:?} of many columns"))),
        };
        let none = Ordered { order: Address::NONE, starts: Address::NONE, experts: 1, rows: 0, share: 1 };
        let experts = self.experts.unwrap_or(none);
        let args: [Arg; 16] = [
            self.w.data.into(),
            self.w.scale.into(),
            self.w.bias.into(),
            row_bytes.into(),
            self.x.into(),
            k.into(),
            rows.into(),
            columns.into(),
            experts.order.into(),
            experts.starts.into(),
            experts.rows.into(),
            experts.share.into(),
            Arg::U32(add),
            factor.into(),
            self.y.into(),
            self.y_stride.into(),
        ];
        let most = if self.experts.is_some() { most } else { columns };
        let tiles = self.tiles;
        let grid = [most.div_ceil(tiles.columns()), rows.div_ceil(Tiles::ROWS), experts.experts];
        Launch::new(&tiles.kernel(ty), grid, 256, tiles.shared(), &args)
    }
}

/// Whether products with weights of this type take quantized activations.
pub fn takes_q8(ty: Type) -> bool {
    ty.scalar().is_some_and(|scalar| matches!(scalar.dot, Dot::Q8(_)))
}
